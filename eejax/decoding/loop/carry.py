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
"""The carry of one decode step, and its transitions from segment to segment.

    carry = begin_step(params, state)
    for index in segments:
      carry, rows = run_segment(params, carry, index)
      decision = decide_exit(params, request, rows)   # see `heads`
      carry = commit(carry, rows, decision, index)

Keys and values are exact by deferred catch-up. A token that exits leaves its
stream at the entrance of the next segment. When some row needs that segment, it
runs for the whole batch, over all tokens that wait there, in one window.

    position     0 1 2 3 4 5 6
    segment 0      # # # # # # #     every token
    segment 1      # # # # # #       ran last at 5, for the tokens 3, 4 and 5
    segment 2      # # #             tokens 3 to 6 have still to come

Each row has its own lines. Rows do not influence one another: a row that
rides along gets the same keys and values, only sooner.
"""

import dataclasses
from typing import TypeVar

import flax.struct
import jax
import jax.numpy as jnp

from eejax.decoding.loop import approximate_kv, backbone
from eejax.decoding.loop.accounting import SegmentEvent, no_event
from eejax.decoding.loop.approximate_kv import SkippedRows
from eejax.decoding.loop.cache import (
  DecodeState,
  Emission,
  SegmentState,
  blank_emission,
)
from eejax.decoding.loop.exit_decision import ExitDecision, ExitRows
from eejax.decoding.loop.exit_scoring import HeadInput
from eejax.decoding.loop.kv_catch_up import (
  Buffers,
  SegmentRun,
  at_index,
  run_segment_blocks,
  write_at,
)
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.policy import batching
from eejax.decoding.policy.batching import Batching, Cycle
from eejax.decoding.policy.criteria import Memory
from eejax.models.exits import ExitInput
from eejax.types import Array, Bool, Float, Int

Item = TypeVar('Item')


@flax.struct.dataclass
class StepInputs:
  """Tokens that enter a step; rows whose token waits halfway feed none.

  Attributes:
    tokens: of each row, the one to be fed next first.
    count: how many of them, 1 at least, are fed.
  """

  tokens: Int[Array, 'B N']
  count: Int[Array, 'B']


@flax.struct.dataclass
class StepCarry:
  """State of one decode step between two segments; X segments.

  Attributes:
    live: rows that generate.
    next_segment: the segment that each row's newest token goes through next; X
      where there is nothing to do for it in this step any more.
    length: tokens of each row that were fed, this step's included.
    available: the first slot of each row that has not come to the next segment.
    waiting: streams at the entrance of each segment and, last, those behind the
      last segment; None where none is kept.
    exit_input: what the newest segment that ran left for its head.
    ready: state of that segment's BLOCK head, else None.
    skipped: rows that go no further, and what approximate keys and values of
      their token are made of.
    segments: states of the segments, new up to the one that ran last.
    cycles: likewise, under DEPTH_QUEUE, else none.
    events: likewise.
    spent: cost of the segments that ran, in blocks.
    fed: tokens fed, over all rows.
    memory: what exits saw of each row's newest token.
    emission: what the rows that left emit.
    exit_segment: the segment at whose head each did; 0 for rows that have not.
  """

  live: Bool[Array, 'B']
  next_segment: Int[Array, 'B']
  length: Int[Array, 'B']
  available: Int[Array, 'B']
  waiting: tuple[Float[Array, 'B _ D'] | None, ...]
  exit_input: ExitInput
  ready: Float[Array, 'B 1 D'] | None
  skipped: SkippedRows
  segments: tuple[SegmentState, ...]
  cycles: tuple[Cycle, ...]
  events: tuple[SegmentEvent, ...]
  spent: Float[Array, '']
  fed: Int[Array, '']
  memory: Memory
  emission: Emission
  exit_segment: Int[Array, 'B']

  @property
  def position(self) -> Int[Array, 'B']:
    """Position of each row's newest token."""
    return self.length - 1


