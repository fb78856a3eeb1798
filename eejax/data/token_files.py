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
"""A text as token ids in files, for corpora that do not fit in memory.

tokens.json              written last: whose tokens these are, and how many
train-00000.tokens.npy   ids of one document after another, 16 or 32 bits
train-00000.ends.npy     where each document ends among them, 64 bits
validation-... test-...  the same of the parts that are held out

The arrays are NumPy's files, mapped and not read: a document costs what is
taken of it, and any document is found at once.
"""

import dataclasses
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eejax import cache_folders, serialization, storage, store_folder
from eejax.data.corpus import Split
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError, EejaxError
from eejax.storage import AnyPath
from eejax.types import Int, Integer

MANIFEST = 'tokens.json'
# A file is begun anew after so many tokens, which are held in memory.
SHARD_TOKENS = 2**22
_FORMAT = 1
_PARTS = {
  Split.TRAIN: (Split.TRAIN,),
  Split.VALIDATION: (Split.VALIDATION,),
  Split.TEST: (Split.TEST,),
  Split.HELD_OUT: (Split.VALIDATION, Split.TEST),
  Split.ALL: (Split.TRAIN, Split.VALIDATION, Split.TEST),
}


def write(
  folder: str | os.PathLike,
  read: Callable[[Split], Iterable[Int[np.ndarray, '_']]],
  *,
  tokenizer: Tokenizer,
  settings: Mapping[str, Any],
) -> AnyPath:
  """Write the tokens of a text, a shard in memory at a time.

  Args:
    folder: where they go, here or in a store; nothing may be there, but for
      what another process has written of the same text in the meantime.
    read: returns the documents of a part as token ids.
    tokenizer: they were made with.
    settings: plain values that decide what the documents are.

  Returns:
    The folder.

  Raises:
    ArgumentError: something else is there.
  """
  folder = storage.absolute(folder)
  beside = None if storage.is_remote(folder) else folder.parent
  if beside is not None:
    beside.mkdir(parents=True, exist_ok=True)
  made = pathlib.Path(tempfile.mkdtemp(prefix='.tokens-', dir=beside))
  try:
    parts = {
      part.value: _write_part(made, part, read(part), tokenizer.vocab_size)
      for part in (Split.TRAIN, Split.VALIDATION, Split.TEST)
    }
    described = {
      'format': _FORMAT,
      'tokenizer': tokenizer.fingerprint,
      'settings': dict(settings),
      'parts': parts,
    }
    serialization.write_json(made / MANIFEST, described)
    _move(made, folder)
  finally:
    shutil.rmtree(made, ignore_errors=True)
  return folder


def _move(made: pathlib.Path, folder: AnyPath) -> None:
  if storage.is_remote(folder):
    with storage.reported(folder, what='written'):
      if (folder / MANIFEST).exists():
        raise ArgumentError(f'{folder} is not empty; name another folder.')
      store_folder.publish(made, folder, marker=MANIFEST)
    return
  try:
    os.rename(made, folder)
  except OSError as error:
    if not (folder / MANIFEST).is_file():
      raise ArgumentError(
        f'{folder} is not empty; name another folder.'
      ) from error


def _write_part(
  folder: pathlib.Path,
  part: Split,
  documents: Iterable[np.ndarray],
  vocab_size: int,
) -> list[dict[str, Any]]:
  """Write the shards of a part, and return what the manifest says of them."""
  dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
  shards = []
  for number, held in enumerate(_shards(documents)):
    tokens = np.concatenate(held, dtype=dtype, casting='unsafe')
    ends = np.cumsum([len(document) for document in held], dtype=np.int64)
    digest = hashlib.blake2b(digest_size=8)
    files = {}
    for kind, array in (('tokens', tokens), ('ends', ends)):
      name = f'{part.value}-{number:05}.{kind}.npy'
      np.save(folder / name, array)
      files[name] = (folder / name).stat().st_size
      digest.update(array.data)
    shards.append({'files': files, 'digest': digest.hexdigest()})
  return shards


