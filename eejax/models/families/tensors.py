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
"""Hugging Face's tensor names, shapes and layouts beside ours.

A linear layer of theirs is a matrix [out, in]; a kernel of ours is
[*inputs, *outputs] with heads apart. Both directions are reshapes and
transpositions only, so a round trip is exact for every dtype, and a view
where NumPy can give one.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from eejax.config import (
  MLPKind,
  ModelConfig,
  NormKind,
  PositionKind,
  QKNormSpan,
)
from eejax.config.experts import ExpertsConfig
from eejax.config.state_space import StateSpaceConfig, StateSpaceKind
from eejax.models.families import FAMILIES
from eejax.models.families.names import EXPERT, LLAMA_NAMES, Names, Packed

_EXPERTS = 'mlp/experts/'


@dataclasses.dataclass(frozen=True)
class PackedPart:
  """Say which part of a packed tensor is meant.

  Attributes:
    index: of the part.
    widths: of all parts, in numbers along the packed axis.
    per_head: whether each head has all of them in turn, equally wide.
    heads: how many there are then.
  """

  index: int
  widths: tuple[int, ...]
  per_head: bool = False
  heads: int = 1

  def take(self, array: np.ndarray, axis: int) -> np.ndarray:
    """Return this part of a packed array."""
    if not self.per_head:
      start = sum(self.widths[: self.index])
      place = [slice(None)] * array.ndim
      place[axis] = slice(start, start + self.widths[self.index])
      return array[tuple(place)]
    before, behind = array.shape[:axis], array.shape[axis + 1 :]
    apart = array.reshape(*before, self.heads, len(self.widths), -1, *behind)
    part = np.take(apart, self.index, axis=axis + 1)
    return part.reshape(*before, -1, *behind)

  def join(self, parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Return the packed array of all parts, in the file's order."""
    if not self.per_head:
      return np.concatenate(parts, axis=axis)
    before, behind = parts[0].shape[:axis], parts[0].shape[axis + 1 :]
    split = [p.reshape(*before, self.heads, -1, *behind) for p in parts]
    return np.stack(split, axis=axis + 1).reshape(*before, -1, *behind)


