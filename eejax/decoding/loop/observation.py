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

import jax
import jax.numpy as jnp
from jax import lax

from eejax.decoding.loop.cache import DecodeState, Request
from eejax.decoding.loop.heads import run_exit_head, top1_token
from eejax.decoding.loop.plan import Plan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.scoring import HeadInput
from eejax.decoding.policy.criteria import Memory
from eejax.decoding.policy.thresholds import (
  Constant,
  ThresholdRule,
  ThresholdState,
  parse_threshold_rule,
)
from eejax.types import Array, Bool, Float, Int


class Observation:
  """Gather what exits say of tokens that are observed; see the module.

  Attributes:
    rows: whose newest token is observed.
    scores: of these tokens, an array [B] for each exit that was passed.
    tokens: likeliest tokens, likewise.
    memory: what the exits passed saw of them. They ask for nothing else in
      this step, so nobody else remembers it.
  """

  def __init__(self, rows: Bool[Array, 'B'], memory: Memory):
    self.rows = rows
    self.memory = memory
    self.scores: list[Float[Array, B]] = []
    self.tokens: list[Int[Array, B]] = []

  def observe(
    self,
    params: Prepared,
    request: Request,
    head_input: HeadInput,
    plan: Plan,
    index: int,
    passed: Bool[Array, 'B'],
  ) -> None:
    """Ask the exit of stage `index` about the rows that passed it."""
    rows = passed & self.rows
    never = jnp.full_like(request.thresholds, jnp.inf)
    unmoved = dataclasses.replace(request, thresholds=never)
    shown = dataclasses.replace(head_input, memory=self.memory)

    def ask():
      output = run_exit_head(
        params, unmoved, shown, plan=plan, index=index, may_exit=rows
      )
      top = top1_token(params, shown, plan=plan, index=index)
      return output.score, top, output.memory

    nothing = jnp.zeros(rows.shape, jnp.float32)
    silence = (nothing, nothing.astype(jnp.int32), self.memory)
    score, token, self.memory = lax.cond(jnp.any(rows), ask, lambda: silence)
    self.scores.append(score)
    self.tokens.append(token)


def rule_of(plan: Plan) -> ThresholdRule:
  """Return the threshold rule a plan names."""
  return parse_threshold_rule(plan.threshold_rule)


def first_rule_state(
  request: Request,
  *,
  length: Int[Array, 'B'],
  limit: Int[Array, 'B'],
  plan: Plan,
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
  state = rule.init(request.thresholds, start=length, limit=limit)
  # Copies: what the loop donates may be nobody else's.
  return jax.tree.map(lambda leaf: leaf + 0, state)


def with_current_thresholds(
  request: Request,
  state: DecodeState,
  *,
  position: Int[Array, 'B'],
  plan: Plan,
) -> Request:
  """Return the settings with the thresholds of this step."""
  if state.rule is None:
    return request
  values = rule_of(plan).values(state.rule, position)
  return dataclasses.replace(request, thresholds=values)


def begin(
  state: DecodeState, *, position: Int[Array, 'B'], plan: Plan
) -> Observation | None:
  """Return which rows are observed in this step; None if nobody learns."""
  if state.rule is None or state.rule.moments is None:
    return None
  return Observation(position % plan.window == 0, state.memory)


def learn(
  state: DecodeState,
  observation: Observation | None,
  *,
  token: Int[Array, 'B'],
  rows: Bool[Array, 'B'],
  plan: Plan,
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
  said = jnp.stack(observation.tokens, axis=1)
  seen = (observation.rows & rows)[:, None]
  return rule_of(plan).update(
    state.rule,
    scores=jnp.stack(observation.scores, axis=1),
    agreed=said == token[:, None],
    observed=jnp.broadcast_to(seen, said.shape),
  )
