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
"""Text that a machine has: the Python standard library and the user's files."""

import enum
import glob
import hashlib
import json
import os
import pathlib
import sysconfig
from collections.abc import Iterable, Iterator

from eejax import storage, store_folder
from eejax.data.conversations import (
  MESSAGES,
  Conversation,
  parse_conversations,
)
from eejax.errors import ArgumentError, EejaxError
from eejax.storage import AnyPath


class Split(enum.Enum):
  """Which part of a corpus: 90, 5 and 5 percent of it, the last two, or all."""

  TRAIN = 'train'
  VALIDATION = 'validation'
  TEST = 'test'
  HELD_OUT = 'held_out'
  ALL = 'all'


class TextUnit(enum.Enum):
  """What one document of a text file is.

  FILE          the whole file
  PARAGRAPH     what stands between blank lines
  LINE          a line
  CONVERSATION  messages of a .jsonl or .json file; the assistant's turns alone
                are learned
  """

  FILE = 'file'
  PARAGRAPH = 'paragraph'
  LINE = 'line'
  CONVERSATION = 'conversation'


# Folders of the standard library that are no code to learn from: packages of
# the user's, tests, tables made by programs, files of one machine.
_SKIPPED_FOLDERS = frozenset(
  (
    'site-packages',
    'dist-packages',
    'test',
    'tests',
    'idle_test',
    'encodings',
    'pydoc_data',
    '__pycache__',
  )
)
_SKIPPED_PREFIXES = ('_sysconfigdata', 'config-')


def split_of(key: str) -> Split:
  """Return the part that `key` falls into, the same on every machine."""
  digest = hashlib.blake2b(key.encode('utf-8'), digest_size=8).digest()
  percent = int.from_bytes(digest, 'little') % 100
  if percent < 90:
    return Split.TRAIN
  return Split.VALIDATION if percent < 95 else Split.TEST


def standard_library_files(
  split: Split = Split.ALL, *, root: str | pathlib.Path | None = None
) -> list[pathlib.Path]:
  """Return the files of the running Python's standard library, in order.

  A file's part depends on its path inside the library alone, so a module is
  held out on every machine or on none.

  Args:
    split: which part.
    root: where the library is; None asks the running Python.

  Raises:
    EejaxError: this Python has no source files of its library.
  """
  root = storage.local_path(root or sysconfig.get_paths()['stdlib'])
  names = []
  for folder, subfolders, files in os.walk(root):
    subfolders[:] = [s for s in subfolders if not _skipped(s)]
    names += [
      (pathlib.Path(folder) / f).relative_to(root).as_posix()
      for f in files
      if f.endswith('.py') and not _skipped(f)
    ]
  if not names:
    raise EejaxError(
      f'this Python has no source files of its standard library in {root}; '
      'give text files of your own as the corpus.'
    )
  return [root / name for name in sorted(names) if _belongs(name, split)]


def _skipped(name: str) -> bool:
  return name in _SKIPPED_FOLDERS or name.startswith(_SKIPPED_PREFIXES)


def _belongs(key: str, split: Split) -> bool:
  if split is Split.HELD_OUT:
    return split_of(key) is not Split.TRAIN
  return split is Split.ALL or split_of(key) is split


def standard_library_documents(
  split: Split = Split.ALL, *, root: str | pathlib.Path | None = None
) -> Iterator[str]:
  """Return the library's files as texts, without empty and undecodable ones."""
  for file in standard_library_files(split, root=root):
    try:
      text = _decode(file)
    except EejaxError:
      continue
    if text.strip():
      yield text


def find_files(pattern: str | os.PathLike) -> list[AnyPath]:
  """Return the files that a path, a folder or a glob means, in order.

  A folder means the .txt and .jsonl files anywhere below it. A glob (`**` goes
  into subfolders) or a path may name files of any kind. All may be in a store.

  Raises:
    ArgumentError: there is no such file.
    StoreError: the store refuses, or is not there.
  """
  if storage.is_remote(pattern):
    path = storage.as_path(pattern)
    with storage.reported(path, what='read'):
      return _stored_files(path)
  path = storage.local_path(pattern).expanduser()
  if path.is_file():
    return [path]
  if path.is_dir():
    found = [f for f in path.rglob('*') if f.suffix in ('.txt', '.jsonl')]
    missing = f'the folder {pattern} holds no .txt or .jsonl file.'
  else:
    found = [pathlib.Path(f) for f in glob.glob(str(path), recursive=True)]
    missing = f'there is no file {pattern}; check the path.'
  files = sorted(f for f in found if f.is_file())
  if not files:
    raise ArgumentError(missing)
  return files


def _stored_files(path: AnyPath) -> list[AnyPath]:
  if any(letter in str(path) for letter in '*?['):
    found = sorted(store_folder.glob(path))
  elif path.is_dir():
    names = store_folder.list_files(path)
    found = [path / n for n in names if n.endswith(('.txt', '.jsonl'))]
  else:
    found = [path] if path.exists() else []
  if not found:
    raise ArgumentError(f'there is no text at {path}; check the address.')
  return found