def begin_step(
  params: Prepared,
  state: DecodeState,
  *,
  plan: DecodePlan,
  inputs: StepInputs | None = None,
) -> StepCarry:
  """Return the carry before the first segment.

  Args:
    params: the model.
    state: where the rows stand.
    plan: the static shape of the program.
    inputs: tokens to feed; by default the one that each row emitted last.
  """
  if inputs is None:
    inputs = StepInputs(state.tokens[:, None], jnp.ones_like(state.length))
  rows, num_segments = state.live.shape[0], len(plan.segments)
  next_segment = jnp.where(state.live, state.resume_segment, num_segments)
  num_fed = jnp.where(next_segment == 0, inputs.count, 0)
  length = state.length + num_fed
  column = jnp.arange(inputs.tokens.shape[1])[None]
  embedded = backbone.embed(
    params, inputs.tokens, state.length[:, None] + column
  )
  newest = at_index(embedded, inputs.count - 1)
  return StepCarry(
    live=state.live,
    next_segment=next_segment,
    length=length,
    available=length,
    waiting=_enqueue(state, embedded, plan=plan),
    exit_input=ExitInput(hidden=newest),
    ready=None,
    skipped=SkippedRows(
      mask=jnp.zeros_like(state.live),
      source=approximate_kv.empty_source(newest, plan=plan),
    ),
    segments=state.segments,
    cycles=state.cycles,
    events=(no_event(rows),) * num_segments,
    spent=jnp.zeros((), jnp.float32),
    fed=jnp.sum(num_fed),
    memory=state.memory,
    emission=blank_emission(rows, plan=plan),
    exit_segment=jnp.zeros((rows,), jnp.int32),
  )


def run_segment(
  params: Prepared,
  carry: StepCarry,
  index: int,
  *,
  plan: DecodePlan,
  rides: Bool[Array, 'B'],
) -> tuple[StepCarry, ExitRows]:
  """Run segment `index` if that is due.

  Args:
    params: the model.
    carry: of the step, up to the segment.
    index: which segment.
    plan: the static shape of the program.
    rides: rows whose waiting tokens are taken along if it runs.

  Returns:
    The carry behind the segment, and the rows that came to its head; the others
    stay where they are.
  """
  here, before = carry.next_segment == index, carry.segments[index]
  runs, carry = _schedule(carry, index, here, plan=plan)
  base = before.cache_length
  count = jnp.where(here | rides, carry.available - base, 0)
  if plan.segments[index].num_caches:
    carry = _run(params, carry, index, count, runs, plan=plan)
  done = jnp.where(runs, count, 0)
  available = base + jnp.where(carry.skipped.mask, 1, done)
  after = dataclasses.replace(carry.segments[index], cache_length=available)
  if before.waiting is not None:
    after = dataclasses.replace(after, waiting=carry.waiting[index])
  event = SegmentEvent(runs, done, here, jnp.zeros_like(count))
  carry = dataclasses.replace(
    carry,
    available=available,
    segments=_with(carry.segments, index, after),
    events=_with(carry.events, index, event),
  )
  return carry, ExitRows(here & runs, _head_input(carry))


def commit(
  carry: StepCarry,
  rows: ExitRows,
  decision: ExitDecision,
  index: int,
  *,
  plan: DecodePlan,
) -> StepCarry:
  """Return the carry after a decision at segment `index`.

  Rows that exit emit their token and are done for this step, the others that
  came to the head go on.
  """
  carry = record(carry, decision.logits_computed, index)
  carry = exit_rows(carry, rows, decision.exit_mask, index, plan=plan)
  emission = _merge(carry.emission, decision, depth=plan.segments[index].last)
  return dataclasses.replace(
    carry,
    memory=decision.memory,
    emission=emission,
    exit_segment=jnp.where(decision.exit_mask, index, carry.exit_segment),
  )


def exit_rows(
  carry: StepCarry,
  rows: ExitRows,
  exit_mask: Bool[Array, 'B'],
  index: int,
  *,
  plan: DecodePlan,
) -> StepCarry:
  """Part the rows that came to the head of segment `index`.

  Args:
    carry: behind the segment.
    rows: that came to its head.
    exit_mask: those of them that go no further.
    index: which segment.
    plan: the static shape of the program.
  """
  following = jnp.where(exit_mask, len(plan.segments), index + 1)
  next_segment = jnp.where(rows.mask, following, carry.next_segment)
  skipped = carry.skipped
  if plan.kv_strategy.fills and index < plan.num_exits:
    skipped = SkippedRows(
      mask=skipped.mask | exit_mask,
      source=approximate_kv.record_source(
        skipped.source,
        exit_mask,
        carry.exit_input,
        carry.segments[index],
        plan=plan,
        segment=plan.segments[index],
      ),
    )
  return dataclasses.replace(carry, next_segment=next_segment, skipped=skipped)


def record(
  carry: StepCarry,
  logits_computed: Int[Array, 'B'] | Bool[Array, 'B'],
  index: int,
) -> StepCarry:
  """Record how often each row needed the logits of segment `index`."""
  event = dataclasses.replace(
    carry.events[index], logits_computed=logits_computed.astype(jnp.int32)
  )
  return dataclasses.replace(carry, events=_with(carry.events, index, event))


