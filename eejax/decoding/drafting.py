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
  cost(x, k)   = (k + 1) c_x + k h + c w(k + 1) + h        2023, eq. 1)

with w(n) what a window of n tokens costs over one token. The next draft takes
the x and k of the most tokens for their cost, k = 0 being plain decoding. The
chances are running shares of what was kept, so they follow the text, as DEL
(Zarch et al. 2025, arXiv 2504.05598) does by tokens per block.

Looking drafts up in the text costs neither blocks nor a head, c_x = h = 0 but
for the final head's; where that yields more for its cost than the best exit,
what is found goes first, and the exit drafts where nothing is.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eejax.decoding.batching import head_in_blocks
from eejax.decoding.plan import Drafting, Plan
from eejax.types import Array, Bool, Float, Int

# A running share forgets with each window: what is 40 windows old counts for
# half as much. It starts at three kept of four, worth four drafts, and goes
# back there where an exit is not tried, which is what tries it again.
_MEMORY = 0.983
_PRIOR_KEPT, _PRIOR_TRIED = 3.0, 4.0
# What each further token adds to a window's cost, of one token's.
_WINDOW_COST = 0.06


@flax.struct.dataclass
class Choice:
  """Say who drafts how many tokens of each row before they are verified.

  Attributes:
    stage: the stage whose exit drafts.
    limit: how many tokens it may draft.
    lookup_limit: how many may be looked up in the text.
  """

  stage: Int[Array, 'B']
  limit: Int[Array, 'B']
  lookup_limit: Int[Array, 'B']


@flax.struct.dataclass
class Draft:
  """Hold a row's text and what it drafts since its last verification.

  A source of drafts, of S, is the exit of a stage or, in the place of the
  last stage, the text. Column 0 of `scores` is the token emitted last; drafts
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


def first_draft(plan: Plan, *, text: Int[Array, 'B P']) -> Draft:
  """Return the draft of rows of which nothing is known but their text."""
  rows = text.shape[0]
  kept = jnp.zeros((rows, len(plan.stages)), jnp.float32)
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
  draft: Draft, drafts: Bool[Array, 'B W'], *, plan: Plan
) -> Int[Array, 'B S']:
  """Return how many of `drafts` each source proposed.

  Args:
    draft: of all rows.
    drafts: the drafts to be counted, the first in column 1.
    plan: what is decoded.
  """
  num_sources = len(plan.stages)
  looked_up = was_looked_up(draft)
  by_exit = jnp.sum(drafts & ~looked_up, axis=1)
  here = jax.nn.one_hot(draft.choice.stage, num_sources, dtype=jnp.int32)
  counted = here * by_exit[:, None]
  return counted.at[:, -1].add(jnp.sum(drafts & looked_up, axis=1))


def learn(
  draft: Draft,
  *,
  rows: Bool[Array, 'B'],
  fed: Int[Array, 'B'],
  kept: Int[Array, 'B'],
  plan: Plan,
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
  fade = lambda old, new: _MEMORY * old + new
  all_tried = fade(draft.tried, tried)
  all_kept = fade(draft.kept, by_source(draft, up_to(kept), plan=plan))
  choice = choose_draft(all_kept, all_tried, plan=plan)
  table = rows[:, None]
  return dataclasses.replace(
    draft,
    choice=jax.tree.map(
      lambda new, old: jnp.where(rows, new, old), choice, draft.choice
    ),
    kept=jnp.where(table, all_kept, draft.kept),
    tried=jnp.where(table, all_tried, draft.tried),
  )


def choose_draft(
  kept: Float[Array, 'B S'], tried: Float[Array, 'B S'], *, plan: Plan
) -> Choice:
  """Return who drafts how far, by what sources had kept of what was tried."""
  lengths = _lengths(plan)
  chance = (kept + _PRIOR_KEPT) / (tried + _PRIOR_TRIED)
  powers = chance[..., None] ** jnp.asarray(lengths + 1.0)[None, None]
  # The chance is below 1, for the prior tried more than it kept.
  tokens = (1 - powers) / (1 - chance[..., None])  # [B, S, k]
  worth = tokens / jnp.asarray(_costs(plan, lengths))[None]
  by_exits = worth[:, :-1].reshape(worth.shape[0], -1)
  stage, which = jnp.divmod(jnp.argmax(by_exits, axis=-1), len(lengths))
  length_of = lambda which: jnp.asarray(lengths)[which].astype(jnp.int32)
  by_text = worth[:, -1]
  looks = by_text.max(axis=-1) >= by_exits.max(axis=-1)
  if plan.drafting is Drafting.FIXED:
    looks = jnp.ones_like(looks)
  if plan.draft_lookup is None:
    looks = jnp.zeros_like(looks)
  return Choice(
    stage=stage.astype(jnp.int32),
    limit=length_of(which),
    lookup_limit=jnp.where(looks, length_of(by_text.argmax(axis=-1)), 0),
  )


def _lengths(plan: Plan) -> np.ndarray:
  """Return the numbers of drafts to choose from."""
  longest = plan.window - 1
  if plan.drafting is Drafting.FIXED:
    return np.array([longest])
  return np.arange(longest + 1)


def _costs(plan: Plan, lengths: np.ndarray) -> np.ndarray:
  """Return what drafting so many tokens and verifying them costs [S, k]."""
  head = head_in_blocks(plan.config)
  whole = sum(s.num_caches for s in plan.stages)
  # The text, which comes last, drafts without blocks and without a head.
  shallow = np.cumsum([s.num_caches for s in plan.stages[:-1]])
  shallow = np.append(shallow, 0)[:, None]
  heads = np.append(np.full(plan.num_exits, head), 0.0)[:, None]
  k = lengths[None]
  deep = (whole - shallow) * (1 + _WINDOW_COST * k)
  return ((k + 1) * shallow + k * heads + deep + head).astype(np.float32)
