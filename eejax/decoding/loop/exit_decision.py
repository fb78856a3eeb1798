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
"""Heads of a plan: scores, exit decisions, and the tokens of rows that exit."""

import flax.struct
import jax.numpy as jnp
from jax import lax

from eejax.decoding.loop.cache import BatchSettings, blank_top
from eejax.decoding.loop.exit_scoring import (
  HeadInput,
  ScoreInputs,
  compute_score_inputs,
  drafts_frequent,
  empty_memory,
  frequent_logits,
  ready_state,
  whole_logits,
)
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.token_selection import (
  ChosenTokens,
  choose_tokens,
  no_tokens,
)
from eejax.decoding.policy.criteria import Memory, get_criterion, remember
from eejax.ops.sampling import TopLogProbs, greedy
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class ExitRows:
  """Rows that came to a segment's head, and what the head reads of them.

  Attributes:
    mask: which rows; the others mean nothing.
    head_input: what the head reads.
  """

  mask: Bool[Array, 'B']
  head_input: HeadInput


@flax.struct.dataclass
class HeadOutput:
  """Output of a head for every row.

  Attributes:
    token: the chosen token, meaningless for rows that do not exit.
    log_prob: its log-probability, untempered.
    score: the exit's score; NaN at the final head.
    top: the likeliest tokens by the same head; None where the plan keeps none.
  """

  token: Int[Array, 'B']
  log_prob: Float[Array, 'B']
  score: Float[Array, 'B']
  top: TopLogProbs | None = None

  @classmethod
  def of(
    cls, chosen: ChosenTokens, *, score: Float[Array, 'B']
  ) -> 'HeadOutput':
    """Return chosen tokens with the score of the exit."""
    return cls(chosen.token, chosen.log_prob, score, chosen.top)


@flax.struct.dataclass
class ExitDecision:
  """Decision at one head: which rows exit there, and with what.

  Attributes:
    exit_mask: rows that exit here.
    output: what they emit.
    logits_computed: rows for which the logits of the whole vocabulary were
      needed.
    memory: what deeper exits may recall of the rows' tokens.
  """

  exit_mask: Bool[Array, 'B']
  output: HeadOutput
  logits_computed: Bool[Array, 'B']
  memory: Memory


def decide_exit(
  params: Prepared,
  request: BatchSettings,
  head_input: HeadInput,
  *,
  plan: DecodePlan,
  index: int,
  may_exit: Bool[Array, 'B'],
) -> ExitDecision:
  """Score rows at the exit of segment `index`; those that pass exit.

  A criterion that reads logits needs a head for every row that may exit, the
  others only for rows that do.
  """
  memory = _memory(params, head_input, plan)

  def decide() -> ExitDecision:
    inputs = compute_score_inputs(
      params, head_input, memory, plan=plan, index=index
    )
    score = _score(inputs, plan, may_exit)
    exit_mask = may_exit & (score >= request.thresholds[..., index])
    chosen = lax.cond(
      jnp.any(exit_mask),
      lambda: choose_tokens(
        _whole_logits(params, head_input, inputs, plan, index),
        request,
        positions=head_input.positions + 1,
        rows=exit_mask,
        plan=plan,
      ),
      lambda: no_tokens(exit_mask.shape[0], plan=plan),
    )
    return ExitDecision(
      exit_mask,
      HeadOutput.of(chosen, score=score),
      _logits_computed(inputs, exit_mask, may_exit, plan),
      _remember(memory, inputs, head_input, may_exit),
    )

  if not get_criterion(plan.criterion).reads.asks_head:
    return decide()
  stay = lambda: _no_exit(may_exit, memory, plan)
  return lax.cond(jnp.any(may_exit), decide, stay)


def decide_last(
  params: Prepared, request: BatchSettings, rows: ExitRows, *, plan: DecodePlan
) -> ExitDecision:
  """Let all rows that came to the last segment's head exit there.

  It is the final head, or an exit that is always taken; the latter has a
  score to report.
  """
  exit, mask, head_input = plan.segments[-1].exit, rows.mask, rows.head_input
  memory = _memory(params, head_input, plan)

  def decide() -> ExitDecision:
    score = jnp.full(mask.shape, jnp.nan, jnp.float32)
    if exit is None:
      ready = ready_state(params, head_input, plan=plan, exit=None)
      logits = whole_logits(params, ready, plan=plan, exit=None)
    else:
      index = plan.num_exits
      inputs = compute_score_inputs(
        params, head_input, memory, plan=plan, index=index
      )
      logits = _whole_logits(params, head_input, inputs, plan, index)
      score = _score(inputs, plan, mask)
    chosen = choose_tokens(
      logits,
      request,
      positions=head_input.positions + 1,
      rows=mask,
      plan=plan,
    )
    output = HeadOutput.of(chosen, score=score)
    return ExitDecision(mask, output, logits_computed=mask, memory=memory)

  return lax.cond(jnp.any(mask), decide, lambda: _no_exit(mask, memory, plan))


def top1_token(
  params: Prepared, head_input: HeadInput, *, plan: DecodePlan, index: int
) -> Int[Array, 'B']:
  """Return the likeliest token at the head of segment `index`."""
  exit = plan.segments[index].exit
  ready = ready_state(params, head_input, plan=plan, exit=exit)
  return greedy(whole_logits(params, ready, plan=plan, exit=exit))


def _logits_computed(
  inputs: ScoreInputs,
  exit_mask: Bool[Array, 'B'],
  may_exit: Bool[Array, 'B'],
  plan: DecodePlan,
) -> Bool[Array, 'B']:
  """Return the rows for which the whole head was needed.

  Where the score reads its logits, these are all rows that may exit, and no
  more are needed to choose a token; elsewhere the rows that exit. Drafts of a
  frequent vocabulary need none.
  """
  if drafts_frequent(plan):
    return jnp.zeros_like(exit_mask)
  return exit_mask if inputs.logits is None else may_exit


def _memory(
  params: Prepared, head_input: HeadInput, plan: DecodePlan
) -> Memory:
  if head_input.memory is not None:
    return head_input.memory
  (batch_size,) = head_input.positions.shape
  return empty_memory(plan, batch_size=batch_size, params=params)


def _score(
  inputs: ScoreInputs, plan: DecodePlan, rows: Bool[Array, 'B']
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
  plan: DecodePlan,
  index: int,
) -> Float[Array, 'B V']:
  """Return the logits that tokens are chosen from; most are there already."""
  if inputs.logits is not None:
    return inputs.logits
  exit, ready = plan.segments[index].exit, inputs.ready
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


def _no_exit(
  rows: Bool[Array, 'B'], memory: Memory, plan: DecodePlan
) -> ExitDecision:
  """Return the decision at a head to which no row came."""
  nobody, zeros = jnp.zeros_like(rows), jnp.zeros(rows.shape, jnp.float32)
  token = jnp.zeros(rows.shape, jnp.int32)
  top = blank_top(rows.shape, plan=plan)
  output = HeadOutput(token, zeros, zeros, top)
  return ExitDecision(nobody, output, logits_computed=nobody, memory=memory)
