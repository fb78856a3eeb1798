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
  HeadInput,
  Outcome,
  View,
  drafts_frequent,
  empty_memory,
  frequent_logits,
  look,
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
  'Answer',
  'HeadInput',
  'Outcome',
  'answer_exit',
  'answer_last',
  'empty_memory',
  'likeliest_token',
  'with_scored_matrices',
]


@flax.struct.dataclass
class Answer:
  """Hold what a head said of every row.

  Attributes:
    token: the chosen token, meaningless for rows that do not leave.
    log_prob: its log-probability, untempered.
    score: the exit's score; NaN at the final head.
    take: rows that leave here.
    asked: rows for which the whole head's logits were needed.
    memory: what deeper exits may recall of the rows' tokens.
  """

  token: Int[Array, 'B']
  log_prob: Float[Array, 'B']
  score: Float[Array, 'B']
  take: Bool[Array, 'B']
  asked: Bool[Array, 'B']
  memory: Memory


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

  A criterion that reads logits needs a head for every row that may leave,
  the others only for rows that do.
  """
  threshold = jnp.broadcast_to(request.thresholds[..., index], may_take.shape)
  memory = _memory(params, head_input, plan)

  def ask():
    view = look(params, head_input, memory, plan=plan, index=index)
    score = _score(view, plan, may_take)
    take = may_take & (score >= threshold)
    token, log_prob = _choose_if(
      jnp.any(take),
      lambda: _choose(
        _whole_logits(params, head_input, view, plan, index),
        request,
        head_input,
        plan,
      ),
      take.shape,
    )
    asked = take if view.logits is None else may_take
    if drafts_frequent(plan):
      asked = jnp.zeros_like(take)
    remembered = _remember(memory, view, head_input, may_take)
    return Answer(token, log_prob, score, take, asked, remembered)

  if not get_criterion(plan.criterion).reads.asks_head:
    return ask()
  return lax.cond(jnp.any(may_take), ask, lambda: _silence(may_take, memory))


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
  memory = _memory(params, head_input, plan)

  def ask():
    score = jnp.full(active.shape, jnp.nan, jnp.float32)
    if exit is None:
      ready = ready_state(params, head_input, plan=plan, exit=None)
      logits = whole_logits(params, ready, plan=plan, exit=None)
    else:
      index = plan.num_exits
      view = look(params, head_input, memory, plan=plan, index=index)
      logits = _whole_logits(params, head_input, view, plan, index)
      # Where the model ends at an exit, an oracle has nothing to compare with.
      if not get_criterion(plan.criterion).reads & Reads.FINAL:
        score = _score(view, plan, active)
    token, log_prob = _choose(logits, request, head_input, plan)
    return Answer(token, log_prob, score, active, active, memory)

  return lax.cond(jnp.any(active), ask, lambda: _silence(active, memory))


def likeliest_token(
  params: Prepared, head_input: HeadInput, *, plan: Plan, index: int
) -> Int[Array, 'B']:
  """Return the likeliest token at the head of stage `index`, for `Outcome`."""
  exit = plan.stages[index].exit
  ready = ready_state(params, head_input, plan=plan, exit=exit)
  return greedy(whole_logits(params, ready, plan=plan, exit=exit))


def _memory(params: Prepared, head_input: HeadInput, plan: Plan) -> Memory:
  if head_input.memory is not None:
    return head_input.memory
  (batch_size,) = head_input.positions.shape
  return empty_memory(plan, batch_size=batch_size, params=params)


def _score(view: View, plan: Plan, rows: Bool[Array, 'B']) -> Float[Array, 'B']:
  score = get_criterion(plan.criterion).score(view.evidence)
  if view.scores_candidates:
    assert view.evidence.has_previous is not None
    # A row whose token no exit has seen has no candidates of its own.
    score = jnp.where(view.evidence.has_previous, score, 0.0)
  return jnp.broadcast_to(score, rows.shape)


def _whole_logits(
  params: Prepared,
  head_input: HeadInput,
  view: View,
  plan: Plan,
  index: int,
) -> Float[Array, 'B V']:
  """Return the logits that tokens are chosen from; most are there already."""
  if view.logits is not None:
    return view.logits
  exit, ready = plan.stages[index].exit, view.ready
  if ready is None:
    ready = ready_state(params, head_input, plan=plan, exit=exit)
  if exit is not None and drafts_frequent(plan):
    return frequent_logits(params, ready, plan=plan, exit=exit)
  return whole_logits(params, ready, plan=plan, exit=exit)


def _remember(
  memory: Memory, view: View, head_input: HeadInput, rows: Bool[Array, 'B']
) -> Memory:
  return remember(
    memory,
    view.compared,
    positions=head_input.positions,
    rows=rows,
    candidates=view.candidates,
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


def _silence(rows: Bool[Array, 'B'], memory: Memory) -> Answer:
  """Return the answer of a head that nobody asked."""
  nobody, zeros = jnp.zeros_like(rows), jnp.zeros(rows.shape, jnp.float32)
  token = jnp.zeros(rows.shape, jnp.int32)
  return Answer(token, zeros, zeros, nobody, nobody, memory)
