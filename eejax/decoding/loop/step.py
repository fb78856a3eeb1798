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
"""The step of early exit: each row's token goes as deep as its exits ask.

Whether a row may exit follows from its own tokens since its own last one at
full depth, as if it were alone; so which rows it shares a batch with, and
which batch policy is followed, changes no token of it.
"""

import dataclasses

import jax.numpy as jnp

from eejax.decoding.loop.accounting import count_step
from eejax.decoding.loop.cache import (
  BatchSettings,
  DecodeState,
  Emission,
  SegmentState,
)
from eejax.decoding.loop.carry import (
  StepCarry,
  begin_step,
  commit,
  run_segment,
)
from eejax.decoding.loop.exit_decision import decide_exit, decide_last
from eejax.decoding.loop.observation import (
  Observation,
  begin_observation,
  learn,
  observe,
  with_current_thresholds,
)
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.policy.policy import KVStrategy
from eejax.types import Array, Bool


def decode_step(
  params: Prepared,
  request: BatchSettings,
  state: DecodeState,
  *,
  plan: DecodePlan,
) -> tuple[DecodeState, Emission]:
  """Return the state after a step: most rows emit a token, some may wait.

  Args:
    params: the model.
    request: settings of the rows.
    state: where the rows stand.
    plan: the static shape of the program.
  """
  carry = begin_step(params, state, plan=plan)
  request = with_current_thresholds(
    request, state, position=carry.position, plan=plan
  )
  observation = begin_observation(state, position=carry.position, plan=plan)
  # Approximate keys and values are a row's own; exact ones may come any time.
  rides = state.live & plan.kv_strategy.is_exact
  for index in range(plan.num_exits):
    carry, rows = run_segment(params, carry, index, plan=plan, rides=rides)
    decision = decide_exit(
      params,
      _request_at(request, state, index, plan=plan),
      rows.head_input,
      plan=plan,
      index=index,
      may_exit=_may_exit(rows.mask, state, observation, plan=plan),
    )
    if observation is not None:
      observation = observe(
        observation, params, request, rows, plan=plan, index=index
      )
    carry = commit(carry, rows, decision, index, plan=plan)
  carry, rows = run_segment(
    params, carry, plan.num_exits, plan=plan, rides=rides
  )
  decision = decide_last(params, request, rows, plan=plan)
  carry = commit(carry, rows, decision, plan.num_exits, plan=plan)
  return _finish_step(carry, request, state, observation, plan=plan)


def _may_exit(
  rows: Bool[Array, 'B'],
  state: DecodeState,
  observation: Observation | None,
  *,
  plan: DecodePlan,
) -> Bool[Array, 'B']:
  """Return which of the rows at an exit may take it."""
  if plan.kv_strategy.is_exact:
    # A token that exits waits, and the next one must still fit beside it.
    rows = rows & (state.since_full + 1 < plan.window)
  if observation is not None:
    rows = rows & ~observation.rows
  return rows


def _request_at(
  request: BatchSettings, state: DecodeState, index: int, *, plan: DecodePlan
) -> BatchSettings:
  """Return the settings with the thresholds of segment `index`.

  Under MONOTONE rows that may go no deeper pass any threshold there.
  """
  if plan.kv_strategy is not KVStrategy.MONOTONE:
    return request
  column = request.thresholds[:, index]
  column = jnp.where(state.deepest == index, -jnp.inf, column)
  thresholds = request.thresholds.at[:, index].set(column)
  return dataclasses.replace(request, thresholds=thresholds)


def _finish_step(
  carry: StepCarry,
  request: BatchSettings,
  state: DecodeState,
  observation: Observation | None,
  *,
  plan: DecodePlan,
) -> tuple[DecodeState, Emission]:
  """Return the state after a step, and what was emitted for good."""
  emission = carry.emission
  emitted, token = emission.num > 0, emission.token[:, 0]
  failed = emitted & ~jnp.isfinite(emission.log_prob[:, 0])
  emitted = emitted & ~failed
  remaining = state.remaining - emitted
  is_end = request.ends(emission.token)[:, 0]
  ends = emitted & (is_end | (remaining <= 0))
  live = state.live & ~ends & ~failed
  at_full_depth = emission.depth[:, 0] == plan.depth
  since_full = jnp.where(at_full_depth, 0, state.since_full + 1)
  new_state = DecodeState(
    length=carry.length,
    tokens=jnp.where(emitted, token, state.tokens),
    resume_segment=jnp.where(emitted | ~live, 0, carry.next_segment),
    live=live,
    failed=state.failed | failed,
    remaining=remaining,
    since_full=jnp.where(emitted, since_full, state.since_full),
    deepest=jnp.where(emitted, carry.exit_segment, state.deepest),
    segments=_settled(carry.segments, plan),
    cycles=carry.cycles,
    counts=count_step(state.counts, carry.events),
    memory=carry.memory,
    rule=learn(state, observation, token=token, rows=emitted, plan=plan),
  )
  return new_state, dataclasses.replace(emission, num=emitted.astype(jnp.int32))


def _settled(
  segments: tuple[SegmentState, ...], plan: DecodePlan
) -> tuple[SegmentState, ...]:
  """Forget what shallow segments did for tokens that are to be recomputed."""
  if plan.kv_strategy is not KVStrategy.RECOMPUTE:
    return segments
  last = segments[-1].cache_length
  return tuple(dataclasses.replace(s, cache_length=last) for s in segments)
