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
"""What decoding costs: bytes from the shapes of a model, or seconds.

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
from collections.abc import Sequence

import jax
import numpy as np

from eejax.config import EarlyExitConfig, ExitHeadKind
from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.replay import Work, replay
from eejax.errors import ArgumentError
from eejax.hardware import Hardware
from eejax.models import decoder
from eejax.types import Int, PyTree


@dataclasses.dataclass(frozen=True)
class ModelCost:
  """Hold what the parts of a model with E exits cost, in one unit.

  Attributes:
    block: a block of the backbone.
    matrix: an output matrix.
    stage_blocks: blocks of each stage; the last one ends the model.
    exit_blocks: an exit's own block, which runs with its stage; usually 0.
    heads: each stage's exit head and output matrix.
    gates: each stage's gate.
  """

  block: float
  matrix: float
  stage_blocks: tuple[int, ...]
  exit_blocks: tuple[float, ...]
  heads: tuple[float, ...]
  gates: tuple[float, ...]

  @property
  def full_token(self) -> float:
    """Return what full decoding costs a token, exits not compiled in."""
    return sum(self.stage_blocks) * self.block + self.heads[-1]

  @property
  def head_in_blocks(self) -> float:
    """Return what the final head costs, in blocks."""
    return self.heads[-1] / self.block


@dataclasses.dataclass(frozen=True)
class SharedReads:
  """Say what tokens cost that share one read of weights, over one token.

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


@dataclasses.dataclass(frozen=True)
class DecodeCost:
  """Predict the cost of decoding at batch 1.

  Attributes:
    model: what the parts cost.
    reads_logits: whether the criterion reads an exit's logits; else it reads
      the gate, and only the head that is taken is read.
    shared: what windows of tokens cost.
    step: what a token costs beside blocks and heads, in the same unit.
    check: what asking an exit costs beside its head or gate.
  """

  model: ModelCost
  reads_logits: bool
  shared: SharedReads = ALL_FREE
  step: float = 0.0
  check: float = 0.0

  def of(self, work: Work) -> float:
    """Return what some work costs, in the unit of the model's costs."""
    m = self.model
    stages = np.array(m.stage_blocks) * m.block + np.array(m.exit_blocks)
    factors = np.array([self.shared.of(width) for width in work.widths])
    cost = (work.stage_runs @ factors) @ stages
    cost += self.step * work.tokens + self.check * work.checks.sum()
    if self.reads_logits:
      # A check reads the head that it may take; where the model ends there is
      # no check.
      reads = np.where(work.checks > 0, work.checks, work.taken)
      return float(cost + reads @ np.array(m.heads))
    heads, gates = np.array(m.heads), np.array(m.gates)
    return float(cost + work.taken @ heads + work.checks @ gates)

  @property
  def full_token(self) -> float:
    """Return what full decoding costs a token, exits not compiled in."""
    return self.model.full_token + self.step

  def speedup(self, work: Work) -> float:
    """Return how many times faster than full decoding some work is."""
    return self.full_token * work.tokens / self.of(work)


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
    stage_blocks=tuple(int(n) for n in np.diff(depths, prepend=0)),
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
    stage_blocks=cost.stage_blocks,
    exit_blocks=rated(cost.exit_blocks),
    heads=heads,
    gates=rated(cost.gates),
  )


def work_of_depths(
  depths: Sequence[Int[np.ndarray, '_']], levels: Sequence[int], *, window: int
) -> Work:
  """Return the work behind tokens emitted at known depths, a row at a time.

  Args:
    depths: of each generation, of its tokens.
    levels: the depths of the exits, and L.
    window: of the decoder.
  """
  longest = max(len(row) for row in depths)
  table = np.full((len(depths), longest), -1)
  for line, row in zip(table, depths, strict=True):
    line[: len(row)] = row
  sure = np.stack([table == d for d in levels[:-1]]).astype(np.float32)
  return replay(
    sure,
    counted=table >= 0,
    thresholds=np.full((1, len(levels) - 1), 0.5, np.float32),
    window=window,
  ).work[0]


def hardware_cost(
  config: EarlyExitConfig,
  *,
  machine: Hardware,
  dtype: str,
  reads_logits: bool,
  window: int = 8,
) -> DecodeCost:
  """Return the seconds of decoding on a machine, by its roofline.

  Nothing but weights is counted, at their peak; a real loop has more to do.

  Args:
    config: the model with its exits.
    machine: its peaks.
    dtype: of weights and arithmetic.
    reads_logits: whether the criterion reads an exit's logits.
    window: tokens of a window at most.
  """
  bytes_per_value = jax.numpy.dtype(dtype).itemsize
  cost = model_cost(config, bytes_per_value=bytes_per_value)
  rate = 1 / machine.memory_bandwidth
  return DecodeCost(
    in_seconds(cost, block=rate * cost.block, matrix=rate * cost.matrix),
    reads_logits=reads_logits,
    shared=SharedReads.on(
      machine, dtype=dtype, bytes_per_value=bytes_per_value, most=window
    ),
  )


@dataclasses.dataclass(frozen=True)
class CountedCost:
  """Predict the seconds of work that a decode loop counted, in any batch.

  Weights that are read for one token serve the others of a batch or a window.
  Counts of reads and of passes are all that is known, so each read is taken
  to serve as many tokens as the others:

    block reads f(passes / (reads rows)) + head reads + step ticks

  with f what a window costs over one token of each row. A head's seconds are
  those of a step of all rows.

  Attributes:
    block: seconds of a block for one token of each row.
    head: seconds of an output matrix for one token of each row.
    shared: what windows of tokens of each row cost.
    step: seconds of a step of the loop beside them.
    check: seconds of asking an exit beside its head.
    rows: decoded together.
  """

  block: float
  head: float
  shared: SharedReads = ALL_FREE
  step: float = 0.0
  check: float = 0.0
  rows: int = 1

  def of(
    self, work: Accounting, batch: BatchAccounting, *, tokens: int
  ) -> float:
    """Return the seconds that counted work should take.

    Args:
      work: of all rows.
      batch: what they read together.
      tokens: emitted by all rows.
    """
    passes = work.blocks_run + work.exit_blocks_run
    each = passes / max(batch.block_reads * self.rows, 1)
    blocks = batch.block_reads * self.shared.of(max(each, 1.0))
    # Every row asks at most once a step, and answers once.
    asked = max(batch.head_reads - tokens / self.rows, 0.0)
    return (
      self.block * blocks
      + self.head * batch.head_reads
      + self.step * tokens / self.rows
      + self.check * asked
    )


def _size(tree: PyTree) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
