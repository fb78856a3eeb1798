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

with w(n) what a window of n tokens costs over one token. The next draft takes
the x and k of the most tokens for their cost, k = 0 being plain decoding. The
chances are running shares of what was kept, so they follow the text, as DEL
(Zarch et al. 2025, arXiv 2504.05598) does by tokens per block.

Looking drafts up in the text costs neither blocks nor a head, c_x = h = 0 but
for the final head's; where that yields more for its cost than the best exit,
what is found goes first, and the exit drafts where nothing is.

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

from eejax.decoding.loop.plan import DecodePlan, Drafting
from eejax.decoding.policy.batching import Batching, head_in_blocks
from eejax.types import Array, Bool, Float, Int

# A running share forgets with each window: what is 40 windows old counts for
# half as much. It starts at three kept of four, worth four drafts, and goes
# back there where an exit is not tried, which is what tries it again.
_MEMORY = 0.983
_PRIOR_KEPT, _PRIOR_TRIED = 3.0, 4.0


@flax.struct.dataclass
class Choice:
  """Choice of who drafts how many tokens before they are verified.

  Attributes:
    segment: the segment whose exit drafts.
    limit: how many tokens it may draft.
    lookup_limit: how many may be looked up in the text.
  """

  segment: Int[Array, 'B']
  limit: Int[Array, 'B']
  lookup_limit: Int[Array, 'B']


@flax.struct.dataclass
class Draft:
  """Text of each row, and its drafts since its last verification.

  A source of drafts, of S, is the exit of a segment or, in the place of the
  last segment, the text. Column 0 of `scores` is the token emitted last; drafts
  follow.

  Attributes:
    text: the row's tokens by position, prompt and drafts included, as far as
      they were fed; anything behind.
    scores: score of each draft; NaN where it was looked up in the text.
    choice: who drafts next.
    kept: drafts kept lately, by source.
    tried: drafts verified lately, those after a rejected one left out.
  """

  text: Int[Array, 'B P']
  scores: Float[Array, 'B W']
  choice: Choice
  kept: Float[Array, 'B S']
  tried: Float[Array, 'B S']


def first_draft(plan: DecodePlan, *, text: Int[Array, 'B P']) -> Draft:
  """Return the draft of rows of which nothing is known but their text."""
  rows = text.shape[0]
  kept = jnp.zeros((rows, len(plan.segments)), jnp.float32)
  return Draft(
    text=text,
    scores=jnp.zeros((rows, plan.window), jnp.float32),
    choice=choose_draft(kept, kept, plan=plan),
    kept=kept,
    tried=jnp.zeros_like(kept),
  )


def was_looked_up(draft: Draft) -> Bool[Array, 'B W']:
  """Return which drafts of a window come from the text; column 0 is none."""
  return jnp.isnan(draft.scores)


def by_source(
  draft: Draft, drafts: Bool[Array, 'B W'], *, plan: DecodePlan
) -> Int[Array, 'B S']:
  """Return how many of `drafts` each source proposed.

  Args:
    draft: of all rows.
    drafts: the drafts to be counted, the first in column 1.
    plan: what is decoded.
  """
  num_sources = len(plan.segments)
  looked_up = was_looked_up(draft)
  by_exit = jnp.sum(drafts & ~looked_up, axis=1)
  here = jax.nn.one_hot(draft.choice.segment, num_sources, dtype=jnp.int32)
  counted = here * by_exit[:, None]
  return counted.at[:, -1].add(jnp.sum(drafts & looked_up, axis=1))


def learn(
  draft: Draft,
  *,
  rows: Bool[Array, 'B'],
  fed: Int[Array, 'B'],
  kept: Int[Array, 'B'],
  plan: DecodePlan,
) -> Draft:
  """Return the draft of `rows` whose window was verified, to start anew.

  What was drafted behind a rejected token says nothing of who drafted it.

  Args:
    draft: of all rows.
    rows: those that were verified.
    fed: tokens of each window, of which the first is no draft.
    kept: drafts that were kept.
    plan: what is decoded.
  """
  column = jnp.arange(plan.window)[None]
  up_to = lambda last: (column > 0) & (column <= last[:, None])
  tried = by_source(draft, up_to(jnp.minimum(kept + 1, fed - 1)), plan=plan)
  stood = by_source(draft, up_to(kept), plan=plan)

  def fade(old: jax.Array, new: jax.Array) -> jax.Array:
    return jnp.where(rows[:, None], _MEMORY * old + new, old)

  all_tried = fade(draft.tried, tried + _idle(draft, rows, fed))
  all_kept = fade(draft.kept, stood)
  learnt = dataclasses.replace(draft, kept=all_kept, tried=all_tried)
  return choose_anew(learnt, rows=rows, plan=plan)


