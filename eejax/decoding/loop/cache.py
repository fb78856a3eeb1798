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
"""What the decode loop carries, and what stays the same beside it.

Rows of a batch are independent: each has its own length, and the slot of a
token in a cache is its position in its row's text. A slot of a segment's cache
is valid for a row iff slot < cache_length[row].
"""

import flax.struct
import jax
import jax.numpy as jnp

from eejax.decoding.drafting.adaptive import Draft
from eejax.decoding.loop.accounting import Counts
from eejax.decoding.loop.plan import DecodePlan, Segment, bucket
from eejax.decoding.policy.batching import Cycle
from eejax.decoding.policy.criteria import Memory
from eejax.decoding.policy.policy import KVStrategy
from eejax.decoding.policy.thresholds import ThresholdState
from eejax.ops.quant import (
  Quantization,
  Quantized,
  dequantize,
  quantize_rows,
  zero_rows,
)
from eejax.ops.recurrent_state import RecurrentState, empty_state
from eejax.ops.sampling import RowBias, RowSampling, TopLogProbs
from eejax.types import Array, Bool, DTypeLike, Float, Int, PyTree

# Caches grow in these steps, so that few programs are compiled.
SMALLEST_CACHE = 64


@flax.struct.dataclass
class SegmentState:
  """Caches of one segment of a plan, and the tokens that wait for it.

  Invariants: keys and values are those of a full-depth pass (or what the
  plan's strategy puts in their place) for all slots below `cache_length`, and
  meaningless from there on; the streams of a row's tokens `cache_length`,
  `cache_length + 1` ... that reached the segment stand at the start of its
  `waiting`. No earlier segment is behind: `cache_length` never rises with the
  segment.

  A recurrent block keeps its state after each of the newest tokens, so that a
  row may be set back by as many as a window has: the state after a token
  stands in the ring's slot position modulo its length. A block goes on from
  the one after token `cache_length` - 1, and from zeros at the start.

  Attributes:
    keys: a cache a block of the segment, a BLOCK exit's own last; int8 with a
      scale for each token and head, or as they were computed. None of them
      where blocks do not attend.
    values: likewise.
    states: a ring a block, likewise; none where blocks are not recurrent.
    waiting: streams of tokens that wait at the segment's entrance, with as much
      room again for a window that is written past its end; None where no
      token ever waits.
    visible: slots that hold keys and values at all, under the strategy MASK;
      None where all do.
    cache_length: the first slot of each row that the segment has not processed.
  """

  keys: tuple[Float[Array, 'B K S H'] | Quantized, ...]
  values: tuple[Float[Array, 'B K S H'] | Quantized, ...]
  states: tuple[RecurrentState, ...]
  waiting: Float[Array, 'B two_W D'] | None
  visible: Bool[Array, 'B S'] | None
  cache_length: Int[Array, 'B']


@flax.struct.dataclass
class BatchSettings:
  """Settings that stay the same while a batch is decoded.

  Attributes:
    end_ids: tokens that end each row, `NO_TOKEN` where it has fewer.
    thresholds: of each row at each exit of the plan; infinity is never.
    sampling: how each row's tokens are chosen.
    bias: what changes logits before; None where no row asks for that.
    wants_top: rows that want the likeliest tokens beside the chosen one; None
      where the plan keeps none.
    window_costs: what a step costs in which the longest window has 1, 2 ...
      tokens, in steps of one token of each row; the same for all rows. None
      but in SPECULATIVE.
  """

  end_ids: Int[Array, 'B num_end']
  thresholds: Float[Array, 'B X']
  sampling: RowSampling
  bias: RowBias | None = None
  wants_top: Bool[Array, 'B'] | None = None
  window_costs: Float[Array, 'B W'] | None = None

  def ends(self, tokens: Int[Array, 'B E']) -> Bool[Array, 'B E']:
    """Return which tokens of each row end it."""
    return jnp.any(tokens[..., None] == self.end_ids[:, None], axis=-1)


@flax.struct.dataclass
class DecodeState:
  """State that changes from step to step.

  Attributes:
    length: tokens of each row that were fed; the position of the next one.
    tokens: the token to be fed next, or the newest one of a row that waits.
    resume_segment: the segment before which a row's newest token stands, its
      successor not emitted yet; 0 where the next token is to be fed.
    live: rows that still generate.
    failed: rows that ended because their logits were not finite.
    remaining: tokens each row may still emit.
    since_full: tokens of each row since its last one at full depth.
    deepest: the deepest segment each row may still go to, under MONOTONE.
    segments: caches and waiting tokens.
    cycles: what was done upstream of each segment.
    counts: work done so far.
    memory: what exits saw of each row's newest token.
    rule: what a threshold rule knows; None where thresholds stay.
    verify_hidden: streams behind the last segment, of the window that was
      verified last; None but in SPECULATIVE.
    draft: tokens drafted and not yet verified; None but in SPECULATIVE.
  """

  length: Int[Array, 'B']
  tokens: Int[Array, 'B']
  resume_segment: Int[Array, 'B']
  live: Bool[Array, 'B']
  failed: Bool[Array, 'B']
  remaining: Int[Array, 'B']
  since_full: Int[Array, 'B']
  deepest: Int[Array, 'B']
  segments: tuple[SegmentState, ...]
  cycles: tuple[Cycle, ...]
  counts: Counts
  memory: Memory
  rule: ThresholdState | None = None
  verify_hidden: Float[Array, 'B two_W D'] | None = None
  draft: Draft | None = None


