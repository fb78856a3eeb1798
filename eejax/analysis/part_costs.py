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
"""Costs of the parts of a model: bytes from its shapes, or seconds.

At batch 1 a token's time is the time to read the weights it needs, so costs
are bytes read: of blocks, of exit heads with their output matrix, of gates. A
window of waiting tokens reads a block's weights once; what the arithmetic of
its other tokens adds is in `SharedReads`. Attention over the cache and the
embedding row are left out: they are small where weights decide.

Where a machine keeps small weights in its caches, bytes are not time;
`in_seconds` puts measured times of a block and of the head in their place; a
roofline of `configs/hardware` does for machines that are not at hand.
"""

import dataclasses
import functools
import math

import jax
import numpy as np

from eejax.config import EarlyExitConfig, ExitHeadKind
from eejax.errors import ArgumentError
from eejax.hardware import Hardware
from eejax.models import decoder
from eejax.types import PyTree


@dataclasses.dataclass(frozen=True)
class ModelCost:
  """Costs of the parts of a model with E exits, in one unit.

  Attributes:
    block: a block of the backbone.
    matrix: an output matrix.
    segment_blocks: blocks of each segment; the last one ends the model.
    exit_blocks: an exit's own block, which runs with its segment; usually 0.
    heads: each segment's exit head and output matrix.
    gates: each segment's gate.
  """

  block: float
  matrix: float
  segment_blocks: tuple[int, ...]
  exit_blocks: tuple[float, ...]
  heads: tuple[float, ...]
  gates: tuple[float, ...]

  @property
  def full_token(self) -> float:
    """Return what full decoding costs a token, exits not compiled in."""
    return sum(self.segment_blocks) * self.block + self.heads[-1]

  @property
  def head_in_blocks(self) -> float:
    """Return what the final head costs, in blocks."""
    return self.heads[-1] / self.block


@dataclasses.dataclass(frozen=True)
class SharedReads:
  """Cost of tokens that share one read of weights, over one token.

  Attributes:
    tokens: numbers of tokens that are known, rising from 1.
    factors: the cost of as many over one, each at least 1.
  """

  tokens: tuple[int, ...] = (1,)
  factors: tuple[float, ...] = (1.0,)

  def __post_init__(self):
    if len(self.tokens) != len(self.factors) or self.tokens[0] != 1:
      raise ArgumentError('every number of tokens needs a factor, from 1 on.')
    if min(self.factors) < 1:
      raise ArgumentError(
        f'tokens that share a read cannot cost less than one: {self.factors}.'
      )

  @classmethod
  def on(
    cls, machine: Hardware, *, dtype: str, bytes_per_value: int, most: int
  ) -> 'SharedReads':
    """Return the roofline of a machine: arithmetic hides behind reading.

    A weight is read in bytes_per_value / bandwidth and takes 2 operations a
    token, so up to n0 = bytes_per_value peak / (2 bandwidth) tokens are free.

    Args:
      machine: its peaks.
      dtype: whose peak counts.
      bytes_per_value: of a weight.
      most: tokens at most.
    """
    free = bytes_per_value * machine.flops(dtype)
    free /= 2 * machine.memory_bandwidth
    tokens = tuple(range(1, max(most, 1) + 1))
    return cls(tokens, tuple(max(1.0, n / free) for n in tokens))

  def of(self, tokens: float) -> float:
    """Return the factor of so many tokens, beyond the last as it last rose."""
    if tokens <= self.tokens[-1] or len(self.tokens) == 1:
      return float(np.interp(tokens, self.tokens, self.factors))
    rise = (self.factors[-1] - self.factors[-2]) / (
      self.tokens[-1] - self.tokens[-2]
    )
    return self.factors[-1] + rise * (tokens - self.tokens[-1])


ALL_FREE = SharedReads()


@functools.lru_cache(maxsize=1024)
def model_cost(
  config: EarlyExitConfig, *, bytes_per_value: int = 4
) -> ModelCost:
  """Return what the parts of a model cost by their shapes.

  Args:
    config: the model with its exits.
    bytes_per_value: of the dtype that is decoded in.
  """
  init = functools.partial(decoder.init, config)
  shapes = jax.eval_shape(init, jax.random.key(0))
  backbone, exits = shapes['backbone'], shapes['exits']
  matrix = config.model.embed_dim * config.model.vocab_size
  depths = (*config.exit_depths, config.model.num_layers)
  own_blocks, heads, gates = [], [], []
  for exit in config.exits:
    parts = dict(exits.get(exit.name, {}))
    parts.pop('output', None)
    gates.append(_size(parts.pop('gate', {})))
    has_block = exit.head is ExitHeadKind.BLOCK
    own_blocks.append(_size(parts.pop('block', {})) if has_block else 0)
    heads.append(_size(parts) + matrix)
  scale = float(bytes_per_value)
  size = lambda values: tuple(scale * v for v in values)
  return ModelCost(
    block=scale * _size(backbone['blocks']) / config.model.num_layers,
    matrix=scale * matrix,
    segment_blocks=tuple(int(n) for n in np.diff(depths, prepend=0)),
    exit_blocks=size((*own_blocks, 0)),
    heads=size((*heads, _size(backbone['final_norm']) + matrix)),
    gates=size((*gates, 0)),
  )


def in_seconds(cost: ModelCost, *, block: float, matrix: float) -> ModelCost:
  """Return costs in seconds, from those in bytes.

  Args:
    cost: in bytes.
    block: measured seconds of a block for one token.
    matrix: measured seconds of an output matrix. Norms, MLPs and gates are
      charged by their bytes, as a block is.
  """
  rate = block / cost.block
  rated = lambda values: tuple(rate * v for v in values)
  heads = tuple(rate * (h - cost.matrix) + matrix for h in cost.heads)
  return ModelCost(
    block=block,
    matrix=matrix,
    segment_blocks=cost.segment_blocks,
    exit_blocks=rated(cost.exit_blocks),
    heads=heads,
    gates=rated(cost.gates),
  )


def _size(tree: PyTree) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
