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
import re
import sysconfig
from collections.abc import Iterable, Iterator

from eejax.data.conversations import (
  MESSAGES,
  Conversation,
  parse_conversations,
)
from eejax.errors import ArgumentError, EejaxError


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
  root = pathlib.Path(root or sysconfig.get_paths()['stdlib'])
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


def find_files(pattern: str | pathlib.Path) -> list[pathlib.Path]:
  """Return the files that a path, a folder or a glob means, in order.

  A folder means the .txt and .jsonl files anywhere below it. A glob (`**` goes
  into subfolders) or a path may name files of any kind.

  Raises:
    ArgumentError: there is no such file.
  """
  path = pathlib.Path(pattern).expanduser()
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


def read_documents(
  pattern: str | pathlib.Path,
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
  pattern: str | pathlib.Path,
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
      if pathlib.Path(pattern).expanduser().is_dir():
        continue
      raise ArgumentError(
        f'{file} is no .jsonl file; conversations are JSON with messages, one '
        'a line.'
      )
    content = _decode(file)
    for conversation in parse_conversations(content, path=file, field=field):
      if _belongs(conversation.key, split):
        yield conversation


def _text_documents(file: pathlib.Path, *, unit: TextUnit) -> list[str]:
  text = _decode(file)
  if unit is TextUnit.FILE:
    return [text]
  if unit is TextUnit.PARAGRAPH:
    return re.split(r'\n[ \t]*(?:\n[ \t]*)+', text.strip('\n'))
  return text.split('\n')


def _jsonl_documents(file: pathlib.Path, *, field: str) -> Iterator[str]:
  for number, line in enumerate(_decode(file).split('\n'), start=1):
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


def _decode(file: pathlib.Path) -> str:
  """Return the text of a file, its line ends turned into line feeds."""
  try:
    # Not utf-8-sig, whose errors count from behind the mark it takes off.
    text = file.read_bytes().decode('utf-8').removeprefix('\ufeff')
  except UnicodeDecodeError as error:
    raise EejaxError(
      f'{file} is not UTF-8 text: byte {error.start} is wrong; convert it or '
      'leave it out.'
    ) from error
  except OSError as error:
    raise EejaxError(f'{file} cannot be read: {error.strerror}.') from error
  return text.replace('\r\n', '\n')
