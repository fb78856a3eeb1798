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
"""Heads of a plan: scores, and the tokens of rows that leave."""

import flax.struct
import jax.numpy as jnp
from jax import lax

from eejax.config import ExitConfig
from eejax.decoding.cache import Request
from eejax.decoding.criteria import Evidence, Reads, get_criterion
from eejax.decoding.plan import Plan
from eejax.decoding.prepare import Prepared
from eejax.models.exits import (
  ExitInput,
  apply_exit_head,
  gate_logit,
  output_matrix_name,
)
from eejax.ops.norm import rms_norm
from eejax.ops.sampling import choose, log_probability
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class Answer:
  """Hold what a head said of every row.

  Attributes:
    token: the chosen token, meaningless for rows that do not leave.
    log_prob: its log-probability, untempered.
    score: the exit's score; NaN at the final head.
    take: rows that leave here.
    asked: rows for which the logits were needed.
  """

  token: Int[Array, 'B']
  log_prob: Float[Array, 'B']
  score: Float[Array, 'B']
  take: Bool[Array, 'B']
  asked: Bool[Array, 'B']


@flax.struct.dataclass
class HeadInput:
  """Hold what a head is shown.

  Attributes:
    last: what the backbone computed for the newest token.
    ready: state of a BLOCK head, which ran with its stage, else None.
    positions: position of the newest token in each row's text.
  """

  last: ExitInput
  ready: Float[Array, 'B 1 D'] | None
  positions: Int[Array, 'B']


def answer_exit(
  params: Prepared,
  request: Request,
  head_input: HeadInput,
  *,
  plan: Plan,
  index: int,
  may_take: Bool[Array, 'B'],
) -> Answer:
  """Score rows at the exit of stage `index`; let those that pass leave.

  A gate reads the stream, so only rows that leave need logits; other criteria
  read the logits of every row that may leave.
  """
  criterion = get_criterion(plan.criterion)
  threshold = request.thresholds[index]
  exit = plan.stages[index].needed_exit
  if criterion.reads is Reads.GATE:
    score = _gate_score(params, head_input, plan, exit)
    take = may_take & (score >= threshold)
    token, log_prob = _choose_if(
      jnp.any(take),
      lambda: _choose(
        _logits(params, head_input, plan, exit), request, head_input, plan
      ),
      take.shape,
    )
    return Answer(token, log_prob, score, take, asked=take)

  def ask():
    logits = _logits(params, head_input, plan, exit)
    score = criterion.score(Evidence(logits=logits))
    take = may_take & (score >= threshold)
    token, log_prob = _choose_if(
      jnp.any(take),
      lambda: _choose(logits, request, head_input, plan),
      take.shape,
    )
    return Answer(token, log_prob, score, take, asked=may_take)

  return lax.cond(jnp.any(may_take), ask, lambda: _silence(may_take))


def answer_last(
  params: Prepared,
  request: Request,
  head_input: HeadInput,
  *,
  plan: Plan,
  active: Bool[Array, 'B'],
) -> Answer:
  """Let all rows that are left leave at the last stage's head.

  It is the final head, or an exit that is always taken; the latter has a
  score to report.
  """
  exit = plan.stages[-1].exit

  def ask():
    logits = _logits(params, head_input, plan, exit)
    token, log_prob = _choose(logits, request, head_input, plan)
    score = jnp.full(token.shape, jnp.nan, jnp.float32)
    if exit is not None:
      criterion = get_criterion(plan.criterion)
      if criterion.reads is Reads.GATE:
        score = _gate_score(params, head_input, plan, exit)
      else:
        score = criterion.score(Evidence(logits=logits))
    return Answer(token, log_prob, score, take=active, asked=active)

  return lax.cond(jnp.any(active), ask, lambda: _silence(active))


def _gate_score(
  params: Prepared, head_input: HeadInput, plan: Plan, exit: ExitConfig
) -> Float[Array, 'B']:
  assert head_input.last.hidden is not None
  logit = gate_logit(
    params.exits[exit.name],
    head_input.last.hidden[:, 0],
    exit=exit,
    config=plan.config.model,
  )
  return get_criterion(plan.criterion).score(Evidence(gate_logit=logit))


def _logits(
  params: Prepared, head_input: HeadInput, plan: Plan, exit: ExitConfig | None
) -> Float[Array, 'B V']:
  """Return the newest token's logits in float32."""
  config = plan.config.model
  ready = head_input.ready
  if exit is None:
    assert head_input.last.hidden is not None
    ready = rms_norm(
      head_input.last.hidden,
      scale=params.final_norm,
      epsilon=config.norm_epsilon,
    )
  elif ready is None:
    ready = apply_exit_head(
      params.exits[exit.name],
      head_input.last,
      exit=exit,
      config=config,
      positions=head_input.positions[:, None],
    ).hidden
  kernel = params.kernels[output_matrix_name(exit, config=config)]
  return jnp.einsum(
    'BD,DV->BV', ready[:, 0], kernel, preferred_element_type=jnp.float32
  )


def _choose(
  logits: Float[Array, 'B V'],
  request: Request,
  head_input: HeadInput,
  plan: Plan,
) -> tuple[Int[Array, 'B'], Float[Array, 'B']]:
  token = choose(
    logits,
    method=plan.method,
    sampling=request.sampling,
    positions=head_input.positions + 1,
  )
  return token, log_probability(logits, token)


def _choose_if(is_needed, choose_tokens, shape):
  nothing = lambda: (jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32))
  return lax.cond(is_needed, choose_tokens, nothing)


def _silence(rows: Bool[Array, 'B']) -> Answer:
  """Return the answer of a head that nobody asked."""
  nobody, zeros = jnp.zeros_like(rows), jnp.zeros(rows.shape, jnp.float32)
  token = jnp.zeros(rows.shape, jnp.int32)
  return Answer(token, zeros, zeros, take=nobody, asked=nobody)
