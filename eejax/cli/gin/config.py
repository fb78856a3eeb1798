# Copyright 2026 The eejax Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     https://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Read gin files and bindings as T5X users type them.

A verb that is a gin run calls `add_gin_arguments` when it describes its flags
and `parse` when it runs, after importing the modules whose functions it makes
configurable. Everything gin complains about becomes an `ArgumentError`: the
first line of gin's message, and where gin found the fault.
"""

import argparse
import contextlib
import difflib
import logging
import pathlib
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from eejax import resources, storage
from eejax.errors import ArgumentError
from eejax.version import __version__

FLAG = '--gin.'
OPERATIVE_CONFIG = 'operative_config.gin'


def add_gin_arguments(
  parser: argparse.ArgumentParser,
  *,
  title: str = 'gin configuration',
  help: str = 'gin file of the run',
) -> None:
  """Add `--gin_file`, `--gin.NAME=VALUE` and `--gin_search_paths`.

  Args:
    parser: of the verb.
    title: of the group of these flags.
    help: what `--gin_file` is.
  """
  group = parser.add_argument_group(title)
  group.add_argument(
    '--gin_file',
    action='append',
    default=[],
    metavar='FILE',
    help=f'{help}; may be given several times, later ones win',
  )
  group.add_argument(
    '--gin_bindings',
    action='append',
    default=[],
    metavar='NAME=VALUE',
    help='one binding, best written --gin.NAME=VALUE; texts need quotes: '
    '--gin.NAME="\'text\'"',
  )
  group.add_argument(
    '--gin_search_paths',
    action='extend',
    type=lambda text: [part for part in text.split(',') if part],
    default=[],
    metavar='A,B',
    help='folders where gin files are looked for, after the working folder '
    "and before eejax's own gin folder",
  )


def rewrite_bindings(argv: Iterable[str]) -> list[str]:
  """Turn every `--gin.NAME=VALUE` into an option that argparse knows.

  Raises:
    ArgumentError: there is no `=`.
  """
  return [_rewrite(a) if a.startswith(FLAG) else a for a in argv]


def _rewrite(argument: str) -> str:
  name, equals, value = argument[len(FLAG) :].partition('=')
  if not name.strip() or not equals:
    raise ArgumentError(f'{argument} has no value; write {FLAG}NAME=VALUE.')
  return f'--gin_bindings={name.strip()}={value}'


def parse(args: argparse.Namespace, default_files: Sequence[str] = ()) -> None:
  """Set gin's global configuration from a verb's arguments.

  What an earlier call has set is forgotten. Later files and bindings win over
  earlier ones, bindings over files.

  Args:
    args: what the parser of `add_gin_arguments` returned.
    default_files: gin files to read when the user names none.

  Raises:
    ArgumentError: a file, a name or a value cannot be used; it is named.
  """
  import gin

  gin.clear_config()
  files = args.gin_file or list(default_files)
  found = [_find(file, args.gin_search_paths) for file in files]
  # A file may include its neighbours, wherever the run starts.
  folders = [*_folders(args.gin_search_paths), *(p.parent for p in found)]
  with _search_path(folders), _quiet():
    for path in found:
      _parse_file(path)
    known = _macros()
    for binding in args.gin_bindings:
      _parse_binding(binding)
    _refuse_unused_macros(args.gin_bindings, known)
    _refuse_missing_values()
    _finalize()


def call(name: str) -> Any:
  """Return what a configurable returns, called with what gin files say."""
  import gin

  with missing_values_named():
    return gin.get_configurable(name)()


@contextlib.contextmanager
def missing_values_named() -> Iterator[None]:
  """Turn gin's complaints about values nobody gave into `ArgumentError`.

  Wrap the call of a run's outermost configurable in it: gin notices only
  then that a required parameter has no value.
  """
  try:
    yield
  except (RuntimeError, TypeError) as error:
    line = _first_line(error)
    if not re.search('Required bindings|missing .* required .*argument', line):
      raise
    raise ArgumentError(
      f'{line}; give it as {FLAG}NAME.ARGUMENT=VALUE, or in a gin file.'
    ) from error


def operative_config() -> dict[str, str]:
  """Return every value used so far as a gin file, by the file's name.

  Call it when the run's configurables have been called: gin records a value
  when it is used. `--gin_file` reads it again.
  """
  import gin

  text = gin.operative_config_str()
  return {OPERATIVE_CONFIG: f'# Written by eejax {__version__}.\n\n{text}\n'}


# MARK: Files


def _folders(search_paths: Iterable[str]) -> list[pathlib.Path]:
  own = resources.folder('gin')
  return [pathlib.Path(), *map(storage.local_path, search_paths), own]


def _find(file: str, search_paths: Sequence[str]) -> pathlib.Path:
  folders = _folders(search_paths)
  for folder in folders:
    if (folder / file).is_file():
      return folder / file
  raise ArgumentError(_not_found(file, folders))


def _not_found(file: str, folders: Sequence[pathlib.Path]) -> str:
  searched = [str(f) if f.parts else 'the working folder' for f in folders]
  known = [p.name for f in folders for p in f.glob('*.gin')]
  own = folders[-1]
  shipped = [p.relative_to(own).as_posix() for p in own.rglob('*.gin')]
  # Those of t5x are for its own programs.
  known += [name for name in shipped if not name.startswith('t5x/')]
  return (
    f'there is no gin file {file!r} in {", ".join(searched)}'
    f'{_ending(file, known)}'
  )


@contextlib.contextmanager
def _search_path(folders: Iterable[pathlib.Path]) -> Iterator[None]:
  # `gin.add_config_file_search_path` only ever appends, so that one run in a
  # process would see the folders of the run before it.
  from gin import config

  before = list(config._LOCATION_PREFIXES)
  config._LOCATION_PREFIXES[:] = [str(folder) for folder in folders]
  try:
    yield
  finally:
    config._LOCATION_PREFIXES[:] = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  # gin tries a file that is not in a folder as a resource of a Python package
  # and logs an error for each try, though the next folder may have it.
  def is_ours(record: logging.LogRecord) -> bool:
    return record.module != 'resource_reader'

  root = logging.getLogger()
  root.addFilter(is_ours)
  try:
    yield
  finally:
    root.removeFilter(is_ours)


# MARK: Reading


def _parse_file(path: pathlib.Path) -> None:
  import gin

  try:
    gin.parse_config_file(str(path.absolute()))
  except SyntaxError as error:
    place = f'{error.filename or path}, line {error.lineno},'
    raise ArgumentError(
      f'{place} is not gin: {_last_line(error)}; texts stand in quotes.'
    ) from error
  except tokenize.TokenError as error:
    raise ArgumentError(f'{path} is not gin: {error.args[0]}.') from error
  except (ValueError, KeyError, ImportError, OSError) as error:
    raise ArgumentError(f'{path}: {_sentence(error)}') from error


def _parse_binding(binding: str) -> None:
  import gin

  name, _, value = map(str.strip, binding.partition('='))
  flag = f'{FLAG}{name}={value}'
  try:
    gin.parse_config(binding)
  except (SyntaxError, tokenize.TokenError) as error:
    raise ArgumentError(
      f'{flag} is not gin: {_last_line(error)}; a text needs quotes: '
      f'{FLAG}{name}="\'{value}\'".'
    ) from error
  except (ValueError, KeyError, ImportError, OSError) as error:
    raise ArgumentError(f'{flag}: {_sentence(error)}') from error


def _finalize() -> None:
  import gin

  try:
    gin.finalize()
  except (ValueError, RuntimeError) as error:
    raise ArgumentError(_sentence(error)) from error


def _sentence(error: Exception) -> str:
  """Return what gin says in its first line, and where."""
  places = re.findall(r'In file "(.+?)", line (\d+)', str(error))
  where = ''.join(f' ({file}, line {line})' for file, line in places[:1])
  return f'{_first_line(error)}{where}.'


def _first_line(error: Exception) -> str:
  text = str(error.args[0]) if error.args else str(error)
  return text.split('\n')[0].strip().rstrip('.: ') or 'it cannot be read'


def _last_line(error: Exception) -> str:
  return str(error.args[0]).strip().split('\n')[-1].strip().rstrip('.')


def _refuse_missing_values() -> None:
  """Refuse what a gin file requires and nobody gave."""
  import gin
  from gin import config

  for (scope, selector), values in config._CONFIG.items():
    for parameter, value in values.items():
      if value is not gin.REQUIRED and not _is_required(value):
        continue
      name = scope
      if selector != 'gin.macro':
        short = config._REGISTRY.minimal_selector(selector)
        name = '/'.join(filter(None, (scope, f'{short}.{parameter}')))
      raise ArgumentError(
        f'{name} must be given: {FLAG}{name}=VALUE, or a line in a gin file.'
      )


def _is_required(value: Any) -> bool:
  """Return whether a value is `%gin.REQUIRED` as a file writes it."""
  return getattr(value, 'scoped_selector', '') == 'gin.REQUIRED/gin.constant'


def _macros() -> set[str]:
  from gin import config

  return {
    scope for scope, selector in config._CONFIG if selector == 'gin.macro'
  }


def _refuse_unused_macros(bindings: Iterable[str], known: set[str]) -> None:
  """Refuse a macro that only the command line mentions: a mistyped name.

  gin would define it, and nothing would ever read it.
  """
  from gin import config

  used = {
    reference.scoped_selector.rpartition('/')[0]
    for reference in config.iterate_references(config._CONFIG)
    if reference.selector == 'gin.macro'
  }
  for binding in bindings:
    name = binding.partition('=')[0].strip()
    if '.' not in name and name not in used | known:
      raise ArgumentError(
        f'{FLAG}{name} sets a name that no gin file of this run uses'
        f'{_ending(name, used | known)}'
      )


def _ending(name: str, known: Iterable[str]) -> str:
  """Return the end of a sentence: the nearest of `known`, or a full stop."""
  close = difflib.get_close_matches(name, sorted(set(known)), n=1)
  return f'; did you mean {close[0]!r}?' if close else '.'
