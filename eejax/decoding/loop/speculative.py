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
"""The step of lossless self-speculation: exits draft, the whole model verifies.

Each row feeds itself the tokens that its exit proposes, until the exit is
unsure or the window is full. Then the deeper segments run once over the window,
as in deferred catch-up, and the final head says what it would have emitted
after each of its tokens:

    fed          t  a  b  c       t was emitted, a b c are drafts
    final head   a  b  x  .       a and b are kept, c is not
    emitted      a  b  x          the row goes on from x

Keys and values of t, a and b are complete then and are never computed again;
what was written for c lies past the end of the row.

Where drafts are looked up in the text, too, all of them are known at once:
they enter the first segment together, and a step may feed and verify a window.

Sampling needs no rejection step. The random numbers of a position are the
same for every head (`eejax.ops.sampling.choose`), so draft and model choose
from coupled distributions, the draft is kept iff they choose alike, and the
text is, token for token, the one that full decoding samples with the same
seed. With TV their distance in total variation, they agree with probability
(1 - TV) / (1 + TV) at least (Daliri et al. 2024, arXiv 2408.07978, theorem
2); rejection sampling would keep 1 - TV, in distribution alone.
"""

import dataclasses

import jax
import jax.numpy as jnp

from eejax.decoding.drafting import adaptive
from eejax.decoding.drafting.adaptive import Draft
from eejax.decoding.drafting.prompt_lookup import propose
from eejax.decoding.loop.accounting import Counts, count_step
from eejax.decoding.loop.cache import BatchSettings, DecodeState, Emission
from eejax.decoding.loop.cached_contexts import write_at
from eejax.decoding.loop.carry import (
  StepCarry,
  StepInputs,
  begin_step,
  commit,
  exit_rows,
  record,
  run_segment,
)
from eejax.decoding.loop.exit_decision import decide_exit
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.verification import AcceptanceResult, accept, verify
from eejax.types import Array, Bool, Int


def speculative_step(
  params: Prepared,
  request: BatchSettings,
  state: DecodeState,
  *,
  plan: DecodePlan,
) -> tuple[DecodeState, Emission]:
  """Return the state after a step: rows draft a token, or are verified.

  Args:
    params: the model.
    request: settings of the rows; a draft goes on iff score >= threshold.
    state: where the rows stand.
    plan: the static shape of the program.
  """
  assert state.draft is not None
  draft, inputs = _feed(state.draft, state, plan=plan)
  carry = begin_step(params, state, plan=plan, inputs=inputs)
  # Tokens fed since the last verification, the newest included.
  fed = carry.length - state.segments[-1].cache_length
  carry = _draft(params, request, carry, draft, fed, plan=plan)
  has_drafted = carry.emission.num > 0
  score, token = carry.emission.score[:, 0], carry.emission.token[:, 0]
  scores = _put(draft.scores, score, at=fed, rows=has_drafted)
  draft = dataclasses.replace(draft, scores=scores)
  carry, verified = _run_to_the_end(params, carry, fed, plan=plan)
  first = state.segments[-1].cache_length
  assert carry.waiting[-1] is not None
  target = verify(
    params,
    request,
    carry.waiting[-1],
    first=first,
    count=jnp.where(verified, fed, 0),
    plan=plan,
  )
  accepted = accept(
    draft, target, first=first, verified=verified, fed=fed, plan=plan
  )
  next_token = jnp.where(
    verified,
    accepted.next_token,
    jnp.where(has_drafted, token, state.tokens),
  )
  return _finish_step(
    carry, request, state, draft, accepted, next_token, plan=plan
  )


def _draft(
  params: Prepared,
  request: BatchSettings,
  carry: StepCarry,
  draft: Draft,
  fed: Int[Array, 'B'],
  *,
  plan: DecodePlan,
) -> StepCarry:
  """Run the segments with exits; rows whose exit is sure emit a draft there."""
  nobody = jnp.zeros_like(carry.live)
  has_room = fed <= draft.choice.limit
  for index in range(plan.num_exits):
    carry, rows = run_segment(params, carry, index, plan=plan, rides=nobody)
    # Rows whose threshold is never ask no exit.
    drafts = jnp.isfinite(request.thresholds[:, index])
    decision = decide_exit(
      params,
      request,
      rows.head_input,
      plan=plan,
      index=index,
      may_exit=(
        rows.mask & (draft.choice.segment == index) & has_room & drafts
      ),
    )
    carry = commit(carry, rows, decision, index, plan=plan)
  return carry


def _run_to_the_end(
  params: Prepared, carry: StepCarry, fed: Int[Array, 'B'], *, plan: DecodePlan
) -> tuple[StepCarry, Bool[Array, 'B']]:
  """Run the last segment; return the rows whose window has come to the end."""
  last, nobody = plan.num_exits, jnp.zeros_like(carry.live)
  carry, rows = run_segment(params, carry, last, plan=plan, rides=nobody)
  carry = record(carry, jnp.where(rows.mask, fed, 0), last)
  carry = exit_rows(carry, rows, rows.mask, last, plan=plan)
  return carry, rows.mask


