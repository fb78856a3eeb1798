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
"""Read files of torch.save without torch and without running their pickle.

Since torch 1.6 such a file is a zip archive, nothing in it compressed:

  NAME/data.pkl    the values, with a description of every tensor
  NAME/data/0 ...  the numbers of the tensors
  NAME/byteorder   'little'; older versions write none

Tensors are views of the file, read when they are used.
"""

import pathlib
import struct
import zipfile
from typing import Any

import numpy as np

from eejax.checkpoint import torch_pickle
from eejax.checkpoint.torch_tensor import StoredTensor
from eejax.errors import CheckpointError

_LOCAL_HEADER = struct.Struct('<4s22xHH')
_LOCAL_MAGIC = b'PK\x03\x04'
_MAX_DEPTH = 64
# What reading an archive raises that is none.
_DAMAGE = (
  *(OSError, EOFError, ValueError, RuntimeError, struct.error),
  zipfile.BadZipFile,
)


def read_torch_file(path: pathlib.Path) -> Any:
  """Return the values of a file, its tensors as read-only NumPy arrays.

  An `argparse.Namespace` is a dict; what is no plain value is a `NotRead`.

  Raises:
    CheckpointError: the file cannot be read, is cut short, or its pickle names
      what no tensor needs.
  """
  return _Archive(path).read()


class _Archive:
  """The zip archive of one file."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    try:
      with zipfile.ZipFile(path) as archive:
        self._members = {info.filename: info for info in archive.infolist()}
        self._root = self._find_root()
        self._pickle = archive.read(f'{self._root}/data.pkl')
        order = self._members.get(f'{self._root}/byteorder')
        little = order is None or archive.read(order)[:6] == b'little'
    except _DAMAGE as error:
      raise self._broken(str(error)) from error
    if not little:
      raise CheckpointError(
        f'{path} was written on a big-endian machine; load and save it with '
        'torch on another one.'
      )
    self._bytes = np.memmap(path, np.uint8, mode='r')
    self._arrays: dict[str, np.ndarray] = {}
    self._copies: dict[int, tuple[Any, Any]] = {}

  def read(self) -> Any:
    """Return the values with arrays in place of tensors."""
    return self._with_arrays(
      torch_pickle.loads(self._pickle, name=str(self._path)), depth=0
    )

  def _find_root(self) -> str:
    found = [
      name.removesuffix('/data.pkl')
      for name in self._members
      if name.endswith('/data.pkl') and name.count('/') == 1
    ]
    if len(found) != 1:
      raise self._broken('it has no data.pkl')
    for name in ('data.pkl', 'byteorder'):
      if info := self._members.get(f'{found[0]}/{name}'):
        self._check_stored(info)
    return found[0]

  def _check_stored(self, info: zipfile.ZipInfo) -> None:
    if info.compress_type != zipfile.ZIP_STORED:
      raise self._broken(f'{info.filename} is compressed')

  def _with_arrays(self, value: Any, *, depth: int) -> Any:
    """Return a copy of plain values with arrays in place of tensors."""
    if isinstance(value, StoredTensor):
      return self._array(value)
    if not isinstance(value, (dict, list, tuple)):
      return value
    if depth > _MAX_DEPTH:
      raise self._broken('its values are nested too deeply')
    # A value that stands in many places is copied once.
    if id(value) not in self._copies:
      convert = lambda v: self._with_arrays(v, depth=depth + 1)
      if isinstance(value, dict):
        copy: Any = {k: convert(v) for k, v in value.items()}
      else:
        copy = type(value)(map(convert, value))
      # Kept beside its original, whose id must not pass to another value.
      self._copies[id(value)] = value, copy
    return self._copies[id(value)][1]

  def _array(self, tensor: StoredTensor) -> np.ndarray:
    storage = tensor.storage
    numbers = self._numbers(storage.key)
    size = storage.size * storage.dtype.itemsize
    if len(numbers) < size:
      raise self._broken(f'the numbers of data/{storage.key} are too few')
    try:
      return np.lib.stride_tricks.as_strided(
        numbers[:size].view(storage.dtype)[tensor.offset :],
        shape=tensor.shape,
        strides=[n * storage.dtype.itemsize for n in tensor.strides],
        writeable=False,
      )
    except (ValueError, OverflowError) as error:
      raise self._broken(
        f'a tensor has an impossible shape: {error}'
      ) from error

  def _numbers(self, key: str) -> np.ndarray:
    """Return the bytes of one member as a view of the file."""
    if key not in self._arrays:
      info = self._members.get(f'{self._root}/data/{key}')
      if info is None:
        raise self._broken(f'data/{key} is missing')
      self._check_stored(info)
      begin = info.header_offset + _LOCAL_HEADER.size
      header = self._bytes[info.header_offset : begin].tobytes()
      if len(header) < _LOCAL_HEADER.size:
        raise self._broken(f'data/{key} is missing')
      magic, name_size, extra_size = _LOCAL_HEADER.unpack(header)
      begin += name_size + extra_size
      end = begin + info.file_size
      if magic != _LOCAL_MAGIC or end > len(self._bytes):
        raise self._broken(f'data/{key} does not fit')
      # Plain ndarray: a view of a memmap costs a Python call on every slice.
      self._arrays[key] = np.asarray(self._bytes[begin:end])
    return self._arrays[key]

  def _broken(self, reason: str) -> CheckpointError:
    return CheckpointError(
      f'{self._path} is not a whole file of torch.save as torch 1.6 and later '
      f'write it ({reason}); copy or download it again.'
    )
