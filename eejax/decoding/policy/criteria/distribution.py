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
"""Criteria that read the logits of one exit."""

import jax
import jax.numpy as jnp
import numpy as np

from eejax.decoding.policy.criteria.criterion import Criterion, Evidence, Reads
from eejax.types import Array, Float


class MaxProbability(Criterion):
  """Trust a high top probability.

  score = max_v p(v). Range [1/V, 1].

  Reference:
    Chen et al. (2023), EE-LLM (arXiv 2312.04916), section 4, which compares
    its logarithm.
  """

  name = 'max_prob'
  reads = Reads.LOGITS

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return the highest probability."""
    logits = needed_logits(evidence)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    return probability_score(jnp.max(logits, axis=-1) - log_normalizer)


class Margin(Criterion):
  """Trust a clear winner.

  score = p(1) - p(2), the two highest probabilities. Range [0, 1]; two
  tokens that tie for the top give 0.

  Reference:
    Schuster et al. (2022), Confident Adaptive Language Modeling, section 3.2
    ("softmax response").
  """

  name = 'margin'
  reads = Reads.LOGITS

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return the difference of the two highest probabilities."""
    logits = needed_logits(evidence)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    first = jnp.max(logits, axis=-1)
    is_top = logits == first[..., None]
    below = jnp.max(jnp.where(is_top, -jnp.inf, logits), axis=-1)
    second = jnp.where(jnp.sum(is_top, axis=-1) > 1, first, below)
    return margin_score(first - log_normalizer, second - log_normalizer)


class Entropy(Criterion):
  """Trust a concentrated distribution.

  score = 1 - H(p) / log V, H in nats. Range [0, 1].

  Reference:
    Xin et al. (2020), DeeBERT, section 3.2, which exits below a threshold on
    H; normalised here so that a threshold means the same for every V.
  """

  name = 'entropy'
  reads = Reads.LOGITS

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return one minus the normalised entropy."""
    log_p = jax.nn.log_softmax(needed_logits(evidence), axis=-1)
    p = jnp.exp(log_p)
    # Probabilities that underflow have an infinite logarithm and no weight.
    entropy = -jnp.sum(jnp.where(p > 0, p * log_p, 0.0), axis=-1)
    return entropy_score(entropy, vocab_size=log_p.shape[-1])


# What the scores are made of; who has kept no logits calls these.


def probability_score(
  log_prob: Float[Array | np.ndarray, '*rows'],
) -> Float[Array, '*rows']:
  """Return the score `max_prob` of the highest log-probability."""
  return clip(jnp.exp(log_prob))


def margin_score(
  first: Float[Array | np.ndarray, '*rows'],
  second: Float[Array | np.ndarray, '*rows'],
) -> Float[Array, '*rows']:
  """Return the score `margin` of the two highest log-probabilities."""
  return clip(jnp.exp(first) - jnp.exp(second))


def entropy_score(
  entropy: Float[Array | np.ndarray, '*rows'], *, vocab_size: int
) -> Float[Array, '*rows']:
  """Return the score `entropy` of an entropy in nats."""
  share = entropy / jnp.log(jnp.float32(max(vocab_size, 2)))
  return clip(jnp.asarray(1.0 - share))


def needed_logits(evidence: Evidence) -> Float[Array, '*rows V']:
  """Return the logits, which the criterion declared to read."""
  assert evidence.logits is not None
  return evidence.logits


def clip(score: Float[Array, '*rows']) -> Float[Array, '*rows']:
  """Take back what rounding adds beyond [0, 1]."""
  return jnp.clip(score, 0.0, 1.0)