@dataclasses.dataclass(frozen=True)
class Expert:
  """Say which expert a tensor belongs to.

  Attributes:
    index: of the expert, from 0.
    count: how many a block has.
  """

  index: int
  count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Tie one tensor of a Hugging Face file, or a part, to one leaf of the tree.

  Experts have a tensor each, which are one leaf together.

  Attributes:
    name: the name in the file.
    path: the leaf under `params['backbone']`, blocks by three-digit number.
    inputs: the leaf's leading dimensions, summed over by the product; empty
      for vectors.
    outputs: the leaf's trailing dimensions.
    transposed: whether the file has [outputs, inputs].
    part: which part of the tensor it is, where others are in it, too.
    expert: whose tensor it is, where the leaf is a stack of those of all.
    is_convolution: whether the file has an axis of one number between outputs
      and inputs, as torch has for channels with a kernel of their own.
  """

  name: str
  path: tuple[str, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  transposed: bool = True
  part: PackedPart | None = None
  expert: Expert | None = None
  is_convolution: bool = False

  @property
  def shape(self) -> tuple[int, ...]:
    """Return the shape of the leaf."""
    stacked = () if self.expert is None else (self.expert.count,)
    return stacked + self.inputs + self.outputs

  @property
  def file_shape(self) -> tuple[int, ...]:
    """Return the shape in the file, of all parts together."""
    sizes = [math.prod(d) for d in (self.inputs, self.outputs) if d]
    if self.part is not None:
      sizes[-1] = sum(self.part.widths)
    return self._in_file(sizes)

  def from_file(self, array: np.ndarray) -> np.ndarray:
    """Return the leaf, or its expert's entry, for an array of the file."""
    if self.part is not None:
      array = self.part.take(array, self._packed_axis)
    if not self.transposed:
      return array.reshape(self.inputs + self.outputs)
    apart = array.reshape(self.outputs + self.inputs)
    return np.moveaxis(apart, range(len(self.outputs)), self._moved())

  def to_file(self, leaf: np.ndarray) -> np.ndarray:
    """Return the array, or its part, as the file has it for a leaf."""
    if self.expert is not None:
      leaf = leaf[self.expert.index]
    if self.transposed:
      leaf = np.moveaxis(leaf, self._moved(), range(len(self.outputs)))
    sizes = [math.prod(d) for d in (self.inputs, self.outputs) if d]
    return leaf.reshape(self._in_file(sizes))

  def _in_file(self, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the shape in the file, given those of inputs and outputs."""
    if self.is_convolution:
      return (sizes[1], 1, sizes[0])
    return tuple(reversed(sizes) if self.transposed else sizes)

  def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the whole array of the file from `to_file` of all its parts."""
    if self.part is None:
      return parts[0]
    return self.part.join(parts, self._packed_axis)

  @property
  def _packed_axis(self) -> int:
    return 0 if self.transposed or not self.inputs else 1

  def _moved(self) -> range:
    """Return the places of the output dimensions in the leaf."""
    start = len(self.inputs)
    return range(start, start + len(self.outputs))


def block_key(index: int) -> str:
  """Return the key of block `index` (0-based) in a path."""
  return f'{index:03}'


def names_of(config: ModelConfig) -> Names:
  """Return the names of the model's family; Llama's for an unknown one."""
  family = FAMILIES.get(config.family)
  return LLAMA_NAMES if family is None else family.names


def tensors(config: ModelConfig) -> Iterator[Tensor]:
  """Yield every tensor of a model, in the order of its forward pass."""
  c, names = config, names_of(config)
  table = 'embedding/table'
  yield _rows(c, names, ('embedding', 'table'), c.vocab_size, table)
  if c.positions is PositionKind.LEARNED:
    length = c.max_length + c.position_offset
    at = ('embedding', 'positions')
    yield _rows(c, names, at, length, 'embedding/positions')
  for index in range(c.num_layers):
    yield from _block(c, names, index)
  yield from _norm(c, names.outer['final_norm'], ('final_norm',), c.embed_dim)
  if not c.tied_head:
    yield Tensor(
      f'{names.outer["head"]}.weight',
      ('head', 'kernel'),
      (c.embed_dim,),
      (c.vocab_size,),
    )


def _rows(
  c: ModelConfig, names: Names, path: tuple[str, ...], rows: int, key: str
) -> Tensor:
  name = f'{names.outer.get(key, key)}.weight'
  return Tensor(name, path, (rows,), (c.embed_dim,), transposed=False)


def _block(c: ModelConfig, names: Names, index: int) -> Iterator[Tensor]:
  theirs, ours = f'{names.blocks}.{index}', ('blocks', block_key(index))
  packed = {part: p for p in names.packed for part in p.parts}
  linear = _linear(c)
  for place, (inputs, outputs, bias) in linear.items():
    path = (*ours, *place.split('/'))
    part, name = None, names.block.get(place, place)
    if place in packed:
      name = packed[place].name
      part = _part(place, packed[place], linear, c)
    kernel = Tensor(
      f'{theirs}.{name}.weight',
      (*path, 'kernel'),
      inputs,
      outputs,
      transposed=not names.conv1d,
      part=part,
    )
    if place.startswith(_EXPERTS):
      yield from _by_expert(c, kernel)
      continue
    yield kernel
    if bias:
      yield dataclasses.replace(
        kernel,
        name=f'{theirs}.{name}.bias',
        path=(*path, 'bias'),
        inputs=(),
      )
  if c.state_space is not None:
    yield from _mixer(c.state_space, names, theirs, ours)
  for place, size in _norms(c).items():
    name = f'{theirs}.{names.block.get(place, place)}'
    path = (*ours, *place.split('/'))
    if place.startswith('attention/'):
      yield _vector(f'{name}.weight', (*path, 'scale'), size)
    else:
      yield from _norm(c, name, path, size)


def _mixer(
  mixer: StateSpaceConfig, names: Names, theirs: str, ours: tuple[str, ...]
) -> Iterator[Tensor]:
  """Yield what a state-space mixer has beside its projections."""
  whole = lambda leaf: f'{theirs}.{names.block[f"mixer/{leaf}"]}'
  channels, at = mixer.convolution_dim, (*ours, 'mixer', 'convolution')
  yield Tensor(
    f'{whole("convolution")}.weight',
    (*at, 'kernel'),
    (mixer.convolution_width,),
    (channels,),
    is_convolution=True,
  )
  if mixer.convolution_bias:
    yield _vector(f'{whole("convolution")}.bias', (*at, 'bias'), channels)
  width, path = mixer.num_heads or mixer.inner_dim, (*ours, 'mixer')
  yield _vector(whole('skip'), (*path, 'skip'), width)
  yield _vector(whole('step_bias'), (*path, 'step_bias'), width)
  if mixer.kind is StateSpaceKind.MAMBA:
    n, i = (mixer.state_dim,), (mixer.inner_dim,)
    yield Tensor(whole('log_rates'), (*path, 'log_rates'), n, i)
  else:
    name = 'head_log_rates'
    yield _vector(whole(name), (*path, name), mixer.num_heads)
  if mixer.has_norm:
    name = 'norm_scale'
    yield _vector(whole(name), (*path, name), mixer.inner_dim)


def _part(
  place: str, packed: Packed, linear: dict, c: ModelConfig
) -> PackedPart:
  widths = tuple(math.prod(linear[p][1]) for p in packed.parts)
  index = packed.parts.index(place)
  return PackedPart(index, widths, packed.per_head, c.num_heads)


def _linear(
  c: ModelConfig,
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], bool]]:
  """Return inputs, outputs and whether there is a bias, by place."""
  d, f, h = (c.embed_dim,), (c.mlp_dim,), c.head_dim
  heads, kv_heads = (c.num_heads, h), (c.num_kv_heads, h)
  found: dict[str, tuple[tuple[int, ...], tuple[int, ...], bool]] = {}
  if c.state_space is not None:
    biased = set()
    if c.state_space.projection_bias:
      biased |= set(c.state_space.fused_kernels)
    if c.state_space.output_bias:
      biased.add('output')
    for name, (inputs, outputs) in c.state_space.kernels(c.embed_dim).items():
      bias = name in biased
      found[f'mixer/{name}'] = ((inputs,), (outputs,), bias)
  if c.has_attention:
    found |= {
      'attention/query': (d, heads, c.qkv_bias),
      'attention/key': (d, kv_heads, c.qkv_bias),
      'attention/value': (d, kv_heads, c.qkv_bias),
      'attention/output': (heads, d, c.output_bias),
    }
  if c.experts is not None:
    return {**found, **_linear_of_experts(c, c.experts)}
  if not c.has_mlp:
    return found
  if c.mlp is MLPKind.GATED:
    found['mlp/gate'] = (d, f, c.mlp_bias)
  return {
    **found,
    'mlp/up': (d, f, c.mlp_bias),
    'mlp/down': (f, d, c.mlp_bias),
  }


