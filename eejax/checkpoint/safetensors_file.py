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
"""Read and write safetensors files, one tensor at a time.

A file is 8 bytes with the length of a JSON header (little endian), the header,
and raw row-major data; the header gives each tensor's dtype, shape and place.
The library's NumPy reader knows no bfloat16 and its writer wants every tensor
in memory at once, so both are done here.

Reference: the format's description in the safetensors README.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from eejax.errors import CheckpointError

_DTYPES: dict[str, np.dtype] = {
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
# The format's own limit, which keeps a broken length from filling the memory.
_MAX_HEADER = 100_000_000


@dataclasses.dataclass(frozen=True)
class Entry:
  """Describe a tensor to be written, and how to get at it."""

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def num_bytes(self) -> int:
    """Return the size of its data."""
    return math.prod(self.shape) * self.dtype.itemsize


class SafetensorsFile:
  """Read tensors from a file that is mapped into memory, not loaded."""

  def __init__(self, path: pathlib.Path):
    """Read the header of `path`.

    Raises:
      CheckpointError: the file is not safetensors, or is cut short.
    """
    self.path = path
    try:
      size = path.stat().st_size
      with path.open('rb') as file:
        length = int.from_bytes(file.read(8), 'little')
        if size < 8 or length > min(_MAX_HEADER, size - 8):
          raise ValueError('the header does not fit')
        header = json.loads(file.read(length))
      header.pop('__metadata__', None)
      self._start = 8 + length
      self._entries = {
        name: _Stored.parse(name, values, limit=size - self._start)
        for name, values in header.items()
      }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
      raise CheckpointError(
        f'{path} is not a whole safetensors file ({error}); copy or download '
        'it again.'
      ) from error
    self._bytes = np.memmap(path, np.uint8, mode='r') if size else None

  def __iter__(self) -> Iterator[str]:
    """Yield the names of the tensors."""
    return iter(self._entries)

  def shape(self, name: str) -> tuple[int, ...]:
    """Return the shape of a tensor."""
    return self._entries[name].shape

  def dtype(self, name: str) -> np.dtype:
    """Return the dtype of a tensor.

    Raises:
      CheckpointError: it is not supported.
    """
    code = self._entries[name].code
    if code not in _DTYPES:
      raise CheckpointError(
        f'{self.path}: {name} has dtype {code}, which is not supported; '
        f'supported are {", ".join(_DTYPES)}.'
      )
    return _DTYPES[code]

  def tensor(self, name: str) -> np.ndarray:
    """Return a tensor as a read-only view of the file.

    Raises:
      CheckpointError: its dtype is not supported.
    """
    stored, dtype = self._entries[name], self.dtype(name)
    if math.prod(stored.shape) * dtype.itemsize != stored.end - stored.begin:
      raise CheckpointError(
        f'{self.path}: {name} of shape {stored.shape} and dtype {stored.code} '
        f'has {stored.end - stored.begin} bytes; copy or download it again.'
      )
    assert self._bytes is not None
    begin, end = self._start + stored.begin, self._start + stored.end
    # Plain ndarray: a view of a memmap costs a Python call on every slice.
    data = np.asarray(self._bytes[begin:end])
    return data.view(dtype).reshape(stored.shape)


def write_safetensors(path: pathlib.Path, entries: Sequence[Entry]) -> None:
  """Write tensors into a new file, each read just before it is written.

  Raises:
    CheckpointError: a dtype has no place in the format.
  """
  header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  begin = 0
  for entry in entries:
    if entry.dtype not in _CODES:
      raise CheckpointError(
        f'{entry.name} has dtype {entry.dtype}, which is not written; convert '
        'it to float32, float16 or bfloat16 first.'
      )
    end = begin + entry.num_bytes
    header[entry.name] = {
      'dtype': _CODES[entry.dtype],
      'shape': list(entry.shape),
      'data_offsets': [begin, end],
    }
    begin = end
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)  # data starts aligned
  with path.open('xb') as file:
    file.write(len(text).to_bytes(8, 'little'))
    file.write(text)
    for entry in entries:
      array = np.ascontiguousarray(entry.read())
      assert (array.shape, array.dtype) == (entry.shape, entry.dtype)
      file.write(array.reshape(-1).view(np.uint8).data)


@dataclasses.dataclass(frozen=True)
class _Stored:
  code: str
  shape: tuple[int, ...]
  begin: int
  end: int

  @classmethod
  def parse(cls, name: str, values: dict[str, Any], *, limit: int) -> '_Stored':
    begin, end = values['data_offsets']
    if not 0 <= begin <= end <= limit:
      raise ValueError(f'the data of {name} does not fit')
    return cls(values['dtype'], tuple(values['shape']), begin, end)
