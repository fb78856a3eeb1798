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
"""How tensors of a GGUF file and of a Hugging Face folder differ."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eejax.errors import CheckpointError

# The keys of a config.json.
Values = Mapping[str, Any]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Change:
  """How a tensor's values differ between the two kinds of files.

  Attributes:
    read: returns the array of a Hugging Face file for that of a GGUF file.
    write: the other way.
    read_shape: returns the shape that `read` gives for one of a GGUF file.
    write_shape: the other way.
  """

  read: Callable[[np.ndarray, Values], np.ndarray]
  write: Callable[[np.ndarray, Values], np.ndarray]
  read_shape: Callable[[Shape], Shape] = lambda shape: shape
  write_shape: Callable[[Shape], Shape] = lambda shape: shape


@dataclasses.dataclass(frozen=True)
class Architecture:
  """Describe one `general.architecture`.

  Attributes:
    name: the architecture.
    model_type: of Hugging Face's folders.
    class_name: the class that transformers has for it.
    keys: of config.json -> of the GGUF file, after the architecture.
    outer: module outside the blocks -> the GGUF name.
    blocks: module of a block -> the GGUF name; a tensor's whole name where
      nothing like `weight` follows it.
    changes: GGUF name of a module -> what is changed in its tensors.
    biases: key of config.json -> the GGUF name of the module of a block that
      has a bias if it is true.
    fixed: what else its config.json says.
    written: keys, after the architecture, that llama.cpp needs and that say
      nothing about the model.
    layers: what stands before the number of a block in a Hugging Face name.
    stores_tied_head: whether some files repeat the table as their head.
    complete: adds what is said in another way to a config.json.
  """

  name: str
  model_type: str
  class_name: str
  keys: Mapping[str, str]
  outer: Mapping[str, str]
  blocks: Mapping[str, str]
  changes: Mapping[str, Change] = dataclasses.field(default_factory=dict)
  biases: Mapping[str, str] = dataclasses.field(default_factory=dict)
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  written: Mapping[str, int] = dataclasses.field(default_factory=dict)
  layers: str = 'model.layers'
  stores_tied_head: bool = False
  complete: Callable[[dict[str, Any], Mapping[str, Any]], None] | None = None

  def to_huggingface(self, name: str) -> str | None:
    """Return the Hugging Face name of a tensor, None for an unknown one."""
    inside = _BLOCK.fullmatch(name)
    if inside is None:
      module, _, kind = name.rpartition('.')
      theirs = {v: k for k, v in self.outer.items()}.get(module)
      return None if theirs is None else f'{theirs}.{kind}'
    theirs = {v: k for k, v in self.blocks.items()}.get(inside[2])
    if theirs is None:
      return None
    return f'{self.layers}.{inside[1]}.{theirs}{inside[3]}'

  def to_gguf(self, name: str) -> str:
    """Return the GGUF name of a tensor.

    Raises:
      CheckpointError: the architecture has no such tensor.
    """
    module, _, kind = name.rpartition('.')
    if module in self.outer:
      return f'{self.outer[module]}.{kind}'
    number, _, whole = name.removeprefix(f'{self.layers}.').partition('.')
    part = whole.rpartition('.')[0]
    if number.isdigit() and whole in self.blocks:
      return f'blk.{number}.{self.blocks[whole]}'
    if number.isdigit() and part in self.blocks:
      return f'blk.{number}.{self.blocks[part]}.{kind}'
    raise CheckpointError(
      f'the tensor {name} has no name in GGUF files of {self.name!r}.'
    )

  def change_of(self, name: str) -> Change | None:
    """Return what is changed in the tensor of a GGUF name."""
    inside = _BLOCK.fullmatch(name)
    return self.changes.get(inside[2] if inside else name.rpartition('.')[0])


# The number of a block, a module in it, and what follows, as `.weight`.
_BLOCK = re.compile(r'blk\.(\d{1,6})\.(\w+)((?:\.\w+)?)')


def heads(key: str) -> Change:
  """Return the change of projections whose rotary pairs lie side by side.

  GGUF has the two members of a pair next to each other, Hugging Face's files
  all first ones of a head before all second ones.
  """

  def split(array: np.ndarray, values: Values, *, sizes: Any) -> np.ndarray:
    heads = values[key]
    apart = array.reshape(heads, *sizes(array.shape[0] // heads // 2), -1)
    return apart.swapaxes(1, 2).reshape(array.shape)

  return Change(
    lambda array, values: split(array, values, sizes=lambda half: (half, 2)),
    lambda array, values: split(array, values, sizes=lambda half: (2, half)),
  )


def plus(offset: float) -> Change:
  """Return the change of scales that a GGUF file has with one added."""
  return Change(
    lambda array, _: (array - offset).astype(array.dtype),
    lambda array, _: (array + offset).astype(array.dtype),
  )


def _reversed(shape: Shape) -> Shape:
  return tuple(reversed(shape))


# The kernels of GPT-2, which Hugging Face's files have as [in, out].
TRANSPOSED = Change(
  lambda array, _: array.T,
  lambda array, _: array.T,
  read_shape=_reversed,
  write_shape=_reversed,
)


def _apart(shape: Shape) -> Shape:
  return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def _together(shape: Shape) -> Shape:
  return (shape[0], shape[2]) if len(shape) == 3 else shape


# A kernel for each channel, [channels, width]: torch has an axis of one number
# between them. A bias is as it is.
CONVOLUTION = Change(
  lambda array, _: array.reshape(_apart(array.shape)),
  lambda array, _: array.reshape(_together(array.shape)),
  read_shape=_apart,
  write_shape=_together,
)


def _logarithm(array: np.ndarray, _: Values) -> np.ndarray:
  if not (array < 0).all():
    raise CheckpointError('a rate of a state-space mixer is not below 0.')
  return np.log(-array)


# Rates of a recurrence, which Hugging Face's files have as the logarithm of
# what they are below 0.
RATES = Change(_logarithm, lambda array, _: -np.exp(array))
