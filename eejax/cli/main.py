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
"""Dispatch `eejax VERB ...` to the verb's module.

A verb's module is its name with `_` for `-` (`import` is `import_`, for
`import` is Python's) and has

  HELP: str                         one line, for `eejax --help`
  EXAMPLE: str                      a command line, shown by `--help`
  add_arguments(parser) -> None
  run(args) -> dict | None          the object that `--json` prints
  PASSES_ON: bool                   if true, `args.rest` has what is not known

It imports jax and the like inside `run`, so that help answers at once. Every
verb gets `--json` and `--quiet` here. `run` prints results for people with
`output.show` and notes with `output.say`.
"""

import argparse
import contextlib
import difflib
import errno
import importlib
import importlib.util
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NoReturn

from eejax import serialization
from eejax.cli import output
from eejax.cli.gin import config as gin_config
from eejax.cli.program_cache import keep_programs
from eejax.errors import ArgumentError, EejaxError
from eejax.progress import native_prints_on_stderr
from eejax.version import __version__

# In the order in which a person needs them; a verb that has no module yet is
# not shown.
VERBS = (
  'import',
  'export',
  'add-exits',
  'pretrain',
  'tune',
  'eval',
  'lm-eval',
  'probe',
  'analyse',
  'calibrate',
  'generate',
  'verify',
  'bench',
  'plan',
  'serve',
  'quickstart',
)

DEBUG_VARIABLE = 'EEJAX_DEBUG'

_INTERRUPTED = 130
_LONGEST = 600


def main(argv: Sequence[str] | None = None) -> int:
  """Run the command line and return its exit code.

  0 is success, 2 a wrong argument, 1 any other failure, 130 an interrupt.
  """
  argv = list(sys.argv[1:] if argv is None else argv)
  prog = 'eejax'
  try:
    if not argv or argv[0].startswith('-'):
      return _answer_without_verb(argv)
    name = argv[0]
    verb = _load(name)
    prog = f'eejax {name}'
    keep_programs()
    code = _run_verb(verb, prog, argv[1:])
    _leave_other_hosts(code, '')
    return code
  except SystemExit as exit:  # argparse, after --help
    return exit.code if isinstance(exit.code, int) else int(bool(exit.code))
  except BrokenPipeError:
    # Whoever read our output has closed it; Python would complain again when
    # it flushes at the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except (Exception, KeyboardInterrupt) as error:
    code, sentence = explain(error)
    if os.environ.get(DEBUG_VARIABLE):
      traceback.print_exc()
    print(f'{prog}: {sentence}', file=sys.stderr)
    _leave_other_hosts(code, sentence)
    return code


def _leave_other_hosts(code: int, sentence: str) -> None:
  """End a process that other hosts wait for, if it is one."""
  multihost = sys.modules.get('eejax.parallel.multihost')
  if multihost is not None:
    multihost.shutdown(code, sentence)


def explain(error: BaseException) -> tuple[int, str]:
  """Return the exit code and the sentence for what stopped a verb."""
  if isinstance(error, KeyboardInterrupt):
    return _INTERRUPTED, 'interrupted.'
  if isinstance(error, EejaxError):
    return error.exit_code, _own_words(error)
  if _is_disk_full(error):
    return 1, (
      f'the disk is full{_about_file(error)}; free some space and run the '
      'command again.'
    )
  if isinstance(error, OSError) and error.strerror:
    return 1, f'{error.strerror.lower()}{_about_file(error)}.'
  if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
    return 1, (
      'the memory does not suffice; use a smaller batch or a shorter context.'
    )
  return 1, (
    f'stopped by {type(error).__name__} ({_own_words(error).rstrip(".")}); '
    f'set {DEBUG_VARIABLE}=1 and run again to see where.'
  )


# MARK: Without a verb


def _answer_without_verb(argv: Sequence[str]) -> int:
  if not argv:
    print(_overview(), file=sys.stderr)
    return 2
  if argv[0] in ('-h', '--help'):
    print(_overview())
    return 0
  if argv[0] == '--version':
    print(f'eejax {__version__}')
    return 0
  raise ArgumentError(
    f'options come after the verb: eejax VERB {argv[0]} (eejax --help lists '
    'the verbs).'
  )


def _overview() -> str:
  verbs = [(name, _import(name).HELP) for name in available_verbs()]
  width = max((len(name) for name, _ in verbs), default=0)
  lines = [f'  {name.ljust(width)}  {text}' for name, text in verbs]
  return '\n'.join(
    [
      'usage: eejax VERB [ARGUMENTS]',
      '',
      'Early-exit language models: probe, add exits, tune, generate.',
      '',
      'verbs:',
      *lines,
      '',
      'eejax VERB --help describes a verb; eejax --version names the version.',
    ]
  )