@flax.struct.dataclass
class Emission:
  """Tokens that each row emitted in one step: its first `num` entries.

  Attributes:
    token: the tokens.
    depth: blocks each went through before it was proposed.
    score: score of the exit each came from; NaN from the final head.
    log_prob: log-probability, untempered, under the head that decided.
    num: how many tokens.
    top: the likeliest tokens under the same head, zeros for rows that do not
      want them; None where the plan keeps none.
  """

  token: Int[Array, '*rows E']
  depth: Int[Array, '*rows E']
  score: Float[Array, '*rows E']
  log_prob: Float[Array, '*rows E']
  num: Int[Array, '*rows']
  top: TopLogProbs | None = None


def cache_size(plan: DecodePlan, *, longest: int) -> int:
  """Return how many slots texts of up to `longest` tokens need, padded.

  A window is written whole, wherever it starts: past the last token there
  must be room for the rest of it.
  """
  return bucket(longest + plan.window - 1, smallest=SMALLEST_CACHE)


def empty_segment(
  plan: DecodePlan,
  segment: Segment,
  *,
  batch_size: int,
  size: int,
  dtype: DTypeLike,
  kv_quantization: Quantization = Quantization.NONE,
) -> SegmentState:
  """Return the state of a segment that has seen nothing."""
  c = plan.config.model
  shape = (batch_size, c.num_kv_heads, size, c.head_dim)

  def cache() -> Float[Array, 'B K S H'] | Quantized:
    if kv_quantization is Quantization.INT8:
      return zero_rows(shape)
    return jnp.zeros(shape, dtype)

  num_caches = segment.num_caches if c.has_attention else 0
  caches = lambda: tuple(cache() for _ in range(num_caches))
  waiting = visible = None
  recomputes = plan.kv_strategy is KVStrategy.RECOMPUTE
  if segment is not plan.segments[0] or recomputes:
    waiting = empty_streams(plan, batch_size=batch_size, dtype=dtype)
  if plan.kv_strategy is KVStrategy.MASK:
    visible = jnp.ones((batch_size, size), bool)
  return SegmentState(
    keys=caches(),
    values=caches(),
    states=empty_states(
      plan, segment, batch_size, num_states(plan), dtype=dtype
    ),
    waiting=waiting,
    visible=visible,
    cache_length=jnp.zeros((batch_size,), jnp.int32),
  )


def num_states(plan: DecodePlan) -> int:
  """Return how many of the newest states a recurrent block keeps.

  A row is set back by fewer tokens than a window has, and what is written
  past its end reaches as far again.
  """
  return 2 * plan.window


def empty_states(
  plan: DecodePlan, segment: Segment, *batch: int, dtype: DTypeLike
) -> tuple[RecurrentState, ...]:
  """Return states of zeros, one for each recurrent block of a segment.

  Args:
    plan: what is decoded.
    segment: of the plan.
    *batch: dimensions that lead.
    dtype: of what a convolution needs again.
  """
  mixer = plan.config.model.state_space
  if mixer is None:
    return ()
  make = lambda: empty_state(
    *batch,
    tail_shape=mixer.tail_shape,
    memory_shape=mixer.memory_shape,
    dtype=dtype,
  )
  return tuple(make() for _ in range(segment.num_caches))


def empty_segments(
  plan: DecodePlan,
  *,
  batch_size: int,
  size: int,
  dtype: DTypeLike,
  kv_quantization: Quantization = Quantization.NONE,
) -> tuple[SegmentState, ...]:
  """Return the states of all segments of a plan that have seen nothing."""
  return tuple(
    empty_segment(
      plan,
      segment,
      batch_size=batch_size,
      size=size,
      dtype=dtype,
      kv_quantization=kv_quantization,
    )
    for segment in plan.segments
  )


def as_stored(rows: PyTree, caches: PyTree) -> PyTree:
  """Return new keys and values in the form in which caches hold theirs."""
  is_quantized = lambda cache: isinstance(cache, Quantized)
  return jax.tree.map(
    lambda cache, new: quantize_rows(new) if is_quantized(cache) else new,
    caches,
    rows,
    is_leaf=is_quantized,
  )


def rows_at(
  cache: Float[Array, 'B K S H'] | Quantized,
  slots: Int[Array, 'B'],
  *,
  dtype: DTypeLike,
) -> Float[Array, 'B K 1 H']:
  """Return what a cache holds of one token of each row."""

  def take(leaf):
    at = slots.reshape(-1, *(1,) * (leaf.ndim - 1))
    return jnp.take_along_axis(leaf, at, axis=2)

  rows = jax.tree.map(take, cache)
  if isinstance(rows, Quantized):
    return dequantize(rows, axes=(-1,), dtype=dtype)
  return rows


def empty_streams(
  plan: DecodePlan, *, batch_size: int, dtype: DTypeLike
) -> Float[Array, 'B two_W D']:
  """Return room for the streams of a window, and for one past its end."""
  shape = (batch_size, 2 * plan.window, plan.config.model.embed_dim)
  return jnp.zeros(shape, dtype)


def blank_emission(
  batch_size: int, *, plan: DecodePlan, room: int = 1
) -> Emission:
  """Return an emission of no token, with room for `room`."""
  number = jnp.zeros((batch_size, room), jnp.int32)
  zeros = jnp.zeros((batch_size, room), jnp.float32)
  return Emission(
    token=number,
    depth=number,
    score=zeros,
    log_prob=zeros,
    num=jnp.zeros((batch_size,), jnp.int32),
    top=blank_top((batch_size, room), plan=plan),
  )


def blank_top(
  shape: tuple[int, ...], *, plan: DecodePlan
) -> TopLogProbs | None:
  """Return zeros in place of the likeliest tokens that a plan keeps."""
  if not plan.top_logprobs:
    return None
  shape = (*shape, plan.top_logprobs)
  return TopLogProbs(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32))
