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
"""A step of early exit: each row's token goes as deep as its exits ask.

Whether a row may exit follows from its own tokens since its own last one at
full depth, as if it were alone; so which rows it shares a batch with, and
which batch policy is followed, changes no token of it.
"""

import dataclasses

import flax.struct
import jax.numpy as jnp

from eejax.decoding.loop import observation as observing
from eejax.decoding.loop.accounting import count_step
from eejax.decoding.loop.cache import (
  DecodeState,
  Emission,
  Request,
  StageState,
  blank_emission,
)
from eejax.decoding.loop.heads import (
  HeadOutput,
  run_exit_head,
  run_last_head,
  top1_token,
)
from eejax.decoding.loop.observation import Observation
from eejax.decoding.loop.plan import Plan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.scoring import FinalPredictions, HeadInput
from eejax.decoding.loop.walk import Walk
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import KVStrategy
from eejax.types import Array, Bool, Int


@flax.struct.dataclass
class ExitDecision:
  """Hold where rows left.

  Attributes:
    emission: what they emit.
    at: the stage at whose head each did; 0 for rows that have not.
  """

  emission: Emission
  at: Int[Array, 'B']


def decode_step(
  params: Prepared, request: Request, state: DecodeState, *, plan: Plan
) -> tuple[DecodeState, Emission]:
  """Move every row by a step: most emit a token, some may have to wait.

  Args:
    params: the model.
    request: settings of the rows.
    state: where the rows stand.
    plan: the static shape of the program.
  """
  walk = Walk(params, state, plan=plan)
  request = observing.with_current_thresholds(
    request, state, position=walk.position, plan=plan
  )
  observation = observing.begin(state, position=walk.position, plan=plan)
  if plan.has_oracle:
    decision = _leave_in_hindsight(walk, params, request, state, plan)
  else:
    decision = _leave_on_the_way(
      walk, params, request, state, plan, observation
    )
  return _advance(walk, request, state, decision, observation, plan=plan)


# MARK: Leaving


def _leave_on_the_way(
  walk: Walk,
  params: Prepared,
  request: Request,
  state: DecodeState,
  plan: Plan,
  observation: Observation | None,
) -> ExitDecision:
  """Ask each head as rows come to it."""
  decision = _nobody_left(state)
  # Stand-ins are a row's own; what is exact may come at any time.
  rides = state.live & plan.kv_strategy.is_exact
  for index in range(plan.num_exits):
    passed = walk.pass_stage(rides=rides)
    may_exit = _may_exit(passed, state, plan)
    if observation is not None:
      may_exit = may_exit & ~observation.rows
    asked = request
    if plan.kv_strategy is KVStrategy.MONOTONE:
      asked = _never_deeper(request, state, index)
    head_input = walk.head_input()
    output = run_exit_head(
      params, asked, head_input, plan=plan, index=index, may_exit=may_exit
    )
    if observation is not None:
      observation.observe(params, request, head_input, plan, index, passed)
    if plan.batching is Batching.ALL_AGREE:
      together = jnp.all(output.exit_mask | ~passed)
      output = dataclasses.replace(
        output, exit_mask=output.exit_mask & together
      )
    walk.hear(output)
    walk.leave(passed, output.exit_mask)
    decision = _merge(decision, output, plan=plan, index=index)
  return _leave_at_the_end(walk, params, request, decision, rides, plan)


def _leave_at_the_end(
  walk: Walk,
  params: Prepared,
  request: Request,
  decision: ExitDecision,
  rides: Bool[Array, 'B'],
  plan: Plan,
) -> ExitDecision:
  """Let rows that are left leave at the last head."""
  passed = walk.pass_stage(rides=rides)
  output = run_last_head(
    params, request, walk.head_input(), plan=plan, active=passed
  )
  walk.hear(output)
  walk.leave(passed, passed)
  return _merge(decision, output, plan=plan, index=plan.num_exits)


