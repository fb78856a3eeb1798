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
"""A tick of early exit: each row's token goes as deep as its exits ask.

Whether a row may exit follows from its own tokens since its own last one at
full depth, as if it were alone; so which rows it shares a batch with, and
which batch policy is followed, changes no token of it.
"""

import dataclasses

import jax.numpy as jnp

from eejax.decoding.accounting import count_step
from eejax.decoding.batching import Batching
from eejax.decoding.cache import (
  DecodeState,
  Emission,
  Request,
  StageState,
  blank_emission,
)
from eejax.decoding.heads import Answer, answer_exit, answer_last
from eejax.decoding.plan import Plan
from eejax.decoding.policy import KVStrategy
from eejax.decoding.prepare import Prepared
from eejax.decoding.walk import Walk
from eejax.types import Array, Bool, Int


def decode_step(
  params: Prepared, request: Request, state: DecodeState, *, plan: Plan
) -> tuple[DecodeState, Emission]:
  """Move every row by a tick: most emit a token, some may have to wait.

  Args:
    params: the model.
    request: settings of the rows.
    state: where the rows stand.
    plan: the static shape of the program.
  """
  walk = Walk(params, state, plan=plan)
  emission = blank_emission(state.live.shape[0])
  left_at = jnp.zeros_like(state.length)
  # Stand-ins are a row's own; what is exact may come at any time.
  rides = state.live & plan.kv_strategy.is_exact
  for index, stage in enumerate(plan.stages):
    passed = walk.pass_stage(rides=rides)
    answer = _ask(walk, params, request, state, passed, plan=plan, index=index)
    walk.count_asked(answer.asked)
    walk.leave(passed, answer.take)
    emission = _merge(emission, answer, depth=stage.last)
    left_at = jnp.where(answer.take, index, left_at)
  return _advance(walk, request, state, emission, left_at, plan=plan)


def _ask(
  walk: Walk,
  params: Prepared,
  request: Request,
  state: DecodeState,
  passed: Bool[Array, 'B'],
  *,
  plan: Plan,
  index: int,
) -> Answer:
  """Return who leaves at the head of stage `index`, and with which token."""
  head_input = walk.head_input()
  if index == plan.num_exits:
    return answer_last(params, request, head_input, plan=plan, active=passed)
  may_take = passed
  if plan.kv_strategy.is_exact:
    # A token that exits waits, and the next one must still fit beside it.
    may_take = passed & (state.since_full + 1 < plan.window)
  if plan.kv_strategy is KVStrategy.MONOTONE:
    request = _never_deeper(request, state, index)
  answer = answer_exit(
    params, request, head_input, plan=plan, index=index, may_take=may_take
  )
  if plan.batching is Batching.ALL_AGREE:
    together = jnp.all(answer.take | ~passed)
    answer = dataclasses.replace(answer, take=answer.take & together)
  return answer


def _never_deeper(request: Request, state: DecodeState, index: int) -> Request:
  """Let rows that may go no deeper pass any threshold at stage `index`."""
  column = request.thresholds[:, index]
  column = jnp.where(state.deepest == index, -jnp.inf, column)
  thresholds = request.thresholds.at[:, index].set(column)
  return dataclasses.replace(request, thresholds=thresholds)


def _merge(emission: Emission, answer: Answer, *, depth: int) -> Emission:
  """Let rows that take an answer emit it."""
  take = answer.take
  pick = lambda new, old: jnp.where(take[:, None], new, old)
  return Emission(
    token=pick(answer.token[:, None], emission.token),
    depth=pick(depth, emission.depth),
    score=pick(answer.score[:, None], emission.score),
    log_prob=pick(answer.log_prob[:, None], emission.log_prob),
    num=jnp.where(take, 1, emission.num),
  )


def _advance(
  walk: Walk,
  request: Request,
  state: DecodeState,
  emission: Emission,
  left_at: Int[Array, 'B'],
  *,
  plan: Plan,
) -> tuple[DecodeState, Emission]:
  """Return the state after a tick, and what was emitted for good."""
  emitted, token = emission.num > 0, emission.token[:, 0]
  failed = emitted & ~jnp.isfinite(emission.log_prob[:, 0])
  emitted = emitted & ~failed
  remaining = state.remaining - emitted
  ends = emitted & (jnp.isin(token, request.eos) | (remaining <= 0))
  live = state.live & ~ends & ~failed
  at_full_depth = emission.depth[:, 0] == plan.depth
  since_full = jnp.where(at_full_depth, 0, state.since_full + 1)
  new_state = DecodeState(
    length=walk.length,
    tokens=jnp.where(emitted, token, state.tokens),
    parked=jnp.where(emitted | ~live, 0, walk.at),
    live=live,
    failed=state.failed | failed,
    remaining=remaining,
    since_full=jnp.where(emitted, since_full, state.since_full),
    deepest=jnp.where(emitted, left_at, state.deepest),
    stages=_settled(walk.stages, plan),
    cycles=tuple(walk.cycles),
    counts=count_step(state.counts, tuple(walk.events)),
  )
  return new_state, dataclasses.replace(emission, num=emitted.astype(jnp.int32))


def _settled(stages: list[StageState], plan: Plan) -> tuple[StageState, ...]:
  """Forget what shallow stages did for tokens that are to be recomputed."""
  if plan.kv_strategy is not KVStrategy.RECOMPUTE:
    return tuple(stages)
  done_to = stages[-1].done_to
  return tuple(dataclasses.replace(s, done_to=done_to) for s in stages)
