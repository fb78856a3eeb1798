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
from collections.abc import Iterator

import numpy as np

from eejax.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
  """Tie one tensor of a Hugging Face file to one leaf of the tree.

  Attributes:
    name: the name in the file.
    path: the leaf under `params['backbone']`, blocks by three-digit number.
    inputs: the leaf's leading dimensions, summed over by the product; empty
      for vectors.
    outputs: the leaf's trailing dimensions.
    transposed: whether the file has [outputs, inputs].
  """

  name: str
  path: tuple[str, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  transposed: bool = True

  @property
  def shape(self) -> tuple[int, ...]:
    """Return the shape of the leaf."""
    return self.inputs + self.outputs

  @property
  def file_shape(self) -> tuple[int, ...]:
    """Return the shape in the file."""
    sizes = [math.prod(d) for d in (self.inputs, self.outputs) if d]
    return tuple(reversed(sizes) if self.transposed else sizes)

  def from_file(self, array: np.ndarray) -> np.ndarray:
    """Return the leaf for an array as the file has it."""
    if not self.transposed:
      return array.reshape(self.shape)
    apart = array.reshape(self.outputs + self.inputs)
    return np.moveaxis(apart, range(len(self.outputs)), self._moved())

  def to_file(self, leaf: np.ndarray) -> np.ndarray:
    """Return the array as the file has it for a leaf."""
    if not self.transposed:
      return leaf.reshape(self.file_shape)
    apart = np.moveaxis(leaf, self._moved(), range(len(self.outputs)))
    return apart.reshape(self.file_shape)

  def _moved(self) -> range:
    """Return the places of the output dimensions in the leaf."""
    return range(len(self.inputs), len(self.shape))


def block_key(index: int) -> str:
  """Return the key of block `index` (0-based) in a path."""
  return f'{index:03}'


def tensors(config: ModelConfig) -> Iterator[Tensor]:
  """Yield every tensor of a model, in the order of its forward pass."""
  c = config
  table = (c.vocab_size, c.embed_dim)
  yield Tensor(
    'model.embed_tokens.weight',
    ('embedding', 'table'),
    table[:1],
    table[1:],
    transposed=False,
  )
  for index in range(c.num_layers):
    yield from _block(c, index)
  yield _vector('model.norm.weight', ('final_norm', 'scale'), c.embed_dim)
  if not c.tied_head:
    yield Tensor(
      'lm_head.weight', ('head', 'kernel'), (c.embed_dim,), (c.vocab_size,)
    )


def _block(c: ModelConfig, index: int) -> Iterator[Tensor]:
  theirs, ours = f'model.layers.{index}', ('blocks', block_key(index))
  d, f, h = c.embed_dim, c.mlp_dim, c.head_dim
  heads, kv_heads = (c.num_heads, h), (c.num_kv_heads, h)
  linear = [
    ('self_attn.q_proj', ('attention', 'query'), (d,), heads, c.qkv_bias),
    ('self_attn.k_proj', ('attention', 'key'), (d,), kv_heads, c.qkv_bias),
    ('self_attn.v_proj', ('attention', 'value'), (d,), kv_heads, c.qkv_bias),
    ('self_attn.o_proj', ('attention', 'output'), heads, (d,), c.output_bias),
    ('mlp.gate_proj', ('mlp', 'gate'), (d,), (f,), c.mlp_bias),
    ('mlp.up_proj', ('mlp', 'up'), (d,), (f,), c.mlp_bias),
    ('mlp.down_proj', ('mlp', 'down'), (f,), (d,), c.mlp_bias),
  ]
  norms: list[tuple[str, tuple[str, ...], int]] = [
    ('input_layernorm', ('attention_norm',), d),
    ('post_attention_layernorm', ('mlp_norm',), d),
  ]
  if c.qk_norm:
    norms.append(('self_attn.q_norm', ('attention', 'query_norm'), h))
    norms.append(('self_attn.k_norm', ('attention', 'key_norm'), h))
  for name, place, inputs, outputs, bias in linear:
    base, path = f'{theirs}.{name}', (*ours, *place)
    yield Tensor(f'{base}.weight', (*path, 'kernel'), inputs, outputs)
    if bias:
      yield _vector(f'{base}.bias', (*path, 'bias'), *outputs)
  for norm, at, size in norms:
    yield _vector(f'{theirs}.{norm}.weight', (*ours, *at, 'scale'), size)


def _vector(name: str, path: tuple[str, ...], *shape: int) -> Tensor:
  return Tensor(name, path, (), shape)
