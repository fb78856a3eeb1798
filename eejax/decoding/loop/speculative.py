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
"""A step of lossless self-speculation: exits draft, the whole model verifies.

Each row feeds itself the tokens that its exit proposes, until the exit is
unsure or the window is full. Then the deeper stages run once over the window,
as in deferred catch-up, and the final head says what it would have emitted
after each of its tokens:

    fed          t  a  b  c       t was emitted, a b c are drafts
    final head   a  b  x  .       a and b are kept, c is not
    emitted      a  b  x          the row goes on from x

Keys and values of t, a and b are complete then and are never computed again;
what was written for c lies past the end of the row.

Where drafts are looked up in the text, too, all of them are known at once:
they enter the first stage together, and a step may feed and verify a window.

Sampling needs no rejection step. The random numbers of a position are the
same for every head (`eejax.ops.sampling.choose`), so draft and model choose
from coupled distributions, the draft is kept iff they choose alike, and the
text is, token for token, the one that full decoding samples with the same
seed. With TV their distance in total variation, they agree with probability
(1 - TV) / (1 + TV) at least (Daliri et al. 2024, arXiv 2408.07978, theorem
2); rejection sampling would keep 1 - TV, in distribution alone.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.decoding.drafting import adaptive
from eejax.decoding.drafting.adaptive import Draft
from eejax.decoding.drafting.prompt_lookup import propose
from eejax.decoding.loop.accounting import Counts, count_step
from eejax.decoding.loop.cache import DecodeState, Emission, Request
from eejax.decoding.loop.heads import run_exit_head
from eejax.decoding.loop.plan import Plan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.segments import write_at
from eejax.decoding.loop.walk import StepInputs, Walk
from eejax.models.exits import output_matrix_name
from eejax.ops.norm import rms_norm
from eejax.ops.sampling import choose, log_probability
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class TargetTokens:
  """Hold what the final head says of a window.

  Attributes:
    tokens: what follows each token of the window.
    log_probs: their log-probabilities, untempered.
  """

  tokens: Int[Array, 'B W']
  log_probs: Float[Array, 'B W']


@flax.struct.dataclass
class AcceptanceResult:
  """Hold what became of the windows of a step.

  Attributes:
    verified: rows whose window was verified.
    fed: tokens of each row's window so far, the newest included.
    kept: drafts of each row that stand.
    emission: what follows from it, before ends are looked for.
  """

  verified: Bool[Array, 'B']
  fed: Int[Array, 'B']
  kept: Int[Array, 'B']
  emission: Emission


def speculative_step(
  params: Prepared, request: Request, state: DecodeState, *, plan: Plan
) -> tuple[DecodeState, Emission]:
  """Move every row by a step: it drafts a token, or has its drafts verified.

  Args:
    params: the model.
    request: settings of the rows; a draft goes on iff score >= threshold.
    state: where the rows stand.
    plan: the static shape of the program.
  """
  assert state.draft is not None
  draft, entering = _feed(state.draft, state, plan=plan)
  walk = Walk(params, state, plan=plan, fed=entering)
  # Tokens fed since the last verification, the newest included.
  fed = walk.length - state.stages[-1].cache_length
  nobody = jnp.zeros_like(state.live)
  scores, newest = draft.scores, state.tokens
  may_draft = fed <= draft.choice.limit
  for index in range(plan.num_exits):
    passed = walk.pass_stage(rides=nobody)
    output = run_exit_head(
      params,
      request,
      walk.head_input(),
      plan=plan,
      index=index,
      may_exit=passed & (draft.choice.stage == index) & may_draft,
    )
    walk.hear(output)
    walk.leave(passed, output.exit_mask)
    newest = jnp.where(output.exit_mask, output.token, newest)
    scores = _put(scores, output.score, at=fed, rows=output.exit_mask)
  verified = walk.pass_stage(rides=nobody)
  walk.count_logits(jnp.where(verified, fed, 0))
  walk.leave(verified, verified)
  draft = dataclasses.replace(draft, scores=scores)
  target = _target_tokens(
    params, request, state, walk, verified, fed, plan=plan
  )
  acceptance = _accept(draft, state, target, verified, fed, plan=plan)
  tokens = jnp.where(verified, _last_token(acceptance), newest)
  return _advance(walk, request, state, draft, acceptance, tokens, plan=plan)


def _feed(
  draft: Draft, state: DecodeState, *, plan: Plan
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
  following, is_found = propose(
    text,
    newest=state.length,
    shortest=plan.prompt_lookup,
    num=plan.window - 1,
  )
  text = write_at(text, following, state.length + 1, axis=0)
  # The column of the newest token in the window; drafts may stand before it.
  at = state.length - state.stages[-1].cache_length
  room = jnp.minimum(draft.choice.lookup_limit, plan.window - 1 - at)
  num = jnp.where(is_found, jnp.maximum(room, 0), 0)
  column = jnp.arange(plan.window)[None]
  is_new = (column > at[:, None]) & (column <= (at + num)[:, None])
  scores = jnp.where(is_new, jnp.nan, draft.scores)
  tokens = jnp.concatenate([newest, following], axis=1)
  draft = dataclasses.replace(draft, text=text, scores=scores)
  return draft, StepInputs(tokens, alone + num)


def _put(
  table: jax.Array, value: jax.Array, *, at: Int[Array, 'B'], rows: jax.Array
) -> jax.Array:
  """Write one entry of each of `rows`; there may be no such column."""
  columns = jnp.arange(table.shape[1])[None]
  chosen = rows[:, None] & (columns == at[:, None])
  return jnp.where(chosen, value[:, None], table)


def _target_tokens(
  params: Prepared,
  request: Request,
  state: DecodeState,
  walk: Walk,
  verified: Bool[Array, 'B'],
  fed: Int[Array, 'B'],
  *,
  plan: Plan,
) -> TargetTokens:
  """Ask the final head about windows, in the narrowest width compiled."""
  hidden, first = walk.verify_hidden, state.stages[-1].cache_length
  assert hidden is not None
  count = jnp.max(jnp.where(verified, fed, 0))

  def ask(width: int):
    return lambda: _ask(params, request, hidden, first, width, plan)

  blank = jnp.zeros((verified.shape[0], plan.window), jnp.float32)
  silent = lambda: TargetTokens(blank.astype(jnp.int32), blank)
  which = jnp.searchsorted(jnp.array(plan.widths), count) + 1
  return lax.switch(
    jnp.where(count > 0, which, 0), [silent, *map(ask, plan.widths)]
  )


def _ask(
  params: Prepared,
  request: Request,
  hidden: Float[Array, 'B two_W D'],
  first: Int[Array, 'B'],
  width: int,
  plan: Plan,
) -> TargetTokens:
  """Return what follows the first `width` tokens of every window."""
  config = plan.config.model
  ready = rms_norm(
    hidden[:, :width],
    scale=params.final_norm,
    epsilon=config.norm_epsilon,
  )
  flat = ready.reshape(-1, config.embed_dim)
  logits = jnp.einsum(
    'BD,DV->BV',
    flat,
    params.kernels[output_matrix_name(None, config=config)],
    preferred_element_type=jnp.float32,
  )
  after = first[:, None] + 1 + jnp.arange(width)[None]
  tokens = choose(
    logits,
    method=plan.method,
    sampling=jax.tree.map(lambda x: jnp.repeat(x, width), request.sampling),
    positions=after.reshape(-1),
  )
  log_probs = log_probability(logits, tokens)
  shape = lambda x: jnp.pad(
    x.reshape(-1, width), ((0, 0), (0, plan.window - width))
  )
  return TargetTokens(shape(tokens), shape(log_probs))


def _accept(
  draft: Draft,
  state: DecodeState,
  target: TargetTokens,
  verified: Bool[Array, 'B'],
  fed: Int[Array, 'B'],
  *,
  plan: Plan,
) -> AcceptanceResult:
  """Return how many drafts of each row stand, and what follows."""
  window = plan.window
  index = jnp.arange(window)[None]
  drafted = index < fed[:, None] - 1
  first = state.stages[-1].cache_length[:, None]
  at = jnp.minimum(first + 1 + index, draft.text.shape[1] - 1)
  following = jnp.take_along_axis(draft.text, at, axis=1)
  alike = (target.tokens == following) & drafted
  kept = jnp.sum(jnp.cumprod(alike.astype(jnp.int32), axis=1), axis=1)
  is_draft = index < kept[:, None]
  depths = jnp.array([s.last for s in plan.stages[:-1]], jnp.int32)
  scores = jnp.pad(draft.scores[:, 1:], ((0, 0), (0, 1)))
  # A token from the text went through no block before it was proposed.
  proposed = jnp.where(
    jnp.isnan(scores), 0, depths[draft.choice.stage][:, None]
  )
  emission = Emission(
    token=target.tokens,
    depth=jnp.where(is_draft, proposed, plan.depth),
    score=jnp.where(is_draft, scores, jnp.nan),
    log_prob=target.log_probs,
    num=jnp.where(verified, kept + 1, 0),
  )
  kept = jnp.where(verified, kept, 0)
  return AcceptanceResult(verified, fed, kept, emission)


def _last_token(acceptance: AcceptanceResult) -> Int[Array, 'B']:
  """Return the token that each verified row goes on from."""
  at = acceptance.kept[:, None]
  return jnp.take_along_axis(acceptance.emission.token, at, axis=1)[:, 0]


def _advance(
  walk: Walk,
  request: Request,
  state: DecodeState,
  draft: Draft,
  acceptance: AcceptanceResult,
  tokens: Int[Array, 'B'],
  *,
  plan: Plan,
) -> tuple[DecodeState, Emission]:
  """Return the state after a step, and what was emitted for good.

  Args:
    walk: the step.
    request: settings of the rows.
    state: before it.
    draft: with what this step proposed.
    acceptance: what became of the windows.
    tokens: of each row, what it is fed next.
    plan: what is decoded.
  """
  verified, fed, kept = acceptance.verified, acceptance.fed, acceptance.kept
  num, failed, ended = _cut(acceptance.emission, request, state)
  live = state.live & ~failed & ~ended
  # Where a row's text ends now: behind what stands of its window.
  length = jnp.where(
    verified, state.stages[-1].cache_length + kept + 1, walk.length
  )
  counts = _count(state.counts, walk, draft, acceptance, plan=plan)
  new_state = dataclasses.replace(
    state,
    length=length,
    tokens=tokens,
    resume_stage=jnp.where(live & (walk.at < len(plan.stages)), walk.at, 0),
    live=live,
    failed=state.failed | failed,
    remaining=state.remaining - num,
    stages=tuple(
      dataclasses.replace(s, cache_length=jnp.minimum(s.cache_length, length))
      for s in walk.stages
    ),
    cycles=tuple(walk.cycles),
    counts=counts,
    memory=walk.memory,
    verify_hidden=walk.verify_hidden,
    draft=adaptive.learn(draft, rows=verified, fed=fed, kept=kept, plan=plan),
  )
  return new_state, dataclasses.replace(acceptance.emission, num=num)


def _cut(
  emission: Emission, request: Request, state: DecodeState
) -> tuple[Int[Array, 'B'], Bool[Array, 'B'], Bool[Array, 'B']]:
  """Return how many tokens rows emit, and which of them fail or end.

  Nothing after an end token is emitted, nor more than a row may.
  """
  index = jnp.arange(emission.token.shape[1])[None]
  is_there = index < emission.num[:, None]
  never = emission.token.shape[1]
  first = lambda what: jnp.min(jnp.where(what & is_there, index, never), axis=1)
  broken = first(~jnp.isfinite(emission.log_prob))
  end = first(jnp.isin(emission.token, request.eos))
  num = jnp.minimum(emission.num, jnp.minimum(end + 1, state.remaining))
  failed = broken < num
  num = jnp.minimum(num, broken)
  ended = ~failed & ((end < num) | (num >= state.remaining))
  return num, failed, ended & (emission.num > 0)


def _count(
  counts: Counts,
  walk: Walk,
  draft: Draft,
  acceptance: AcceptanceResult,
  *,
  plan: Plan,
) -> Counts:
  """Return the counts after a step, drafts by who proposed them."""
  counts = count_step(counts, tuple(walk.events))
  column = jnp.arange(plan.window)[None]
  rows = acceptance.verified[:, None] & (column > 0)
  up_to = lambda last: rows & (column <= last[:, None])
  drafted, accepted = (
    adaptive.by_source(draft, up_to(last), plan=plan)
    for last in (acceptance.fed - 1, acceptance.kept)
  )
  return dataclasses.replace(
    counts,
    drafted=counts.drafted + drafted,
    accepted=counts.accepted + accepted,
  )
