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
"""What a speculating row remembers, and who drafts how far next.

Let a be the chance that a draft of exit x is kept, c_x what the blocks up to
the exit cost, c those beyond it, h a head. k drafts and their verification
feed k + 1 tokens to the exit and yield, each draft being kept as long as all
before it were,

  tokens(x, k) = (1 - a^(k+1)) / (1 - a)                  (Leviathan et al.
  cost(x, k)   = (k + 1) c_x + k h + (c + h) w(k + 1)      2023, eq. 1)

with w(n) what a window of n tokens costs over one token, which
`eejax.decoding.window_costs` measures. The next draft takes
the x and k of the most tokens for their cost, k = 0 being plain decoding. The
chances are running shares of what was kept, so they follow the text, as DEL
(Zarch et al. 2025, arXiv 2504.05598) does by tokens per block.

Looking drafts up in the text costs neither blocks nor a head, c_x = h = 0 but
for the final head's; where that yields more for its cost than the best exit,
what is found goes first, and the exit drafts where nothing is. The more of a
text's end stood in it before, the surer is what followed, so each length of
such a run has a chance of its own.

A chance has to be learnt, and what is learnt may be that no draft pays. So
drafts are bought: a window that yields n tokens and costs c steps of one token
adds n - c to a row's credit, every token a little, and nothing is drafted that
could cost more than there is. A text loses by drafts no more than
`_FIRST_CREDIT` steps and the share `_CREDIT_PER_TOKEN` of its tokens.

A batch pays together. Its B rows fill a window of n tokens with B n, which
costs more than B the sooner the more rows there are; and while one of them
drafts, the deeper blocks run for those that verify, nearly every time. So
its rows choose by what all of them had kept, and where a step is as wide as
the widest row's window, each that found nothing to fill it lost a draft.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eejax.decoding.drafting.prompt_lookup import LONGEST_RUN
from eejax.decoding.loop.plan import DecodePlan, Drafting
from eejax.decoding.policy.batching import Batching, head_in_blocks
from eejax.types import Array, Bool, Float, Int

# A running share forgets with each window: what is 40 windows old counts for
# half as much. It starts at three kept of four, worth four drafts, and goes
# back there where an exit is not tried, which is what tries it again.
_MEMORY = 0.983
_PRIOR_KEPT, _PRIOR_TRIED = 3.0, 4.0

# What a text may lose by drafts that are not kept, in steps of one token: at
# once, and for each token.
_FIRST_CREDIT = 1.0
_CREDIT_PER_TOKEN = 0.01


@flax.struct.dataclass
class Choice:
  """Choice of who drafts how many tokens before they are verified.

  Attributes:
    segment: the segment whose exit drafts.
    limit: how many tokens it may draft.
    lookup_limits: how many may be looked up in the text, by the length of the
      run that is found there, see `num_runs`.
  """

  segment: Int[Array, 'B']
  limit: Int[Array, 'B']
  lookup_limits: Int[Array, 'B R']


@flax.struct.dataclass
class Draft:
  """Text of each row, and its drafts since its last verification.

  A source of drafts, of S, is the exit of a segment or, behind them, the text
  where its last tokens stood before in a run of some length. Column 0 of
  `scores` is the token emitted last; drafts follow.

  Attributes:
    text: the row's tokens by position, prompt and drafts included, as far as
      they were fed; anything behind.
    scores: score of each draft; NaN where it was looked up in the text.
    choice: who drafts next.
    run: which length of run the newest drafts from the text were found by.
    kept: drafts kept lately, by source.
    tried: drafts verified lately, those after a rejected one left out.
    credit: what may be lost by drafting, in steps of one token.
  """

  text: Int[Array, 'B P']
  scores: Float[Array, 'B W']
  choice: Choice
  run: Int[Array, 'B']
  kept: Float[Array, 'B S']
  tried: Float[Array, 'B S']
  credit: Float[Array, 'B']


def num_runs(plan: DecodePlan) -> int:
  """Return how many lengths of runs are told apart, the last for all longer.

  The first is the shortest that the plan looks up.
  """
  shortest = plan.prompt_lookup or LONGEST_RUN
  return max(shortest, LONGEST_RUN) - shortest + 1


def first_draft(
  plan: DecodePlan,
  *,
  text: Int[Array, 'B P'],
  window_costs: Float[Array, 'B W'],
) -> Draft:
  """Return the draft of rows of which nothing is known but their text.

  Args:
    plan: what is decoded.
    text: of each row.
    window_costs: see `eejax.decoding.loop.cache.BatchSettings`.
  """
  rows = text.shape[0]
  none = jnp.zeros((rows,), jnp.int32)
  blank = Draft(
    text=text,
    scores=jnp.zeros((rows, plan.window), jnp.float32),
    choice=Choice(none, none, jnp.zeros((rows, num_runs(plan)), jnp.int32)),
    run=jnp.zeros((rows,), jnp.int32),
    kept=jnp.zeros((rows, plan.num_exits + num_runs(plan)), jnp.float32),
    tried=jnp.zeros((rows, plan.num_exits + num_runs(plan)), jnp.float32),
    credit=jnp.full((rows,), _FIRST_CREDIT, jnp.float32),
  )
  return dataclasses.replace(
    blank, choice=choose_draft(blank, plan=plan, window_costs=window_costs)
  )


def was_looked_up(draft: Draft) -> Bool[Array, 'B W']:
  """Return which drafts of a window come from the text; column 0 is none."""
  return jnp.isnan(draft.scores)


def by_segment(
  draft: Draft, drafts: Bool[Array, 'B W'], *, plan: DecodePlan
) -> Int[Array, 'B X']:
  """Return how many of `drafts` the exit of each segment proposed.

  In the place of the last segment, which has none, stands the text.

  Args:
    draft: of all rows.
    drafts: the drafts to be counted, the first in column 1.
    plan: what is decoded.
  """
  looked_up = was_looked_up(draft)
  by_exit = jnp.sum(drafts & ~looked_up, axis=1)
  here = jax.nn.one_hot(
    draft.choice.segment, len(plan.segments), dtype=jnp.int32
  )
  counted = here * by_exit[:, None]
  return counted.at[:, -1].add(jnp.sum(drafts & looked_up, axis=1))


def _by_source(
  draft: Draft, drafts: Bool[Array, 'B W'], *, plan: DecodePlan
) -> Int[Array, 'B S']:
  """Return how many of `drafts` each source proposed."""
  counted = by_segment(draft, drafts, plan=plan)
  run = jax.nn.one_hot(draft.run, num_runs(plan), dtype=jnp.int32)
  return jnp.concatenate([counted[:, :-1], counted[:, -1:] * run], axis=1)


def learn(
  draft: Draft,
  *,
  rows: Bool[Array, 'B'],
  fed: Int[Array, 'B'],
  kept: Int[Array, 'B'],
  plan: DecodePlan,
  window_costs: Float[Array, 'B W'],
) -> Draft:
  """Return the draft of `rows` whose window was verified, to start anew.

  What was drafted behind a rejected token says nothing of who drafted it.

  Args:
    draft: of all rows.
    rows: those that were verified.
    fed: tokens of each window, of which the first is no draft.
    kept: drafts that were kept.
    plan: what is decoded.
    window_costs: see `eejax.decoding.loop.cache.BatchSettings`.
  """
  column = jnp.arange(plan.window)[None]
  up_to = lambda last: (column > 0) & (column <= last[:, None])
  tried = _by_source(draft, up_to(jnp.minimum(kept + 1, fed - 1)), plan=plan)
  stood = _by_source(draft, up_to(kept), plan=plan)

  def fade(old: jax.Array, new: jax.Array) -> jax.Array:
    return jnp.where(rows[:, None], _MEMORY * old + new, old)

  yielded = kept + 1 - _spent(draft, rows, fed, plan, window_costs)
  credit = draft.credit + yielded + _CREDIT_PER_TOKEN * (kept + 1)
  learnt = dataclasses.replace(
    draft,
    kept=fade(draft.kept, stood),
    tried=fade(draft.tried, tried + _idle(draft, rows, fed, plan=plan)),
    credit=jnp.where(rows, credit, draft.credit),
  )
  return choose_anew(learnt, rows=rows, plan=plan, window_costs=window_costs)


def _spent(
  draft: Draft,
  rows: Bool[Array, 'B'],
  fed: Int[Array, 'B'],
  plan: DecodePlan,
  window_costs: Float[Array, 'B W'],
) -> Float[Array, 'B']:
  """Return what drafting and verifying each window cost, in plain steps.

  A step is as wide as the widest of its windows, for all rows.
  """
  widest = jnp.max(jnp.where(rows, fed, 1))
  drafts = jnp.arange(plan.window)[None] < fed[:, None]
  by_exit = by_segment(draft, drafts.at[:, 0].set(False), plan=plan)[:, :-1]
  head = head_in_blocks(plan.config)
  reached = np.cumsum([s.num_caches for s in plan.segments])
  drafting = by_exit @ (reached[:-1] + head) / (reached[-1] + head)
  return drafting.astype(jnp.float32) + window_costs[0, widest - 1]


def choose_anew(
  draft: Draft,
  *,
  rows: Bool[Array, 'B'],
  plan: DecodePlan,
  window_costs: Float[Array, 'B W'],
) -> Draft:
  """Return the draft in which `rows` go by what the batch has learnt."""
  choice = choose_draft(draft, plan=plan, window_costs=window_costs)
  wide = lambda x: rows.reshape(-1, *(1,) * (x.ndim - 1))
  pick = lambda new, old: jnp.where(wide(new), new, old)
  return dataclasses.replace(
    draft, choice=jax.tree.map(pick, choice, draft.choice)
  )


def _idle(
  draft: Draft,
  rows: Bool[Array, 'B'],
  fed: Int[Array, 'B'],
  *,
  plan: DecodePlan,
) -> Int[Array, 'B S']:
  """Return 1 for texts that had nothing to say in a step others made wide."""
  is_wide = jnp.max(jnp.where(rows, fed, 0)) > 1
  is_idle = (is_wide & (fed == 1))[:, None] & (draft.choice.lookup_limits > 0)
  return jnp.pad(is_idle.astype(jnp.int32), ((0, 0), (plan.num_exits, 0)))


def choose_draft(
  draft: Draft, *, plan: DecodePlan, window_costs: Float[Array, 'B W']
) -> Choice:
  """Return who drafts how far, by what sources had kept of what was tried.

  Args:
    draft: of all rows.
    plan: what is decoded.
    window_costs: see `eejax.decoding.loop.cache.BatchSettings`.
  """
  rows = draft.credit.shape[0]
  lengths = _lengths(plan)
  costs = _costs(plan, lengths, window_costs[0, lengths], rows=rows)
  worth = _expected_tokens(draft, lengths) / costs
  if plan.drafting is Drafting.ADAPTIVE:
    is_affordable = costs - 1 <= draft.credit.mean()
    is_affordable |= (lengths == 0)[None]
    worth = jnp.where(is_affordable, worth, 0.0)
  by_exits, by_text = worth[: plan.num_exits], worth[plan.num_exits :]
  segment, limit, best = _best_exit(by_exits, lengths)
  looks = by_text.max(axis=1) >= best
  if plan.drafting is Drafting.FIXED:
    looks = jnp.ones_like(looks)
  if plan.prompt_lookup is None:
    looks = jnp.zeros_like(looks)
  found = jnp.asarray(lengths)[by_text.argmax(axis=1)]
  for_all = lambda x: jnp.tile(
    x.astype(jnp.int32)[None], (rows,) + x.ndim * (1,)
  )
  return Choice(
    segment=for_all(segment),
    limit=for_all(limit),
    lookup_limits=for_all(jnp.where(looks, found, 0)),
  )


def _expected_tokens(
  draft: Draft, lengths: np.ndarray
) -> Float[Array, 'S num_lengths']:
  """Return how many tokens so many drafts of each source yield."""
  kept, tried = draft.kept.sum(axis=0), draft.tried.sum(axis=0)
  # The chance is below 1, for the prior tried more than it kept.
  chance = ((kept + _PRIOR_KEPT) / (tried + _PRIOR_TRIED))[:, None]
  return (1 - chance ** jnp.asarray(lengths + 1.0)[None]) / (1 - chance)


def _best_exit(
  worth: Float[Array, 'X num_lengths'], lengths: np.ndarray
) -> tuple[Int[Array, ''], Int[Array, ''], Float[Array, '']]:
  """Return the exit that yields most, how far it drafts, and its worth."""
  if not worth.shape[0]:
    zero = jnp.zeros((), jnp.int32)
    return zero, zero, jnp.zeros(())
  exit, which = jnp.divmod(jnp.argmax(worth), len(lengths))
  return exit, jnp.asarray(lengths)[which], worth.max()


def _lengths(plan: DecodePlan) -> np.ndarray:
  """Return the numbers of drafts to choose from."""
  longest = plan.window - 1
  if plan.drafting is Drafting.FIXED:
    return np.array([longest])
  return np.arange(longest + 1)


def _costs(
  plan: DecodePlan,
  lengths: np.ndarray,
  wide: Float[Array, 'num_lengths'],
  *,
  rows: int,
) -> Float[Array, 'S num_lengths']:
  """Return what drafting so many tokens and verifying them costs.

  Args:
    plan: what is decoded.
    lengths: numbers of drafts.
    wide: what windows of them and the token before cost, in plain steps.
    rows: decoded together.

  Returns:
    Costs by source and length, in steps of one token of each row.
  """
  head = head_in_blocks(plan.config)
  whole = sum(s.num_caches for s in plan.segments)
  shallow = np.cumsum([s.num_caches for s in plan.segments[:-1]])[:, None]
  k = lengths[None]
  verifications = 1 + k * _chance_of_another(k, plan=plan, rows=rows)
  deep = (whole - shallow + head) / (whole + head) * verifications
  narrow = ((k + 1) * shallow + k * head) / (whole + head) + deep
  # No drafts cost exactly one step, whichever exit would draft.
  by_exits = narrow.astype(np.float32) + deep * (wide[None] - 1)
  # The text drafts without blocks and without a head, and it comes last.
  by_text = jnp.tile(wide[None], (num_runs(plan), 1))
  return jnp.concatenate([by_exits, by_text]).astype(jnp.float32)


def _chance_of_another(
  length: np.ndarray, *, plan: DecodePlan, rows: int
) -> np.ndarray:
  """Return the chance that another row verifies while one drafts.

  All draft as far, and each is somewhere on its way. Where rows wait for one
  another, none does.
  """
  if plan.batching is Batching.DEPTH_QUEUE:
    return np.zeros_like(length, float)
  return 1 - (1 - 1 / (length + 1)) ** (rows - 1)
