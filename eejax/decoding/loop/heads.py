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

from eejax.decoding.loop.cache import Request
from eejax.decoding.loop.plan import Plan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.scoring import (
  FinalPredictions,
  HeadInput,
  ScoreInputs,
  compute_score_inputs,
  drafts_frequent,
  empty_memory,
  frequent_logits,
  ready_state,
  whole_logits,
  with_scored_matrices,
)
from eejax.decoding.policy.criteria import (
  Memory,
  Reads,
  get_criterion,
  remember,
)
from eejax.ops.sampling import choose, greedy, log_probability
from eejax.types import Array, Bool, Float, Int

__all__ = [
  'HeadOutput',
  'HeadInput',
  'FinalPredictions',
  'run_exit_head',
  'run_last_head',
  'empty_memory',
  'top1_token',
  'with_scored_matrices',
]


@flax.struct.dataclass
class HeadOutput:
  """Hold what a head said of every row.

  Attributes:
    token: the chosen token, meaningless for rows that do not leave.
    log_prob: its log-probability, untempered.
    score: the exit's score; NaN at the final head.
    exit_mask: rows that leave here.
    logits_computed: rows for which the whole head's logits were needed.
    memory: what deeper exits may recall of the rows' tokens.
  """

  token: Int[Array, 'B']
  log_prob: Float[Array, 'B']
  score: Float[Array, 'B']
  exit_mask: Bool[Array, 'B']
  logits_computed: Bool[Array, 'B']
  memory: Memory


def run_exit_head(
  params: Prepared,
  request: Request,
  head_input: HeadInput,
  *,
  plan: Plan,
  index: int,
  may_exit: Bool[Array, 'B'],
) -> HeadOutput:
  """Score rows at the exit of stage `index`; let those that pass leave.

  A criterion that reads logits needs a head for every row that may leave,
  the others only for rows that do.
  """
  threshold = jnp.broadcast_to(request.thresholds[..., index], may_exit.shape)
  memory = _memory(params, head_input, plan)

  def ask():
    inputs = compute_score_inputs(
      params, head_input, memory, plan=plan, index=index
    )
    score = _score(inputs, plan, may_exit)
    take = may_exit & (score >= threshold)
    token, log_prob = _choose_if(
      jnp.any(take),
      lambda: _choose(
        _whole_logits(params, head_input, inputs, plan, index),
        request,
        head_input,
        plan,
      ),
      take.shape,
    )
    asked = take if inputs.logits is None else may_exit
    if drafts_frequent(plan):
      asked = jnp.zeros_like(take)
    remembered = _remember(memory, inputs, head_input, may_exit)
    return HeadOutput(token, log_prob, score, take, asked, remembered)

  if not get_criterion(plan.criterion).reads.asks_head:
    return ask()
  return lax.cond(jnp.any(may_exit), ask, lambda: _silence(may_exit, memory))


def run_last_head(
  params: Prepared,
  request: Request,
  head_input: HeadInput,
  *,
  plan: Plan,
  active: Bool[Array, 'B'],
) -> HeadOutput:
  """Let all rows that are left leave at the last stage's head.

  It is the final head, or an exit that is always taken; the latter has a
  score to report.
  """
  exit = plan.stages[-1].exit
  memory = _memory(params, head_input, plan)

  def ask():
    score = jnp.full(active.shape, jnp.nan, jnp.float32)
    if exit is None:
      ready = ready_state(params, head_input, plan=plan, exit=None)
      logits = whole_logits(params, ready, plan=plan, exit=None)
    else:
      index = plan.num_exits
      inputs = compute_score_inputs(
        params, head_input, memory, plan=plan, index=index
      )
      logits = _whole_logits(params, head_input, inputs, plan, index)
      # Where the model ends at an exit, an oracle has nothing to compare with.
      if not get_criterion(plan.criterion).reads & Reads.FINAL:
        score = _score(inputs, plan, active)
    token, log_prob = _choose(logits, request, head_input, plan)
    return HeadOutput(token, log_prob, score, active, active, memory)

  return lax.cond(jnp.any(active), ask, lambda: _silence(active, memory))


def top1_token(
  params: Prepared, head_input: HeadInput, *, plan: Plan, index: int
) -> Int[Array, 'B']:
  """Return the likeliest token at the head of stage `index`."""
  exit = plan.stages[index].exit
  ready = ready_state(params, head_input, plan=plan, exit=exit)
  return greedy(whole_logits(params, ready, plan=plan, exit=exit))


def _memory(params: Prepared, head_input: HeadInput, plan: Plan) -> Memory:
  if head_input.memory is not None:
    return head_input.memory
  (batch_size,) = head_input.positions.shape
  return empty_memory(plan, batch_size=batch_size, params=params)


def _score(
  inputs: ScoreInputs, plan: Plan, rows: Bool[Array, 'B']
) -> Float[Array, 'B']:
  score = get_criterion(plan.criterion).score(inputs.evidence)
  if inputs.scores_candidates:
    assert inputs.evidence.has_previous is not None
    # A row whose token no exit has seen has no candidates of its own.
    score = jnp.where(inputs.evidence.has_previous, score, 0.0)
  return jnp.broadcast_to(score, rows.shape)


def _whole_logits(
  params: Prepared,
  head_input: HeadInput,
  inputs: ScoreInputs,
  plan: Plan,
  index: int,
) -> Float[Array, 'B V']:
  """Return the logits that tokens are chosen from; most are there already."""
  if inputs.logits is not None:
    return inputs.logits
  exit, ready = plan.stages[index].exit, inputs.ready
  if ready is None:
    ready = ready_state(params, head_input, plan=plan, exit=exit)
  if exit is not None and drafts_frequent(plan):
    return frequent_logits(params, ready, plan=plan, exit=exit)
  return whole_logits(params, ready, plan=plan, exit=exit)


def _remember(
  memory: Memory,
  inputs: ScoreInputs,
  head_input: HeadInput,
  rows: Bool[Array, 'B'],
) -> Memory:
  return remember(
    memory,
    inputs.compared,
    positions=head_input.positions,
    rows=rows,
    candidates=inputs.candidates,
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


def _silence(rows: Bool[Array, 'B'], memory: Memory) -> HeadOutput:
  """Return the output of a head that nobody asked."""
  nobody, zeros = jnp.zeros_like(rows), jnp.zeros(rows.shape, jnp.float32)
  token = jnp.zeros(rows.shape, jnp.int32)
  return HeadOutput(token, zeros, zeros, nobody, nobody, memory)
