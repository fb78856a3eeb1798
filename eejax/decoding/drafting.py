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
"""What a speculating row remembers, and which exit drafts how far next.

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
class Draft:
  """Hold a row's tokens since its last verification; X exits that draft.

  Index 0 of `tokens` is the token emitted last; drafts follow.

  Attributes:
    tokens: tokens fed since, and the one to be fed next.
    scores: score of each draft.
    stage: the stage whose exit drafts.
    limit: how many tokens it may draft before they are verified.
    kept: drafts kept lately, by exit.
    tried: drafts verified lately, those after a rejected one left out.
  """

  tokens: Int[Array, 'B W']
  scores: Float[Array, 'B W']
  stage: Int[Array, 'B']
  limit: Int[Array, 'B']
  kept: Float[Array, 'B X']
  tried: Float[Array, 'B X']


def first_draft(plan: Plan, tokens: Int[Array, 'B']) -> Draft:
  """Return the draft of rows of which nothing is known yet."""
  rows, exits = tokens.shape[0], plan.num_exits
  kept = jnp.zeros((rows, exits), jnp.float32)
  stage, limit = choose_draft(kept, kept, plan=plan)
  room = jnp.zeros((rows, plan.window), jnp.int32)
  return Draft(
    tokens=room.at[:, 0].set(tokens),
    scores=jnp.zeros((rows, plan.window), jnp.float32),
    stage=stage,
    limit=limit,
    kept=kept,
    tried=jnp.zeros_like(kept),
  )


def learn(
  draft: Draft,
  *,
  rows: Bool[Array, 'B'],
  tried: Int[Array, 'B'],
  kept: Int[Array, 'B'],
  plan: Plan,
) -> Draft:
  """Return the draft of `rows` whose window was verified, to start anew.

  Args:
    draft: of all rows.
    rows: those that were verified.
    tried: drafts of each up to the first that was rejected, it included.
    kept: those of them that were kept.
    plan: what is decoded.
  """
  here = jax.nn.one_hot(draft.stage, plan.num_exits)  # [B, X]
  fade = lambda old, new: _MEMORY * old + here * new[:, None]
  all_kept, all_tried = fade(draft.kept, kept), fade(draft.tried, tried)
  stage, limit = choose_draft(all_kept, all_tried, plan=plan)
  one, table = (lambda new, old: jnp.where(rows, new, old)), rows[:, None]
  return dataclasses.replace(
    draft,
    stage=one(stage, draft.stage),
    limit=one(limit, draft.limit),
    kept=jnp.where(table, all_kept, draft.kept),
    tried=jnp.where(table, all_tried, draft.tried),
  )


def choose_draft(
  kept: Float[Array, 'B X'], tried: Float[Array, 'B X'], *, plan: Plan
) -> tuple[Int[Array, 'B'], Int[Array, 'B']]:
  """Return the stage that drafts and how many tokens, for each row."""
  lengths = _lengths(plan)
  chance = (kept + _PRIOR_KEPT) / (tried + _PRIOR_TRIED)
  powers = chance[..., None] ** jnp.asarray(lengths + 1.0)[None, None]
  # The chance is below 1, for the prior tried more than it kept.
  tokens = (1 - powers) / (1 - chance[..., None])  # [B, X, k]
  worth = tokens / jnp.asarray(_costs(plan, lengths))[None]
  best = jnp.argmax(worth.reshape(worth.shape[0], -1), axis=-1)
  stage, which = jnp.divmod(best, len(lengths))
  limit = jnp.asarray(lengths)[which]
  return stage.astype(jnp.int32), limit.astype(jnp.int32)


def _lengths(plan: Plan) -> np.ndarray:
  """Return the numbers of drafts to choose from."""
  longest = plan.window - 1
  if plan.drafting is Drafting.FIXED:
    return np.array([longest])
  return np.arange(longest + 1)


def _costs(plan: Plan, lengths: np.ndarray) -> np.ndarray:
  """Return what drafting so many tokens and verifying them costs [X, k]."""
  head = head_in_blocks(plan.config)
  whole = sum(s.num_caches for s in plan.stages)
  shallow = np.cumsum([s.num_caches for s in plan.stages[:-1]])[:, None]
  k = lengths[None]
  deep = (whole - shallow) * (1 + _WINDOW_COST * k)
  return ((k + 1) * shallow + k * head + deep + head).astype(np.float32)
