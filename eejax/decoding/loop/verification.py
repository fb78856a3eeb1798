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
"""Verification: the final head over windows of drafts, and what stands."""

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.decoding.drafting.adaptive import Draft
from eejax.decoding.loop.cache import BatchSettings, Emission, blank_top
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.token_selection import choose_tokens
from eejax.models import decoder
from eejax.models.exits import output_matrix_name
from eejax.ops.matmul import matrix_product
from eejax.ops.sampling import TopLogProbs
from eejax.ops.softcap import soft_cap
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class TargetTokens:
  """Tokens that the final head chooses after each token of a window.

  Attributes:
    tokens: what follows each token of the window.
    log_probs: their log-probabilities, untempered.
    top: the likeliest tokens there; None where the plan keeps none.
  """

  tokens: Int[Array, 'B W']
  log_probs: Float[Array, 'B W']
  top: TopLogProbs | None = None


@flax.struct.dataclass
class AcceptanceResult:
  """Drafts that stand, of the windows that were verified in a step.

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

  @property
  def next_token(self) -> Int[Array, 'B']:
    """Token that each verified row goes on from."""
    at = self.kept[:, None]
    return jnp.take_along_axis(self.emission.token, at, axis=1)[:, 0]


def verify(
  params: Prepared,
  request: BatchSettings,
  hidden: Float[Array, 'B two_W D'],
  *,
  first: Int[Array, 'B'],
  count: Int[Array, 'B'],
  plan: DecodePlan,
) -> TargetTokens:
  """Run the final head over windows, in the narrowest width compiled.

  Args:
    params: the model.
    request: settings of the rows.
    hidden: streams behind the last block, a window of each row at their start.
    first: position of each window's first token.
    count: tokens of each window; 0 where it is not verified yet.
    plan: what is decoded.
  """
  longest = jnp.max(count)

  def choose_in(width: int):
    return lambda: _targets(params, request, hidden, first, count, width, plan)

  blank = jnp.zeros((count.shape[0], plan.window), jnp.float32)
  nothing = lambda: TargetTokens(
    blank.astype(jnp.int32), blank, blank_top(blank.shape, plan=plan)
  )
  which = jnp.searchsorted(jnp.array(plan.widths), longest) + 1
  return lax.switch(
    jnp.where(longest > 0, which, 0), [nothing, *map(choose_in, plan.widths)]
  )


def _targets(
  params: Prepared,
  request: BatchSettings,
  hidden: Float[Array, 'B two_W D'],
  first: Int[Array, 'B'],
  count: Int[Array, 'B'],
  width: int,
  plan: DecodePlan,
) -> TargetTokens:
  """Return what follows the first `width` tokens of every window."""
  config = plan.config.model
  ready = decoder.final_hidden(
    {'final_norm': params.final_norm}, hidden[:, :width], config=config
  )
  flat = ready.reshape(-1, config.embed_dim)
  kernel = params.kernels[output_matrix_name(None, config=config)]
  logits = matrix_product(flat, kernel, dtype=jnp.float32)
  logits = soft_cap(logits, config.logit_softcap)
  column = jnp.arange(width)[None]
  after = first[:, None] + 1 + column
  chosen = choose_tokens(
    logits,
    jax.tree.map(lambda x: jnp.repeat(x, width, axis=0), request),
    positions=after.reshape(-1),
    rows=(column < count[:, None]).reshape(-1),
    plan=plan,
  )

  def shape(x: jax.Array) -> jax.Array:
    windows = x.reshape(-1, width, *x.shape[1:])
    rest = ((0, 0),) * (x.ndim - 1)
    return jnp.pad(windows, ((0, 0), (0, plan.window - width), *rest))

  return TargetTokens(
    shape(chosen.token),
    shape(chosen.log_prob),
    jax.tree.map(shape, chosen.top),
  )


def accept(
  draft: Draft,
  target: TargetTokens,
  *,
  first: Int[Array, 'B'],
  verified: Bool[Array, 'B'],
  fed: Int[Array, 'B'],
  plan: DecodePlan,
) -> AcceptanceResult:
  """Return how many drafts of each row stand, and what follows.

  A row whose last segment came to position 7, with three drafts, window 5:

    position        7  8  9  10 11
    draft.text      t  a  b  c  .   by position; fed = 4 of them
    draft.scores    .  sa sb sc .   by column of the window, t's means nothing
    target.tokens   a  b  x  y  .   by column: what follows that column
    following       a  b  c  .      draft.text, one position to the left
    is_draft        1  1  1  0  0   whether what follows is one of the drafts
    alike           1  1  0  0  0   kept = 2, up to the first that differs
    emission        a  b  x         kept + 1 tokens, by column as the target

  So emitted token j stands at position first + 1 + j, and it was the draft
  with the score of column j + 1 for j < kept.

  Args:
    draft: of all rows.
    target: what the final head chose.
    first: position of each window's first token.
    verified: rows whose window was verified.
    fed: tokens of each window.
    plan: what is decoded.
  """
  column = jnp.arange(plan.window)[None]
  position = first[:, None] + 1 + column
  position = jnp.minimum(position, draft.text.shape[1] - 1)
  following = jnp.take_along_axis(draft.text, position, axis=1)
  is_draft = column < fed[:, None] - 1
  alike = (target.tokens == following) & is_draft
  kept = jnp.sum(jnp.cumprod(alike.astype(jnp.int32), axis=1), axis=1)
  is_kept = column < kept[:, None]
  depths = jnp.array([s.last for s in plan.segments], jnp.int32)
  scores = jnp.pad(draft.scores[:, 1:], ((0, 0), (0, 1)))
  # A token from the text went through no block before it was proposed.
  proposed = jnp.where(
    jnp.isnan(scores), 0, depths[draft.choice.segment][:, None]
  )
  emission = Emission(
    token=target.tokens,
    depth=jnp.where(is_kept, proposed, plan.depth),
    score=jnp.where(is_kept, scores, jnp.nan),
    log_prob=target.log_probs,
    num=jnp.where(verified, kept + 1, 0),
    top=target.top,
  )
  kept = jnp.where(verified, kept, 0)
  return AcceptanceResult(verified, fed, kept, emission)
