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
"""Tensors of torch as its files describe them."""

import dataclasses
from collections.abc import Mapping

import ml_dtypes
import numpy as np

STORAGES: Mapping[str, np.dtype] = {
  'DoubleStorage': np.dtype(np.float64),
  'FloatStorage': np.dtype(np.float32),
  'HalfStorage': np.dtype(np.float16),
  'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
  'LongStorage': np.dtype(np.int64),
  'IntStorage': np.dtype(np.int32),
  'ShortStorage': np.dtype(np.int16),
  'CharStorage': np.dtype(np.int8),
  'ByteStorage': np.dtype(np.uint8),
  'BoolStorage': np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Storage:
  """Numbers in a file of their own beside the pickle.

  Attributes:
    key: name of the file.
    dtype: of the numbers.
    size: how many there are.
  """

  key: str
  dtype: np.dtype
  size: int


@dataclasses.dataclass(frozen=True)
class StoredTensor:
  """A tensor as the pickle describes it.

  Attributes:
    storage: where its numbers are.
    offset: number of the first one.
    shape: of the tensor.
    strides: numbers from one entry to the next, along each axis.
  """

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def __post_init__(self):
    sizes = (self.offset, *self.shape, *self.strides)
    if not all(type(n) is int and n >= 0 for n in sizes):
      raise ValueError('a tensor has a size that is none')
    if len(self.shape) != len(self.strides):
      raise ValueError('a tensor has a stride too many or too few')
    steps = zip(self.shape, self.strides, strict=True)
    last = self.offset + sum((n - 1) * step for n, step in steps)
    if 0 not in self.shape and last >= self.storage.size:
      raise ValueError('a tensor reaches beyond its numbers')
