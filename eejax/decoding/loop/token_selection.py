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
"""Choosing tokens from a head's logits, with what is reported of them."""

import flax.struct
import jax.numpy as jnp
from jax import lax

from eejax.decoding.loop.cache import BatchSettings, blank_top
from eejax.decoding.loop.plan import DecodePlan
from eejax.ops.sampling import (
  TopLogProbs,
  choose,
  log_probability,
  top_log_probabilities,
)
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class ChosenTokens:
  """One token a row, and what its head says of it.

  Attributes:
    token: the tokens.
    log_prob: log-probability of each by the head's own logits, before bias,
      temperature and filters.
    top: the likeliest tokens by the same logits; None where the plan keeps
      none.
  """

  token: Int[Array, 'B']
  log_prob: Float[Array, 'B']
  top: TopLogProbs | None


def choose_tokens(
  logits: Float[Array, 'B V'],
  request: BatchSettings,
  *,
  positions: Int[Array, 'B'],
  rows: Bool[Array, 'B'],
  plan: DecodePlan,
) -> ChosenTokens:
  """Choose a token for every row.

  Args:
    logits: of a head, in float32.
    request: settings of the rows.
    positions: position of the new token in its row's text.
    rows: rows that emit what is chosen; of the others nothing is reported.
    plan: what is decoded.
  """
  token = choose(
    logits,
    method=plan.method,
    sampling=request.sampling,
    positions=positions,
    bias=request.bias,
  )
  return ChosenTokens(
    token,
    log_probability(logits, token),
    _top(logits, request, rows, plan),
  )


def no_tokens(batch_size: int, *, plan: DecodePlan) -> ChosenTokens:
  """Return zeros in place of chosen tokens."""
  return ChosenTokens(
    jnp.zeros((batch_size,), jnp.int32),
    jnp.zeros((batch_size,), jnp.float32),
    blank_top((batch_size,), plan=plan),
  )


def _top(
  logits: Float[Array, 'B V'],
  request: BatchSettings,
  rows: Bool[Array, 'B'],
  plan: DecodePlan,
) -> TopLogProbs | None:
  """Return the likeliest tokens, if some row wants them."""
  if not plan.top_logprobs:
    return None
  assert request.wants_top is not None
  return lax.cond(
    jnp.any(request.wants_top & rows),
    lambda: top_log_probabilities(logits, count=plan.top_logprobs),
    lambda: blank_top((logits.shape[0],), plan=plan),
  )
