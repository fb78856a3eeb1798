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
"""How likely the tokens of a prompt were, at full depth."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig
from eejax.decoding.generate import SMALLEST_PREFILL
from eejax.decoding.loop.plan import bucket
from eejax.models import decoder
from eejax.parallel import sharding
from eejax.types import Array, Float, Int, Params


@dataclasses.dataclass(frozen=True)
class TokenScore:
  """How likely a token of a prompt was after those before it.

  Attributes:
    logprob: of it; None of the first one.
    rank: its place among all tokens, the likeliest has 1; None likewise.
    top: the likeliest tokens there with theirs, likeliest first.
  """

  logprob: float | None = None
  rank: int | None = None
  top: tuple[tuple[int, float], ...] = ()


# As many as any request may ask for, so that all share a program.
MOST_TOP = 20


def prompt_scores(
  model: Model, tokens: Sequence[int], *, dtype: str, count: int
) -> list[TokenScore]:
  """Return how likely each token of a prompt was after those before it.

  Logits are those of the whole model, untempered.

  Args:
    model: scores the prompt.
    tokens: the prompt.
    dtype: what is computed in.
    count: how many of the likeliest tokens are told, at most `MOST_TOP`.
  """
  width = bucket(len(tokens), smallest=SMALLEST_PREFILL)
  padded = np.zeros((1, width), np.int32)
  padded[0, : len(tokens)] = tokens
  config = model.config.with_exits(())
  top = min(MOST_TOP, config.model.vocab_size)
  chosen, ranks, top_ids, top_logprobs = jax.device_get(
    sharding.call_where_it_lies(
      _scores,
      {'backbone': model.params['backbone']},
      padded,
      config=config,
      dtype=dtype,
      count=top,
    )
  )
  scores = [TokenScore()]
  for place in range(len(tokens) - 1):
    pairs = zip(
      top_ids[place, :count].tolist(),
      top_logprobs[place, :count].tolist(),
      strict=True,
    )
    scores.append(
      TokenScore(float(chosen[place]), int(ranks[place]), tuple(pairs))
    )
  return scores


@functools.partial(jax.jit, static_argnames=('config', 'dtype', 'count'))
def _scores(
  params: Params,
  tokens: Int[Array, '1 T'],
  *,
  config: EarlyExitConfig,
  dtype: str,
  count: int,
) -> tuple[
  Float[Array, 'T'], Int[Array, 'T'], Int[Array, 'T K'], Float[Array, 'T K']
]:
  logits = decoder.logits(params, tokens, config=config, dtype=dtype)['final']
  log_probs = jax.nn.log_softmax(logits[0].astype(jnp.float32))  # [T, V]
  following = jnp.roll(tokens[0], -1)
  chosen = jnp.take_along_axis(log_probs, following[:, None], axis=-1)
  ranks = 1 + jnp.sum(log_probs > chosen, axis=-1)
  values, ids = jax.lax.top_k(log_probs, count)
  return chosen[:, 0], ranks, ids, values