def _linear_of_experts(c: ModelConfig, experts: ExpertsConfig) -> dict:
  """Return the same of a routed MLP; of one expert, for all are alike."""
  d, num = (c.embed_dim,), (experts.num_experts,)
  found = {
    'mlp/router': (d, num, False),
    **_mlp(_EXPERTS, d, experts.expert_dim),
  }
  if experts.shared_dim is not None:
    found |= _mlp('mlp/shared/', d, experts.shared_dim)
    found['mlp/shared_gate'] = (d, (1,), False)
  return found


def _mlp(place: str, d: tuple[int, ...], width: int) -> dict:
  return {
    f'{place}gate': (d, (width,), False),
    f'{place}up': (d, (width,), False),
    f'{place}down': ((width,), d, False),
  }


def _by_expert(c: ModelConfig, tensor: Tensor) -> Iterator[Tensor]:
  """Yield the tensors of all experts that are one leaf together."""
  assert c.experts is not None
  count = c.experts.num_experts
  for index in range(count):
    # A family that has no experts has no place for their number either.
    yield dataclasses.replace(
      tensor,
      name=tensor.name.replace(EXPERT, str(index)),
      expert=Expert(index, count),
    )


def _norms(c: ModelConfig) -> dict[str, int]:
  """Return the width of every norm of a block, by place."""
  found = {}
  if not c.has_attention:
    found['mixer_norm'] = c.embed_dim
  parts = {'attention': c.has_attention, 'mlp': c.has_mlp}
  for part in (part for part, is_there in parts.items() if is_there):
    if c.norm_placement.has_before:
      found[f'{part}_norm'] = c.embed_dim
    if c.norm_placement.has_after:
      found[f'{part}_post_norm'] = c.embed_dim
  if c.qk_norm:
    whole = c.qk_norm_span is QKNormSpan.ALL_HEADS
    counts = {'query': c.num_heads, 'key': c.num_kv_heads}
    for name, count in counts.items():
      found[f'attention/{name}_norm'] = c.head_dim * (count if whole else 1)
  return found


def _norm(
  c: ModelConfig, name: str, path: tuple[str, ...], size: int
) -> Iterator[Tensor]:
  yield _vector(f'{name}.weight', (*path, 'scale'), size)
  if c.norm is NormKind.LAYER:
    yield _vector(f'{name}.bias', (*path, 'bias'), size)


def _vector(name: str, path: tuple[str, ...], *shape: int) -> Tensor:
  return Tensor(name, path, (), shape)