def available_verbs() -> list[str]:
  """Return the verbs that have a module, in the order of `VERBS`."""
  return [
    name for name in VERBS if importlib.util.find_spec(_module_name(name))
  ]


def _module_name(verb: str) -> str:
  return (
    f'eejax.cli.{"import_" if verb == "import" else verb.replace("-", "_")}'
  )


def _import(verb: str) -> ModuleType:
  return importlib.import_module(_module_name(verb))


def _load(name: str) -> ModuleType:
  known = available_verbs()
  if name in known:
    return _import(name)
  near = difflib.get_close_matches(name, known, n=1)
  hint = f'did you mean {near[0]}?' if near else 'eejax --help lists the verbs.'
  raise ArgumentError(f'there is no verb {name!r}; {hint}')


# MARK: A verb


class _Parser(argparse.ArgumentParser):
  """Raise what is wrong as a sentence, with the words of our own checks."""

  def error(self, message: str) -> NoReturn:
    raise ArgumentError(f'{message} ({self.prog} --help tells more).')

  def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
    # argparse replaces the words of a ValueError by "invalid NAME value".
    try:
      return super()._get_value(action, arg_string)
    except argparse.ArgumentError as error:
      if isinstance(error.__context__, EejaxError):
        words = str(error.__context__).rstrip('.')
        raise argparse.ArgumentError(action, words) from error
      raise


def build_parser(verb: ModuleType, prog: str) -> argparse.ArgumentParser:
  """Return the parser of a verb's arguments."""
  parser = _Parser(
    prog=prog,
    description=verb.HELP,
    epilog=f'example:\n  {verb.EXAMPLE}',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  verb.add_arguments(parser)
  group = parser.add_argument_group('output')
  group.add_argument(
    '--json', action='store_true', help='print one JSON object on stdout'
  )
  group.add_argument(
    '--quiet', action='store_true', help='no notes and progress on stderr'
  )
  return parser


def _run_verb(verb: ModuleType, prog: str, argv: Sequence[str]) -> int:
  parser = build_parser(verb, prog)
  if parser.get_default('gin_bindings') is not None:
    argv = gin_config.rewrite_bindings(argv)
  if getattr(verb, 'PASSES_ON', False):
    args, rest = parser.parse_known_args(argv)
    args.rest = rest
  else:
    args = parser.parse_args(argv)
  quiet = output.Verbosity.QUIET if args.quiet else output.Verbosity.NORMAL
  output.set_verbosity(quiet)
  _hush_libraries()
  negative = None
  with contextlib.ExitStack() as stack:
    if args.json:
      stack.enter_context(_stdout_kept_clean())
    if args.quiet:
      stack.enter_context(warnings.catch_warnings())
      warnings.simplefilter('ignore', UserWarning)
    try:
      result = verb.run(args)
    except output.NegativeResult as found:
      result, negative = found.result, found
  if args.json:
    output.show(serialization.dumps(result or {}))
  sys.stdout.flush()
  if negative is not None:
    raise negative
  return 0


@contextlib.contextmanager
def _stdout_kept_clean() -> Iterator[None]:
  """Send what anyone prints to stderr, so that stdout holds JSON alone."""
  with native_prints_on_stderr(), contextlib.redirect_stdout(sys.stderr):
    yield


def _hush_libraries() -> None:
  # Orbax and seqio report their inner workings as warnings through absl.
  if os.environ.get(DEBUG_VARIABLE):
    return
  from absl import logging

  logging.set_verbosity(logging.ERROR)
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')


# MARK: Words


def _own_words(error: BaseException) -> str:
  """Return an error's message without what gin appends to it, on one line."""
  text = str(error).split('\n  In call to configurable')[0].strip()
  words = ' '.join(text.split()) or type(error).__name__
  return words if len(words) <= _LONGEST else f'{words[:_LONGEST]} ...'


def _is_disk_full(error: BaseException) -> bool:
  # Orbax and TensorStore wrap the system's error in their own.
  seen: BaseException | None = error
  while seen is not None:
    if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
      return True
    if os.strerror(errno.ENOSPC) in str(seen):
      return True
    seen = seen.__cause__ or seen.__context__
  return False


def _about_file(error: BaseException) -> str:
  name = getattr(error, 'filename', None)
  return f': {name}' if name else ''