def read_documents(
  pattern: str | os.PathLike,
  *,
  unit: TextUnit = TextUnit.FILE,
  field: str = 'text',
  split: Split = Split.ALL,
) -> Iterator[str]:
  """Return the documents of the user's files; those without text are left out.

  A document's part depends on its own text alone, so equal documents never
  stand on both sides of a split.

  Args:
    pattern: a file, folder or glob, see `find_files`.
    unit: what one document is in files that are not .jsonl.
    field: where the text is in each object of a .jsonl file.
    split: which part.

  Raises:
    ArgumentError: a file, the field or any text is missing.
    EejaxError: a file is not UTF-8 or not JSON.
  """
  empty = True
  for file in find_files(pattern):
    documents: Iterable[str]
    if file.suffix == '.jsonl':
      documents = _jsonl_documents(file, field=field)
    else:
      documents = _text_documents(file, unit=unit)
    for text in documents:
      if text.strip():
        empty = False
        if _belongs(text, split):
          yield text
  if empty:
    raise ArgumentError(f'{pattern} holds no text.')


def read_conversations(
  pattern: str | os.PathLike,
  *,
  field: str = MESSAGES,
  split: Split = Split.ALL,
) -> Iterator[Conversation]:
  """Return the conversations of the user's files; see `data.conversations`.

  A conversation's part depends on its messages alone.

  Args:
    pattern: a .jsonl or .json file, a folder or glob, see `find_files`.
    field: where the messages are in each object.
    split: which part.

  Raises:
    ArgumentError: a file or conversation is missing, or one cannot be read.
    EejaxError: a file is not UTF-8.
  """
  for file in find_files(pattern):
    if file.suffix not in ('.jsonl', '.json'):
      if storage.as_path(pattern).expanduser().is_dir():
        continue
      raise ArgumentError(
        f'{file} is no .jsonl file; conversations are JSON with messages, one '
        'a line.'
      )
    content = _decode(file)
    for conversation in parse_conversations(content, path=file, field=field):
      if _belongs(conversation.key, split):
        yield conversation


def _text_documents(file: AnyPath, *, unit: TextUnit) -> Iterable[str]:
  if unit is TextUnit.FILE:
    return [_decode(file)]
  lines = _lines(file)
  return _paragraphs(lines) if unit is TextUnit.PARAGRAPH else lines


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
  """Yield what stands between blank lines, a paragraph in memory at a time.

  The blanks at the beginning of a paragraph belong to what parts it from the
  one before.
  """
  held: list[str] = []
  blank: list[str] = []
  for line in lines:
    if not line and not held:
      continue  # an empty line before all else
    if held and not line.strip(' \t'):
      blank.append(line)
    elif blank:
      yield '\n'.join(held)
      held, blank = [line.lstrip(' \t')], []
    else:
      held.append(line)
  while blank and not blank[-1]:
    blank.pop()
  # One line of blanks at the end parts nothing.
  yield '\n'.join(held + blank if len(blank) == 1 else held)


def _jsonl_documents(file: AnyPath, *, field: str) -> Iterator[str]:
  for number, line in enumerate(_lines(file), start=1):
    if not line.strip():
      continue
    where = f'{file}, line {number},'
    try:
      value = json.loads(line)
    except ValueError as error:
      raise EejaxError(f'{where} is not JSON: {error}.') from error
    if not isinstance(value, dict):
      raise EejaxError(f'{where} is not a JSON object.')
    if field not in value:
      known = ', '.join(value) or 'none'
      raise ArgumentError(
        f'{where} has no field {field!r} (it has: {known}); name the field '
        'that holds the text.'
      )
    if not isinstance(value[field], str):
      raise ArgumentError(f'{where} has no text in its field {field!r}.')
    yield value[field]


def _lines(file: AnyPath) -> Iterator[str]:
  """Yield the lines of a file without their ends, one in memory at a time."""
  first = 0
  try:
    with file.open('rb') as opened:
      for line in opened:
        end = b'\r\n' if line.endswith(b'\r\n') else b'\n'
        text = line.removesuffix(end).decode('utf-8')
        # Not utf-8-sig, whose errors count from behind the mark it takes off.
        yield text if first else text.removeprefix('\ufeff')
        first += len(line)
  except UnicodeDecodeError as error:
    raise _not_utf8(file, first + error.start) from error
  except storage.failures() as error:
    raise _not_read(file, error) from error


def _decode(file: AnyPath) -> str:
  """Return the text of a file, its line ends turned into line feeds."""
  try:
    text = file.read_bytes().decode('utf-8').removeprefix('\ufeff')
  except UnicodeDecodeError as error:
    raise _not_utf8(file, error.start) from error
  except storage.failures() as error:
    raise _not_read(file, error) from error
  return text.replace('\r\n', '\n')


def _not_utf8(file: AnyPath, byte: int) -> EejaxError:
  return EejaxError(
    f'{file} is not UTF-8 text: byte {byte} is wrong; convert it or leave it '
    'out.'
  )


def _not_read(file: AnyPath, error: Exception) -> EejaxError:
  words = getattr(error, 'strerror', None) or storage.reason(error)
  return EejaxError(f'{file} cannot be read: {words}.')