def choose_anew(
  draft: Draft, *, rows: Bool[Array, 'B'], plan: DecodePlan
) -> Draft:
  """Return the draft in which `rows` go by what the batch has learnt."""
  choice = choose_draft(draft.kept, draft.tried, plan=plan)
  pick = lambda new, old: jnp.where(rows, new, old)
  return dataclasses.replace(
    draft, choice=jax.tree.map(pick, choice, draft.choice)
  )


def _idle(
  draft: Draft, rows: Bool[Array, 'B'], fed: Int[Array, 'B']
) -> Int[Array, 'B S']:
  """Return 1 for texts that had nothing to say in a step others made wide."""
  is_wide = jnp.max(jnp.where(rows, fed, 0)) > 1
  is_idle = is_wide & (fed == 1) & (draft.choice.lookup_limit > 0)
  return jnp.zeros(draft.tried.shape, jnp.int32).at[:, -1].set(is_idle)


def choose_draft(
  kept: Float[Array, 'B S'], tried: Float[Array, 'B S'], *, plan: DecodePlan
) -> Choice:
  """Return who drafts how far, by what sources had kept of what was tried."""
  rows = kept.shape[0]
  lengths = _lengths(plan)
  chance = (kept.sum(axis=0) + _PRIOR_KEPT) / (tried.sum(axis=0) + _PRIOR_TRIED)
  powers = chance[:, None] ** jnp.asarray(lengths + 1.0)[None]
  # The chance is below 1, for the prior tried more than it kept.
  tokens = (1 - powers) / (1 - chance[:, None])  # [S, k]
  worth = tokens / jnp.asarray(_costs(plan, lengths, rows=rows))
  segment, which = jnp.divmod(jnp.argmax(worth[:-1]), len(lengths))
  looks = worth[-1].max() >= worth[:-1].max()
  if plan.drafting is Drafting.FIXED:
    looks = jnp.ones_like(looks)
  if plan.prompt_lookup is None:
    looks = jnp.zeros_like(looks)
  by_text = jnp.asarray(lengths)[worth[-1].argmax()]
  for_all = lambda x: jnp.full((rows,), x, jnp.int32)
  return Choice(
    segment=for_all(segment),
    limit=for_all(jnp.asarray(lengths)[which]),
    lookup_limit=for_all(jnp.where(looks, by_text, 0)),
  )


def _lengths(plan: DecodePlan) -> np.ndarray:
  """Return the numbers of drafts to choose from."""
  longest = plan.window - 1
  if plan.drafting is Drafting.FIXED:
    return np.array([longest])
  return np.arange(longest + 1)


def _costs(plan: DecodePlan, lengths: np.ndarray, *, rows: int) -> np.ndarray:
  """Return what drafting so many tokens and verifying them costs [S, k].

  Of `rows` rows, in blocks that run for all of them, one token each.
  """
  head = head_in_blocks(plan.config)
  whole = sum(s.num_caches for s in plan.segments)
  shallow = np.cumsum([s.num_caches for s in plan.segments[:-1]])[:, None]
  k = lengths[None]
  wide = 1 + k * _cost_of_another_token(plan, rows=rows)
  verifications = 1 + k * _chance_of_another(k, plan=plan, rows=rows)
  deep = (whole - shallow + head) * wide * verifications
  by_exits = (k + 1) * shallow + k * head + deep
  # The text drafts without blocks and without a head, and it comes last.
  by_text = (whole + head) * wide
  return np.concatenate([by_exits, by_text]).astype(np.float32)


def _cost_of_another_token(plan: DecodePlan, *, rows: int) -> float:
  """Return what a longer window of each row adds, of what one token costs."""
  costs = plan.platform
  # Windows of one row are taken for cheaper than they are: drafts are kept in
  # runs, so the longer ones yield more than a chance for each of them says.
  if rows == 1:
    return costs.window_cost
  return max(costs.window_cost, min(1.0, rows / costs.free_tokens))


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