def _leave_in_hindsight(
  walk: Walk,
  params: Prepared,
  request: Request,
  state: DecodeState,
  plan: Plan,
) -> ExitDecision:
  """Compute every head first, then ask an oracle where rows could have left.

  Every row goes to the end, so its keys and values are complete.
  """
  seen: list[HeadInput] = []
  nobody = jnp.zeros_like(state.live)
  for _ in range(plan.num_exits):
    passed = walk.pass_stage(rides=nobody)
    seen.append(walk.head_input())
    walk.count_logits(passed)
    walk.leave(passed, nobody)
  decision = _leave_at_the_end(
    walk, params, request, _nobody_left(state), nobody, plan
  )
  tops = [
    top1_token(params, head_input, plan=plan, index=index)
    for index, head_input in enumerate([*seen, walk.head_input()])
  ]
  final_predictions = FinalPredictions(jnp.stack(tops[:-1], axis=1), tops[-1])
  staying = state.live
  for index, head_input in enumerate(seen):
    output = run_exit_head(
      params,
      request,
      dataclasses.replace(head_input, final_predictions=final_predictions),
      plan=plan,
      index=index,
      may_exit=staying,
    )
    staying = staying & ~output.exit_mask
    decision = _merge(decision, output, plan=plan, index=index)
  return decision


def _nobody_left(state: DecodeState) -> ExitDecision:
  rows = state.live.shape[0]
  return ExitDecision(blank_emission(rows), jnp.zeros((rows,), jnp.int32))


def _may_exit(
  passed: Bool[Array, 'B'], state: DecodeState, plan: Plan
) -> Bool[Array, 'B']:
  """Return the rows that may leave at an exit they passed."""
  if not plan.kv_strategy.is_exact:
    return passed
  # A token that exits waits, and the next one must still fit beside it.
  return passed & (state.since_full + 1 < plan.window)


def _never_deeper(request: Request, state: DecodeState, index: int) -> Request:
  """Let rows that may go no deeper pass any threshold at stage `index`."""
  column = request.thresholds[:, index]
  column = jnp.where(state.deepest == index, -jnp.inf, column)
  thresholds = request.thresholds.at[:, index].set(column)
  return dataclasses.replace(request, thresholds=thresholds)


def _merge(
  decision: ExitDecision, output: HeadOutput, *, plan: Plan, index: int
) -> ExitDecision:
  """Let rows that take an output emit it."""
  take, before = output.exit_mask, decision.emission
  pick = lambda new, old: jnp.where(take[:, None], new, old)
  emission = Emission(
    token=pick(output.token[:, None], before.token),
    depth=pick(plan.stages[index].last, before.depth),
    score=pick(output.score[:, None], before.score),
    log_prob=pick(output.log_prob[:, None], before.log_prob),
    num=jnp.where(take, 1, before.num),
  )
  return ExitDecision(emission, jnp.where(take, index, decision.at))


# MARK: After it


def _advance(
  walk: Walk,
  request: Request,
  state: DecodeState,
  decision: ExitDecision,
  observation: Observation | None,
  *,
  plan: Plan,
) -> tuple[DecodeState, Emission]:
  """Return the state after a step, and what was emitted for good."""
  emission = decision.emission
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
    resume_stage=jnp.where(emitted | ~live, 0, walk.at),
    live=live,
    failed=state.failed | failed,
    remaining=remaining,
    since_full=jnp.where(emitted, since_full, state.since_full),
    deepest=jnp.where(emitted, decision.at, state.deepest),
    stages=_settled(walk.stages, plan),
    cycles=tuple(walk.cycles),
    counts=count_step(state.counts, tuple(walk.events)),
    memory=walk.memory,
    rule=observing.learn(
      state, observation, token=token, rows=emitted, plan=plan
    ),
  )
  return new_state, dataclasses.replace(emission, num=emitted.astype(jnp.int32))


def _settled(stages: list[StageState], plan: Plan) -> tuple[StageState, ...]:
  """Forget what shallow stages did for tokens that are to be recomputed."""
  if plan.kv_strategy is not KVStrategy.RECOMPUTE:
    return tuple(stages)
  cache_length = stages[-1].cache_length
  return tuple(
    dataclasses.replace(s, cache_length=cache_length) for s in stages
  )