def _shards(documents: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
  held: list[np.ndarray] = []
  size = 0
  for document in documents:
    held.append(document)
    size += len(document)
    if size >= SHARD_TOKENS:
      yield held
      held, size = [], 0
  if held:
    yield held


@dataclasses.dataclass(frozen=True)
class TokenFiles:
  """The documents of a part of a text, in files.

  Attributes:
    tokens: of each shard, one document after another.
    ends: of each shard, where its documents end.
    fingerprint: of all.
  """

  tokens: tuple[Integer[np.ndarray, '_'], ...]
  ends: tuple[Int[np.ndarray, '_'], ...]
  fingerprint: str


def open_files(
  folder: str | os.PathLike, split: Split, *, tokenizer: Tokenizer
) -> TokenFiles:
  """Map the files of a part; those in a store are fetched first.

  Raises:
    ArgumentError: there are none, or they were made with another tokenizer.
    EejaxError: a file is missing, cut short or otherwise broken.
  """
  path = storage.as_path(folder)
  values = serialization.read_object(path / MANIFEST, what='tokens')
  if values.get('format') != _FORMAT:
    raise ArgumentError(
      f'{path} has tokens of another version of eejax; make them again.'
    )
  if values['tokenizer'] != tokenizer.fingerprint:
    raise ArgumentError(
      f"{path} has tokens of another tokenizer than the model's; make them "
      'again with this one.'
    )
  shards = [s for part in _PARTS[split] for s in values['parts'][part.value]]
  sizes = {n: size for shard in shards for n, size in shard['files'].items()}
  if storage.is_remote(path):
    path = _fetched(path, sizes)
  arrays = {name: _mapped(path / name, size) for name, size in sizes.items()}
  digests = ' '.join(shard['digest'] for shard in shards)
  return TokenFiles(
    tokens=tuple(x for name, x in arrays.items() if '.tokens.' in name),
    ends=tuple(x for name, x in arrays.items() if '.ends.' in name),
    fingerprint=hashlib.blake2b(digests.encode(), digest_size=8).hexdigest(),
  )


def fingerprint(folder: str | os.PathLike) -> str:
  """Return what changes when the tokens in a folder have changed.

  Raises:
    ArgumentError: there are none.
  """
  path = storage.as_path(folder) / MANIFEST
  values = serialization.read_object(path, what='tokens')
  return hashlib.sha256(serialization.dumps(values).encode()).hexdigest()


def _mapped(file: AnyPath, size: int) -> np.ndarray:
  try:
    held = file.stat().st_size
    if held == size:
      return np.load(file, mmap_mode='r')
  except OSError as error:
    raise EejaxError(
      f'{file} cannot be read ({error.strerror}); make the tokens again.'
    ) from error
  except ValueError as error:
    raise EejaxError(f'{file} is broken; make the tokens again.') from error
  raise EejaxError(
    f'{file} has {held} bytes, not {size}; copy or make the tokens again.'
  )


def _fetched(path: AnyPath, sizes: Mapping[str, int]) -> AnyPath:
  """Return a local folder with the files that are asked for."""
  place = cache_folders.folder('tokens') / f'fetched-{fingerprint(path)[:16]}'
  with storage.reported(path, what='read'):
    for name, size in sizes.items():
      file = place / name
      if not file.is_file() or file.stat().st_size != size:
        partial = file.with_name(f'.{name}.{os.getpid()}')
        store_folder.copy_file(path / name, partial)
        os.replace(partial, file)
  return place


class TokenPieces(Sequence[Integer[np.ndarray, '_']]):
  """The documents of files, or their pieces, as views of what is mapped."""

  def __init__(self, files: TokenFiles, *, length: int | None):
    """Number the pieces.

    Args:
      files: the documents.
      length: predictions that a piece has at most, as `batches.pieces` cuts
        them; None leaves documents whole.
    """
    self._files = files
    self._length = length
    # Of each shard, how many pieces there are up to the end of each document.
    self._counts = [self._count(ends) for ends in files.ends]
    totals = [int(counts[-1]) if len(counts) else 0 for counts in self._counts]
    self._firsts = np.cumsum([0, *totals])

  def _count(self, ends: np.ndarray) -> np.ndarray:
    if self._length is None:
      return np.arange(1, len(ends) + 1)
    predictions = np.maximum(np.diff(ends, prepend=0) - 1, 1)
    return np.cumsum(-(-predictions // self._length))

  @property
  def longest(self) -> int:
    """Return the tokens of the longest document."""
    sizes = [np.diff(e, prepend=0).max() for e in self._files.ends if len(e)]
    return int(max(sizes, default=0))

  def __len__(self) -> int:
    return int(self._firsts[-1])

  def __getitem__(self, index: Any) -> Any:
    """Return one piece."""
    if not 0 <= index < len(self):
      raise IndexError(index)
    shard = int(np.searchsorted(self._firsts, index, side='right')) - 1
    index = int(index - self._firsts[shard])
    counts, ends = self._counts[shard], self._files.ends[shard]
    document = int(np.searchsorted(counts, index, side='right'))
    begin = int(ends[document - 1]) if document else 0
    end = int(ends[document])
    if self._length is not None:
      before = int(counts[document - 1]) if document else 0
      begin += (index - before) * self._length
      end = min(end, begin + self._length + 1)
    return self._files.tokens[shard][begin:end]
