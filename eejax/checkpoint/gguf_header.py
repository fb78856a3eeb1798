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
"""Parse the header of a GGUF file, believing none of its numbers.

Nothing is allocated for a count before the file is seen to be long enough for
it, and nothing beyond the file's end is read.
"""

import dataclasses
import mmap
import pathlib
import struct
from typing import Any

import numpy as np

from eejax.errors import CheckpointError

_MAGIC = b'GGUF'
_VERSIONS = (2, 3)
# Types of values -> how `struct` writes them.
_SCALARS = {
  0: '<B',
  1: '<b',
  2: '<H',
  3: '<h',
  4: '<I',
  5: '<i',
  6: '<f',
  7: '<?',
  10: '<Q',
  11: '<q',
  12: '<d',
}
_FLOAT32, _STRING, _ARRAY = 6, 8, 9
# The least that a key, a tensor's description, a string takes.
_LEAST_KEY, _LEAST_TENSOR, _LEAST_STRING = 13, 32, 8
_MOST_DIMENSIONS = 4


@dataclasses.dataclass(frozen=True)
class TensorInfo:
  """What a header says about a tensor.

  Attributes:
    name: of the tensor.
    dimensions: the fastest first.
    code: number of its type.
    offset: where its bytes begin after the header.
  """

  name: str
  dimensions: tuple[int, ...]
  code: int
  offset: int


@dataclasses.dataclass(frozen=True)
class Header:
  """What stands before the tensors of a file.

  Attributes:
    metadata: values by key.
    tensors: in the order of the file.
    end: where the header ends.
    size: of the whole file.
  """

  metadata: dict[str, Any]
  tensors: tuple[TensorInfo, ...]
  end: int
  size: int


def read_header(path: pathlib.Path) -> Header:
  """Return the header of a GGUF file.

  Raises:
    CheckpointError: the file is no GGUF, or broken.
  """
  try:
    with path.open('rb') as file:
      if not file.read(1):
        raise CheckpointError(f'{path} is empty.')
      with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Reader(path, data).header()
  except OSError as error:
    raise CheckpointError(
      f'{path} cannot be read: {error.strerror}.'
    ) from error


class _Reader:
  """Take values off a file, one after the other."""

  def __init__(self, path: pathlib.Path, data: mmap.mmap):
    self._path, self._data, self._at = path, data, 0
    self._size = len(data)

  def header(self) -> Header:
    """Return everything before the tensors."""
    self._check_magic()
    num_tensors, num_keys = self._number('<Q'), self._number('<Q')
    self._fits(num_keys, _LEAST_KEY, 'keys')
    self._fits(num_tensors, _LEAST_TENSOR, 'tensors')
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
      key = self._string()
      if key in metadata:
        raise self._broken(f'the key {key!r:.80} is there twice')
      metadata[key] = self._value(self._number('<I'), key)
    tensors = tuple(self._tensor() for _ in range(num_tensors))
    return Header(metadata, tensors, self._at, self._size)

  def _check_magic(self) -> None:
    if self._bytes(4) != _MAGIC:
      raise CheckpointError(f'{self._path} is no GGUF file.')
    version = self._number('<I')
    if version not in _VERSIONS:
      swapped = int.from_bytes(version.to_bytes(4, 'little'), 'big')
      if swapped in (1, *_VERSIONS):
        raise CheckpointError(
          f'{self._path} was written for a big-endian machine, which is not '
          'supported; convert the model again on this one.'
        )
      raise CheckpointError(
        f'{self._path} is of version {version} of GGUF; supported are 2 and 3.'
      )

  def _value(self, code: int, key: str) -> Any:
    if code == _STRING:
      return self._string()
    if code == _ARRAY:
      return self._array(key)
    if code not in _SCALARS:
      raise self._broken(f'the key {key!r:.80} has the unknown type {code}')
    value = self._number(_SCALARS[code])
    return _decimal(value) if code == _FLOAT32 else value

  def _array(self, key: str) -> list:
    code, count = self._number('<I'), self._number('<Q')
    if code == _STRING:
      self._fits(count, _LEAST_STRING, f'strings of {key!r:.80}')
      return [self._string() for _ in range(count)]
    if code not in _SCALARS:
      raise self._broken(f'{key!r:.80} is an array of the unknown type {code}')
    form = _SCALARS[code]
    size = struct.calcsize(form)
    self._fits(count, size, f'values of {key!r:.80}')
    return np.frombuffer(self._bytes(count * size), form).tolist()

  def _tensor(self) -> TensorInfo:
    name = self._string()
    count = self._number('<I')
    if not 1 <= count <= _MOST_DIMENSIONS:
      raise self._broken(f'the tensor {name!r:.80} has {count} dimensions')
    dimensions = tuple(self._number('<Q') for _ in range(count))
    if not all(0 < d < 2**40 for d in dimensions):
      raise self._broken(f'the tensor {name!r:.80} has shape {dimensions}')
    return TensorInfo(name, dimensions, self._number('<I'), self._number('<Q'))

  def _number(self, form: str) -> Any:
    return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

  def _string(self) -> str:
    length = self._number('<Q')
    try:
      return self._bytes(length).decode('utf-8')
    except UnicodeDecodeError as error:
      raise self._broken('a text of its header is not UTF-8') from error

  def _bytes(self, count: int) -> bytes:
    begin, self._at = self._at, self._at + count
    if self._at > self._size:
      raise self._broken('it ends inside its header')
    return self._data[begin : self._at]

  def _fits(self, count: int, least: int, what: str) -> None:
    if count * least > self._size - self._at:
      raise self._broken(f'it says that it has {count} {what}')

  def _broken(self, why: str) -> CheckpointError:
    return CheckpointError(
      f'{self._path} is no whole GGUF file: {why}; download or convert it '
      'again.'
    )


def _decimal(value: float) -> float:
  """Return the shortest decimal that is this float32, as people wrote it."""
  return float(str(np.float32(value)))
