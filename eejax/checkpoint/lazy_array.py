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
"""Arrays that are read from their file when they are used, not before."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np


@runtime_checkable
class TensorFile(Protocol):
  """What holds named tensors, in the layout of Hugging Face's files."""

  def shape(self, name: str) -> tuple[int, ...]:
    """Return the shape of a tensor."""

  def dtype(self, name: str) -> np.dtype:
    """Return the dtype of a tensor."""

  def tensor(self, name: str) -> np.ndarray:
    """Return a tensor."""


class LazyArray:
  """What stands in a parameter tree for an array that is made on demand.

  Each use makes it anew and none is kept, so that a model can be larger than
  the memory. `np.asarray` returns the array, and an index a part of it.
  """

  def __init__(
    self,
    shape: tuple[int, ...],
    dtype: Any,
    read: Callable[[], np.ndarray],
    *,
    read_part: Callable[[Any], np.ndarray] | None = None,
  ):
    """Describe an array without making it.

    Args:
      shape: of what `read` returns.
      dtype: of what `read` returns.
      read: makes the array.
      read_part: makes the part at an index, where that costs less.
    """
    self.shape = shape
    self.dtype = np.dtype(dtype)
    self.ndim = len(shape)
    self._read = read
    self._read_part = read_part or (lambda index: read()[index])

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    """Return the array."""
    array = self._read()
    assert array.shape == self.shape
    # It was made just now and is nobody else's, so it need not be copied.
    return array.astype(dtype or self.dtype, copy=False)

  def __getitem__(self, index: Any) -> np.ndarray:
    """Return a part of the array."""
    return self._read_part(index)


def lazy_stack(parts: Sequence[LazyArray | np.ndarray]) -> LazyArray:
  """Return a stack of arrays that is made on demand.

  Args:
    parts: of one shape; views of files, or made on demand themselves.
  """
  dtype = jnp.result_type(*{part.dtype for part in parts})

  def read() -> np.ndarray:
    whole = np.empty((len(parts), *parts[0].shape), dtype)
    for entry, part in zip(whole, parts, strict=True):
      entry[...] = np.asarray(part)
    return whole

  return LazyArray((len(parts), *parts[0].shape), dtype, read)
