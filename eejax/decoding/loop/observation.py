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
"""How threshold rules are followed while rows are decoded.

A rule that learns has to know, for some tokens, what every exit would have
said and what the model did say. Tokens that happen to go deep are a skewed
sample, for their scores were low; so every `window`-th token of a row goes to
the end whatever its scores are, and all exits are asked about it.
"""

import dataclasses

import flax.struct
import jax.numpy as jnp
from jax import lax

from eejax.decoding.loop.cache import BatchSettings, DecodeState
from eejax.decoding.loop.exit_decision import ExitRows, decide_exit, top1_token
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.policy.criteria import Memory
from eejax.decoding.policy.thresholds import (
  Constant,
  ThresholdRule,
  ThresholdState,
  parse_threshold_rule,
)
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class Observation:
  """What exits say of tokens that are observed, see the module; X exits.

  Attributes:
    rows: whose newest token is observed.
    scores: of these tokens at each exit that was passed.
    tokens: likeliest tokens, likewise.
    memory: what the exits passed saw of them. They ask for nothing else in
      this step, so nobody else remembers it.
  """

  rows: Bool[Array, 'B']
  scores: Float[Array, 'B X']
  tokens: Int[Array, 'B X']
  memory: Memory


def rule_of(plan: DecodePlan) -> ThresholdRule:
  """Return the threshold rule a plan names."""
  return parse_threshold_rule(plan.threshold_rule)


def first_rule_state(
  request: BatchSettings,
  *,
  length: Int[Array, 'B'],
  limit: Int[Array, 'B'],
  plan: DecodePlan,
) -> ThresholdState | None:
  """Return what a rule knows at the start; None where thresholds stay.

  Args:
    request: with the policy's thresholds.
    length: position of each row's first token to be fed.
    limit: how many tokens each row may emit.
    plan: what is decoded.
  """
  rule = rule_of(plan)
  if isinstance(rule, Constant):
    return None
  return rule.init(request.thresholds, start=length, limit=limit)


def with_current_thresholds(
  request: BatchSettings,
  state: DecodeState,
  *,
  position: Int[Array, 'B'],
  plan: DecodePlan,
) -> BatchSettings:
  """Return the settings with the thresholds of this step."""
  if state.rule is None:
    return request
  values = rule_of(plan).values(state.rule, position)
  return dataclasses.replace(request, thresholds=values)


def begin_observation(
  state: DecodeState, *, position: Int[Array, 'B'], plan: DecodePlan
) -> Observation | None:
  """Return which rows are observed in this step; None if nobody learns."""
  if state.rule is None or state.rule.moments is None:
    return None
  shape = (position.shape[0], plan.num_exits)
  return Observation(
    rows=position % plan.window == 0,
    scores=jnp.zeros(shape, jnp.float32),
    tokens=jnp.zeros(shape, jnp.int32),
    memory=state.memory,
  )


def observe(
  observation: Observation,
  params: Prepared,
  request: BatchSettings,
  rows: ExitRows,
  *,
  plan: DecodePlan,
  index: int,
) -> Observation:
  """Return the observation with what the exit of segment `index` says.

  Args:
    observation: of the exits before.
    params: the model.
    request: settings of the rows.
    rows: that came to the exit; of the others nothing is noted.
    plan: what is decoded.
    index: which segment.
  """
  mask = rows.mask & observation.rows
  never = jnp.full_like(request.thresholds, jnp.inf)
  unmoved = dataclasses.replace(request, thresholds=never)
  head_input = dataclasses.replace(rows.head_input, memory=observation.memory)

  def ask():
    decision = decide_exit(
      params, unmoved, head_input, plan=plan, index=index, may_exit=mask
    )
    top1 = top1_token(params, head_input, plan=plan, index=index)
    return decision.output.score, top1, decision.memory

  blank = jnp.zeros(mask.shape, jnp.float32)
  nothing = (blank, blank.astype(jnp.int32), observation.memory)
  score, token, memory = lax.cond(jnp.any(mask), ask, lambda: nothing)
  return dataclasses.replace(
    observation,
    scores=observation.scores.at[:, index].set(score),
    tokens=observation.tokens.at[:, index].set(token),
    memory=memory,
  )


def learn(
  state: DecodeState,
  observation: Observation | None,
  *,
  token: Int[Array, 'B'],
  rows: Bool[Array, 'B'],
  plan: DecodePlan,
) -> ThresholdState | None:
  """Return what a rule knows after a step.

  Args:
    state: before it.
    observation: what exits said.
    token: what each row emitted.
    rows: that emitted.
    plan: what is decoded.
  """
  if observation is None or state.rule is None:
    return state.rule
  agreed = observation.tokens == token[:, None]
  observed = (observation.rows & rows)[:, None]
  return rule_of(plan).update(
    state.rule,
    scores=observation.scores,
    agreed=agreed,
    observed=jnp.broadcast_to(observed, agreed.shape),
  )