def _feed(
  draft: Draft, state: DecodeState, *, plan: DecodePlan
) -> tuple[Draft, StepInputs]:
  """Return what each row feeds in this step, and its draft with that.

  Rows that feed nothing are not told apart: what is written for them lies
  past their end.
  """
  newest = state.tokens[:, None]
  text = write_at(draft.text, newest, state.length, axis=0)
  alone = jnp.ones_like(state.length)
  if plan.prompt_lookup is None or plan.window == 1:
    return dataclasses.replace(draft, text=text), StepInputs(newest, alone)
  following, run = propose(
    text,
    newest=state.length,
    shortest=plan.prompt_lookup,
    num=plan.window - 1,
  )
  text = write_at(text, following, state.length + 1, axis=0)
  # The column of the newest token in the window; drafts may stand before it.
  at = state.length - state.segments[-1].cache_length
  # The last length stands for all longer runs.
  longer = jnp.maximum(run - plan.prompt_lookup, 0)
  which = jnp.minimum(longer, adaptive.num_runs(plan) - 1)
  limit = jnp.take_along_axis(
    draft.choice.lookup_limits, which[:, None], axis=1
  )[:, 0]
  room = jnp.minimum(limit, plan.window - 1 - at)
  num = jnp.where(run > 0, jnp.maximum(room, 0), 0)
  column = jnp.arange(plan.window)[None]
  is_new = (column > at[:, None]) & (column <= (at + num)[:, None])
  scores = jnp.where(is_new, jnp.nan, draft.scores)
  tokens = jnp.concatenate([newest, following], axis=1)
  draft = dataclasses.replace(
    draft,
    text=text,
    scores=scores,
    run=jnp.where(num > 0, which, draft.run),
  )
  return draft, StepInputs(tokens, alone + num)


def _put(
  table: jax.Array, value: jax.Array, *, at: Int[Array, 'B'], rows: jax.Array
) -> jax.Array:
  """Write one entry of each of `rows`; there may be no such column."""
  columns = jnp.arange(table.shape[1])[None]
  chosen = rows[:, None] & (columns == at[:, None])
  return jnp.where(chosen, value[:, None], table)


def _finish_step(
  carry: StepCarry,
  request: BatchSettings,
  state: DecodeState,
  draft: Draft,
  accepted: AcceptanceResult,
  next_token: Int[Array, 'B'],
  *,
  plan: DecodePlan,
) -> tuple[DecodeState, Emission]:
  """Return the state after a step, and what was emitted for good.

  Args:
    carry: behind the last segment.
    request: settings of the rows.
    state: before it.
    draft: with what this step proposed.
    accepted: what became of the windows.
    next_token: of each row, what it is fed next.
    plan: what is decoded.
  """
  verified, fed, kept = accepted.verified, accepted.fed, accepted.kept
  assert request.window_costs is not None
  num, failed, ended = _cut(accepted.emission, request, state)
  live = state.live & ~failed & ~ended
  # Where a row's text ends now: behind what stands of its window.
  length = jnp.where(
    verified, state.segments[-1].cache_length + kept + 1, carry.length
  )
  counts = _count(state.counts, carry, draft, accepted, plan=plan)
  is_halfway = carry.next_segment < len(plan.segments)
  new_state = dataclasses.replace(
    state,
    length=length,
    tokens=next_token,
    resume_segment=jnp.where(live & is_halfway, carry.next_segment, 0),
    live=live,
    failed=state.failed | failed,
    remaining=state.remaining - num,
    segments=tuple(
      dataclasses.replace(s, cache_length=jnp.minimum(s.cache_length, length))
      for s in carry.segments
    ),
    cycles=carry.cycles,
    counts=counts,
    memory=carry.memory,
    verify_hidden=carry.waiting[-1],
    draft=adaptive.learn(
      draft,
      rows=verified,
      fed=fed,
      kept=kept,
      plan=plan,
      window_costs=request.window_costs,
    ),
  )
  return new_state, dataclasses.replace(accepted.emission, num=num)


def _cut(
  emission: Emission, request: BatchSettings, state: DecodeState
) -> tuple[Int[Array, 'B'], Bool[Array, 'B'], Bool[Array, 'B']]:
  """Return how many tokens rows emit, and which of them fail or end.

  Nothing after an end token is emitted, nor more than a row may.
  """
  index = jnp.arange(emission.token.shape[1])[None]
  is_there = index < emission.num[:, None]
  never = emission.token.shape[1]
  first = lambda what: jnp.min(jnp.where(what & is_there, index, never), axis=1)
  broken = first(~jnp.isfinite(emission.log_prob))
  end = first(request.ends(emission.token))
  num = jnp.minimum(emission.num, jnp.minimum(end + 1, state.remaining))
  failed = broken < num
  num = jnp.minimum(num, broken)
  ended = ~failed & ((end < num) | (num >= state.remaining))
  return num, failed, ended & (emission.num > 0)


def _count(
  counts: Counts,
  carry: StepCarry,
  draft: Draft,
  accepted: AcceptanceResult,
  *,
  plan: DecodePlan,
) -> Counts:
  """Return the counts after a step, drafts by who proposed them."""
  counts = count_step(counts, carry.events)
  column = jnp.arange(plan.window)[None]
  rows = accepted.verified[:, None] & (column > 0)
  up_to = lambda last: rows & (column <= last[:, None])
  drafted, kept = (
    adaptive.by_segment(draft, up_to(last), plan=plan)
    for last in (accepted.fed - 1, accepted.kept)
  )
  # Column 0 is no draft and stands for the window itself.
  stood = jnp.where(
    column == 0, accepted.fed[:, None] > 1, column <= accepted.kept[:, None]
  )
  return dataclasses.replace(
    counts,
    drafted=counts.drafted + drafted,
    accepted=counts.accepted + kept,
    accepted_at=counts.accepted_at + (accepted.verified[:, None] & stood),
  )
