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
"""What exits are worth, from how often they are taken and what parts cost.

Exits stand at depths e_1 < ... < e_X before L; of the tokens that are asked at
exit i or before, a share q_i is willing to leave there or before (so 0 <= q_1
<= ... <= q_X <= 1). Every W-th token at the latest goes to the end unasked, W
the window. With exact keys and values, a segment (the blocks between two exits)
runs when a token passes the exit before it and takes along the n tokens that
have waited there since it last ran. Where tokens are willing independently, n
is geometric and cut off at W,

  P(n) = q^(n-1) (1 - q)  for n < W,   P(W) = q^(W-1),
  E[n] = (1 - q^W) / (1 - q),

with q the share that left before the segment, so that per token

  cost = sum over segments of  blocks b E[f(n)] / E[n]         (segments run)
       + sum over exits of the share that asks times a check
       + a head for each token that no check has read one for
       + the rest of a step

and the speed-up is the full model's token over it. f(n) is what n tokens cost
that share a read of the weights. For one exit this is exact; with several, a
token that went no further than a middle exit may end a run there, which makes
runs of the last segments a little longer than here. Where rows of a batch ride
along, a segment is skipped when all R rows skip it: q becomes q^R.

Without exact keys and values nothing is caught up: a segment costs 1 - q of
itself (all R rows: 1 - q^R), and what stands in for skipped blocks is filled
in: `propagate` projects keys and values, `copy`, `mask` and `monotone` nothing.

Formulas of this module are derived here; the cost of `recompute`, which runs
the n tokens through all blocks, is that of EE-LLM (arXiv 2312.04916).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from eejax.analysis.cost_model import DecodeCost
from eejax.config import ModelConfig
from eejax.decoding.loop.plan import window_widths
from eejax.decoding.policy.policy import KVStrategy
from eejax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class ExitMix:
  """Say how willing tokens are to leave, by the cost model's segments.

  Attributes:
    willing: share of tokens that would leave at each exit or before, one an
      exit, rising; 0 where an exit takes none.
    window: every `window`-th token at the latest goes to the end.
    rows: decoded together, riding along.
    kv_strategy: what stands in for keys and values of skipped blocks.
    fill: what filling a skipped block costs, in blocks; `PROPAGATE` alone.
  """

  willing: tuple[float, ...]
  window: int = 8
  rows: int = 1
  kv_strategy: KVStrategy = KVStrategy.DEFERRED
  fill: float = 0.0

  def __post_init__(self):
    rising = np.diff([0.0, *self.willing, 1.0])
    if not self.willing or not (rising >= 0).all():
      raise ArgumentError(
        f'shares of tokens that leave must rise from 0 to 1: {self.willing}.'
      )
    if self.window < 1 or self.rows < 1 or self.fill < 0:
      raise ArgumentError('window and rows must be at least 1, and fill 0.')

  @classmethod
  def of_shares(cls, shares: Sequence[float], **more) -> 'ExitMix':
    """Return the mix of exits that take these shares of all tokens."""
    total = np.minimum(np.cumsum(shares), 1.0)
    return cls(tuple(float(x) for x in total), **more)

  @property
  def forced(self) -> float:
    """Return the share of tokens that go to the end unasked."""
    if not self.kv_strategy.is_exact:
      return 0.0
    # One in every full run of W, and runs are E[n] tokens long.
    q = self.willing[-1]
    return q ** (self.window - 1) / _run_length(q, self.window)


def token_cost(cost: DecodeCost, mix: ExitMix) -> float:
  """Return what a token costs on average, in the unit of `cost`.

  Args:
    cost: of the parts, its segments those of the mix's exits.
    mix: how often exits are taken.

  Raises:
    ArgumentError: there are other exits than the mix's.
  """
  m = cost.model
  if len(m.segment_blocks) != len(mix.willing) + 1:
    raise ArgumentError(
      f'the model has {len(m.segment_blocks) - 1} exits, and shares were given '
      f'for {len(mix.willing)}.'
    )
  segments = np.array(m.segment_blocks) * m.block + np.array(m.exit_blocks)
  left = np.array([0.0, *mix.willing])  # Before each segment.
  blocks = sum(
    size * _segment_runs(cost, mix, q)
    for size, q in zip(segments, left, strict=True)
  )
  if mix.kv_strategy is KVStrategy.RECOMPUTE:
    blocks += _again(cost, mix, segments)
  if mix.kv_strategy is KVStrategy.PROPAGATE:
    blocks += mix.fill * float(np.array(m.segment_blocks) @ left) * m.block
  return float(blocks + _asking(cost, mix, left) + cost.step)


def speedup(cost: DecodeCost, mix: ExitMix) -> float:
  """Return how many times faster than full decoding a mix is."""
  return cost.full_token / token_cost(cost, mix)


def break_even(
  cost: DecodeCost, exit: int, *, window: int, rows: int = 1, **more
) -> float | None:
  """Return the share of tokens an exit must take to pay, on its own.

  Below it, asking costs more than what is skipped.

  Args:
    cost: of the parts.
    exit: which exit is taken, from 0; others are asked on the way to it.
    window: of the decoder.
    rows: decoded together.
    **more: fields of `ExitMix`.

  Returns:
    The least share from which on the speed-up is above 1, or None where it
    is not even when every token is willing.
  """
  exits = len(cost.model.segment_blocks) - 1

  def pays(share: float) -> bool:
    willing = tuple(share if i >= exit else 0.0 for i in range(exits))
    return speedup(cost, ExitMix(willing, window, rows, **more)) > 1

  grid = np.linspace(0, 1, 201)
  losing = [share for share in grid if not pays(float(share))]
  if not losing:
    return 0.0
  if losing[-1] == 1.0:
    return None
  low, high = float(losing[-1]), float(losing[-1]) + 1 / 200
  for _ in range(30):
    middle = (low + high) / 2
    low, high = (low, middle) if pays(middle) else (middle, high)
  return high


def kv_share(config: ModelConfig) -> float:
  """Return what a block's part for keys, values and states is of the block.

  Matrices alone: biases and norms are next to nothing. A state needs all of a
  mixer but its projection back.
  """
  c, mixer, kept = config, 0, 0
  if c.state_space is not None:
    mixer = c.state_space.num_values(c.embed_dim)
    kept = mixer - c.state_space.inner_dim * c.embed_dim
  keys = 2 * c.embed_dim * c.num_kv_heads * c.head_dim
  queries = 2 * c.embed_dim * c.num_heads * c.head_dim
  return (keys + kept) / (keys + queries + mixer + c.mlp_values)


def _run_length(q: float, window: int) -> float:
  """Return E[n], the mean number of tokens between two runs of a segment."""
  return float(sum(q**k for k in range(window)))


def _segment_runs(cost: DecodeCost, mix: ExitMix, q: float) -> float:
  """Return how many times its one-token cost a segment costs a token."""
  q = q**mix.rows
  if not mix.kv_strategy.is_exact:
    return 1 - q
  widths = np.array(window_widths(mix.window))
  lengths = np.arange(1, mix.window + 1)
  chances = q ** (lengths - 1) * (1 - q)
  chances[-1] = q ** (mix.window - 1)
  # A run takes the least compiled width that holds it.
  compiled = widths[np.searchsorted(widths, lengths)]
  prices = np.array([cost.shared.of(float(w)) for w in compiled])
  return float(chances @ prices / _run_length(q, mix.window))


def _again(cost: DecodeCost, mix: ExitMix, segments: np.ndarray) -> float:
  """Return what running skipped tokens anew from the embedding on adds.

  The last segment's windows begin at the first block, so blocks before the last
  exit run once more for every token that waited.
  """
  q = mix.willing[-1] ** mix.rows
  last = _segment_runs(cost, mix, q)
  once = 1 / _run_length(q, mix.window)
  return float(segments[:-1].sum() * max(last - once, 0.0))


def _asking(cost: DecodeCost, mix: ExitMix, left: np.ndarray) -> float:
  """Return what checks and heads cost a token."""
  m = cost.model
  asks = (1 - mix.forced) * (1 - left[:-1])
  heads, gates = np.array(m.heads), np.array(m.gates)
  total = float(asks.sum() * cost.check)
  if cost.reads_logits:
    ends = 1 - (1 - mix.forced) * left[-1]
    return total + float(asks @ heads[:-1] + ends * heads[-1])
  takes = (1 - mix.forced) * np.diff(left)
  ends = 1 - float(takes.sum())
  return total + float(
    asks @ gates[:-1] + takes @ heads[:-1] + ends * heads[-1]
  )