def _merge(before: Emission, decision: ExitDecision, *, depth: int) -> Emission:
  """Return `before` with the tokens of rows that exit at `depth`."""
  output, mask = decision.output, decision.exit_mask
  pick = lambda new, old: jnp.where(mask[:, None], new, old)
  pick_top = lambda new, old: jnp.where(mask[:, None, None], new[:, None], old)
  return Emission(
    token=pick(output.token[:, None], before.token),
    depth=pick(depth, before.depth),
    score=pick(output.score[:, None], before.score),
    log_prob=pick(output.log_prob[:, None], before.log_prob),
    num=jnp.where(mask, 1, before.num),
    top=jax.tree.map(pick_top, output.top, before.top),
  )


# MARK: Which segments run


def _schedule(
  carry: StepCarry, index: int, here: Bool[Array, 'B'], *, plan: DecodePlan
) -> tuple[Bool[Array, ''], StepCarry]:
  """Return whether segment `index` runs, and the carry with what that costs."""
  match plan.batching:
    case Batching.REFERENCE:
      return jnp.any(carry.live), carry
    case Batching.RIDE_ALONG:
      return jnp.any(here), carry
  cycle = carry.cycles[index].after_step(spent=carry.spent, fed=carry.fed)
  is_moving = (carry.next_segment < index) | (
    carry.next_segment == len(plan.segments)
  )
  runs = jnp.any(here)
  if index:
    runs &= batching.pays(
      cycle,
      cost=plan.costs[index],
      upstream=jnp.sum(is_moving & carry.live),
      patience=plan.patience,
    )
  carry = dataclasses.replace(
    carry,
    cycles=_with(carry.cycles, index, cycle.renewed_if(runs)),
    spent=carry.spent + jnp.where(runs, plan.costs[index], 0.0),
  )
  return runs, carry


# MARK: Streams


def _enqueue(
  state: DecodeState, embedded: Float[Array, 'B N D'], *, plan: DecodePlan
) -> tuple[jax.Array | None, ...]:
  """Return what waits at each entrance once new tokens are embedded.

  Behind the last segment waits what the final head verifies.
  """
  waiting = (*(s.waiting for s in state.segments), state.verify_hidden)
  first = 0 if plan.segments[0].num_caches else 1
  before = waiting[first]
  if before is not None:
    at = state.length - state.segments[first].cache_length
    embedded = write_at(before, embedded, at, axis=0)
  return _with(waiting, first, embedded)


def _run(
  params: Prepared,
  carry: StepCarry,
  index: int,
  count: Int[Array, 'B'],
  runs: Bool[Array, ''],
  *,
  plan: DecodePlan,
) -> StepCarry:
  """Run the blocks of segment `index`, if it `runs`, over `count` tokens."""
  state, entering = carry.segments[index], carry.waiting[index]
  assert entering is not None
  at, base = jnp.zeros_like(count), state.cache_length
  if index + 1 < len(plan.segments):
    at = base - carry.segments[index + 1].cache_length
  run = SegmentRun(
    params=params,
    plan=plan,
    segment=plan.segments[index],
    runs=runs,
    entering=entering,
    base=base,
    count=count,
    following_at=at,
    visible=state.visible,
    skipped=carry.skipped if index and plan.kv_strategy.fills else None,
  )
  result = run_segment_blocks(
    run,
    Buffers(state.keys, state.values, state.states, carry.waiting[index + 1]),
  )
  visible = state.visible
  if visible is not None:
    mask = carry.skipped.mask
    visible = write_at(visible, ~mask[:, None], base, axis=0)
  after = dataclasses.replace(
    state,
    keys=result.buffers.keys,
    values=result.buffers.values,
    states=result.buffers.states,
    visible=visible,
  )
  return dataclasses.replace(
    carry,
    waiting=_with(carry.waiting, index + 1, result.buffers.following),
    exit_input=result.last,
    ready=result.ready,
    segments=_with(carry.segments, index, after),
  )


def _head_input(carry: StepCarry) -> HeadInput:
  """Return what the head of the newest segment reads."""
  return HeadInput(
    carry.exit_input, carry.ready, carry.position, memory=carry.memory
  )


def _with(items: tuple[Item, ...], index: int, item: Item) -> tuple[Item, ...]:
  """Return a tuple with another item at `index`."""
  return (*items[:index], item, *items[index + 1 :])
