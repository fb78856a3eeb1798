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
"""Read GGUF files: their metadata at once, their tensors one at a time.

A file is `GGUF`, a version, the numbers of tensors and of keys, the keys with
typed values, a description of each tensor, and the tensors' bytes from an
aligned place on. All of it comes from anywhere, so every length is compared
with what the file has before anything is made of it.

Reference: docs/gguf.md of ggml.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from eejax.checkpoint.gguf_header import Header, TensorInfo
from eejax.checkpoint.gguf_split import read_parts
from eejax.errors import CheckpointError, EejaxError

T = TypeVar('T')

# What is read as it is stored; everything else becomes float32.
_PLAIN: dict[str, np.dtype] = {
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
}
_DEFAULT_ALIGNMENT = 32
# That are dequantised at once.
_ROWS = 4096


def library() -> Any:
  """Return the package `gguf`, which knows the kinds of quantisation.

  Raises:
    EejaxError: it is not installed.
  """
  try:
    import gguf
  except ImportError as error:
    raise EejaxError(
      'a GGUF file needs the package gguf: pip install eejax[gguf].'
    ) from error
  return gguf


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
  """Describe one tensor, and read it.

  Attributes:
    name: as the file calls it.
    kind: the name of its type, such as `F32` or `Q4_K`.
    shape: as NumPy has it, which is the file's dimensions backwards.
    path: the file.
    begin: where its bytes begin.
    num_bytes: how many there are.
  """

  name: str
  kind: str
  shape: tuple[int, ...]
  path: pathlib.Path
  begin: int
  num_bytes: int

  @property
  def dtype(self) -> np.dtype:
    """Return the dtype that `read` returns."""
    return _PLAIN.get(self.kind, np.dtype(np.float32))

  def read(self) -> np.ndarray:
    """Return the tensor, dequantised where it is quantised.

    Raises:
      CheckpointError: the file is no longer as it was.
    """
    with self.path.open('rb') as file:
      stored = np.fromfile(file, np.uint8, self.num_bytes, offset=self.begin)
    if stored.size < self.num_bytes:
      raise CheckpointError(f'{self.path} was cut short while it was read.')
    if self.kind in _PLAIN:
      return stored.view(self.dtype).reshape(self.shape)
    gguf = library()
    kind = gguf.GGMLQuantizationType[self.kind]
    rows = stored.reshape(math.prod(self.shape[:-1]), -1)
    values = np.empty((len(rows), self.shape[-1]), np.float32)
    # A part at a time, for gguf keeps two copies of what it is given.
    for start in range(0, len(rows), _ROWS):
      part = slice(start, start + _ROWS)
      values[part] = gguf.dequantize(rows[part], kind)
    return values.reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class GGUFFile:
  """What a GGUF file holds, all its parts together.

  Attributes:
    path: the file, or its first part.
    metadata: values by key.
    tensors: by name.
  """

  path: pathlib.Path
  metadata: Mapping[str, Any]
  tensors: Mapping[str, GGUFTensor]

  def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
    """Return the value of a key, checked.

    Args:
      key: the whole name.
      kind: what it must be; an integer is a float, too.
      default: what is returned where the key is missing.

    Raises:
      CheckpointError: it is something else.
    """
    value = self.metadata.get(key)
    if value is None:
      return default
    if kind is float and type(value) is int:
      value = float(value)
    if type(value) is not kind:
      raise CheckpointError(
        f'{self.path}: {key} must be of type {kind.__name__}, not '
        f'{type(value).__name__}; the file is broken, or of another program.'
      )
    return value

  def need(self, key: str, kind: type[T]) -> T:
    """Return the value of a key that must be there.

    Raises:
      CheckpointError: it is missing, or something else.
    """
    value = self.get(key, kind)
    if value is None:
      raise CheckpointError(f'{self.path} lacks the key {key}.')
    return value


def read_file(path: pathlib.Path) -> GGUFFile:
  """Read what a GGUF file says, not its tensors; all parts if it is split.

  Raises:
    CheckpointError: the file is broken, or a part is missing.
  """
  parts = read_parts(path)
  tensors: dict[str, GGUFTensor] = {}
  for part, header in parts.items():
    for name, tensor in _tensors(part, header).items():
      if name in tensors:
        raise CheckpointError(f'{path}: two tensors are called {name}.')
      tensors[name] = tensor
  first = next(iter(parts))
  return GGUFFile(first, parts[first].metadata, tensors)


def is_gguf(path: pathlib.Path) -> bool:
  """Return whether a file is a GGUF file, by its first bytes or its name."""
  if not path.is_file():
    return False
  if path.suffix == '.gguf':
    return True
  with path.open('rb') as file:
    return file.read(4) == b'GGUF'


@functools.cache
def _sizes(code: int) -> tuple[str, int, int] | None:
  """Return a type's name, values and bytes of a block; None if not readable."""
  gguf = library()
  try:
    kind = gguf.GGMLQuantizationType(code)
    values, size = gguf.GGML_QUANT_SIZES[kind]
    if kind.name not in _PLAIN:
      gguf.dequantize(np.zeros((1, size), np.uint8), kind)
  except (ValueError, KeyError, NotImplementedError):
    return None
  return kind.name, values, size


def _tensors(path: pathlib.Path, header: Header) -> dict[str, GGUFTensor]:
  """Return the tensors of one file by name.

  Raises:
    CheckpointError: they do not fit into the file, or each other.
  """
  alignment = _alignment(path, header)
  start = place = -(-header.end // alignment) * alignment
  found: dict[str, GGUFTensor] = {}
  for info in header.tensors:
    kind, num_bytes = _stored_as(path, info)
    if info.name in found:
      raise CheckpointError(
        f'{path}: two tensors are called {info.name!r:.80}.'
      )
    # Each begins where the one before has ended, and nowhere else.
    if start + info.offset != place:
      overlap = start + info.offset < place
      raise CheckpointError(
        f'{path}: the tensor {info.name!r:.80} '
        f'{"overlaps the one before it" if overlap else "is out of place"}; '
        'download or convert the file again.'
      )
    shape = tuple(reversed(info.dimensions))
    found[info.name] = GGUFTensor(
      info.name, kind, shape, path, place, num_bytes
    )
    if place + num_bytes > header.size:
      raise CheckpointError(
        f'{path} has {header.size} bytes, but the tensor {info.name!r:.80} '
        f'ends at {place + num_bytes}: the file is cut short; download it '
        'again.'
      )
    place += -(-num_bytes // alignment) * alignment
  return found


def _stored_as(path: pathlib.Path, info: TensorInfo) -> tuple[str, int]:
  """Return the name of a tensor's type, and how many bytes it has."""
  sizes = _sizes(info.code)
  if sizes is None:
    raise CheckpointError(
      f'{path}: the tensor {info.name!r:.80} has the type {info.code}, which '
      'the package gguf does not dequantise.'
    )
  kind, values, size = sizes
  if info.dimensions[0] % values:
    raise CheckpointError(
      f'{path}: the tensor {info.name!r:.80} has rows of '
      f'{info.dimensions[0]}, but {kind} has blocks of {values}.'
    )
  return kind, math.prod(info.dimensions) // values * size


def _alignment(path: pathlib.Path, header: Header) -> int:
  alignment = header.metadata.get('general.alignment', _DEFAULT_ALIGNMENT)
  is_size = type(alignment) is int and 0 < alignment <= 2**20
  if not is_size or alignment & (alignment - 1):
    raise CheckpointError(
      f'{path}: general.alignment must be a power of two, not '
      f'{alignment!r:.40}.'
    )
  return alignment
