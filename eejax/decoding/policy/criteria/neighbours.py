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
"""Criteria that compare an exit with the one asked before it.

Where no exit was asked before for the same token, all of them score 0, so the
shallowest exit is not taken by any threshold above 0. Every one of them
compares a row with itself alone: a cosine over a flattened batch, or a whole
batch that has to agree, would let rows influence one another.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from eejax.decoding.policy.criteria.criterion import Criterion, Evidence, Reads
from eejax.decoding.policy.criteria.distribution import clip, needed_logits
from eejax.errors import ArgumentError
from eejax.types import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class Patience(Criterion):
  """Trust a prediction that several exits in a row repeat.

  score = min((streak - 1) / patience, 1): agreements with the exit before,
  one after the other, as a share of those wanted. Range [0, 1]; threshold 1
  asks for all of them. Tokens that tie for the top count as the first.

  Reference:
    Zhou et al. (2020), BERT Loses Patience: Fast and Robust Inference with
    Early Exit, section 3.3.

  Attributes:
    patience: how many agreements are wanted, at least 1.
  """

  patience: int = 2

  name = 'patience'
  reads = Reads.STREAK

  def __post_init__(self):
    if self.patience < 1:
      raise ArgumentError(
        f'patience must be at least 1 agreement, not {self.patience}.'
      )

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return the share of the agreements wanted that are there."""
    assert evidence.streak is not None
    agreements = (evidence.streak - 1).astype(jnp.float32)
    return clip(agreements / self.patience)


class Cosine(Criterion):
  """Trust a stream that the last segment did not turn.

  score = max(cos(h, h'), 0), with h the stream at the exit and h' the one at
  the exit before, in float32. Range [0, 1]; a stream of zeros gives 0.

  Reference:
    Schuster et al. (2022), Confident Adaptive Language Modeling, section 3.2
    ("hidden-state saturation"), there between neighbouring layers.
  """

  name = 'cosine'
  reads = Reads.STREAM | Reads.PREVIOUS_STREAM

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return the cosine of each row's two streams."""
    assert evidence.stream is not None
    assert evidence.previous_stream is not None
    here, before = _unit(evidence.stream), _unit(evidence.previous_stream)
    return _where_compared(evidence, jnp.sum(here * before, axis=-1))


class JensenShannon(Criterion):
  """Trust a distribution that the last segment left as it was.

  score = 1 - JS(p, q) / log 2, with p the exit's distribution, q the one at
  the exit before, m = (p + q) / 2 and
  JS(p, q) = (KL(p || m) + KL(q || m)) / 2. Range [0, 1], symmetric.

  Reference:
    Lin (1991), Divergence Measures Based on the Shannon Entropy, section IV;
    between layers: Chuang et al. (2024), DoLa, section 2.1.
  """

  name = 'js'
  reads = Reads.LOGITS | Reads.PREVIOUS_LOGITS

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return one minus the normalised divergence."""
    log_p, log_q = _log_probabilities(evidence)
    log_middle = jnp.logaddexp(log_p, log_q) - math.log(2)
    divergence = _divergence(log_p, log_middle) + _divergence(log_q, log_middle)
    return _where_compared(evidence, similarity_score(divergence / 2))


class KullbackLeibler(Criterion):
  """Trust a distribution to which the last segment added no information.

  score = exp(-KL(p || q)), with p the exit's distribution and q the one at
  the exit before; KL = sum_v p(v) log(p(v) / q(v)) in nats. Range [0, 1]; 0
  where p has weight and q has none.

  Reference:
    Geiping et al. (2025), Scaling up Test-Time Compute with Latent Reasoning
    (arXiv 2502.05171), section 6.1, which exits below a threshold on the
    divergence of two steps; its exponential makes it a score.
  """

  name = 'kl'
  reads = Reads.LOGITS | Reads.PREVIOUS_LOGITS

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return the exponential of the negative divergence."""
    divergence = _divergence(*_log_probabilities(evidence))
    return _where_compared(evidence, jnp.exp(-divergence))


def _unit(vectors: Float[Array, '*rows D']) -> Float[Array, '*rows D']:
  """Return each row's direction; zeros, which have none, stay zeros."""
  vectors = vectors.astype(jnp.float32)
  # A norm of large entries would overflow, one of small ones vanish.
  largest = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True)
  vectors = vectors / jnp.where(largest > 0, largest, 1.0)
  norm = jnp.sqrt(jnp.sum(vectors**2, axis=-1, keepdims=True))
  return vectors / jnp.where(norm > 0, norm, 1.0)


def _log_probabilities(
  evidence: Evidence,
) -> tuple[Float[Array, '*rows V'], Float[Array, '*rows V']]:
  assert evidence.previous_logits is not None
  return (
    jax.nn.log_softmax(needed_logits(evidence), axis=-1),
    jax.nn.log_softmax(evidence.previous_logits, axis=-1),
  )


def _divergence(
  log_p: Float[Array, '*rows V'], log_q: Float[Array, '*rows V']
) -> Float[Array, '*rows']:
  """Return KL(p || q) in nats."""
  p = jnp.exp(log_p)
  # What has no weight in p adds nothing, whatever its logarithms are.
  return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)


def _where_compared(
  evidence: Evidence, score: Float[Array, '*rows']
) -> Float[Array, '*rows']:
  assert evidence.has_previous is not None
  return compared_score(score, has_previous=evidence.has_previous)


# What the scores are made of; who has kept no logits calls these.


def similarity_score(
  divergence: Float[Array | np.ndarray, '*rows'],
) -> Float[Array, '*rows']:
  """Return the score `js` of a Jensen-Shannon divergence in nats."""
  return clip(1 - jnp.asarray(divergence) / math.log(2))


def compared_score(
  score: Float[Array | np.ndarray, '*rows'],
  *,
  has_previous: Bool[Array | np.ndarray, '*rows'],
) -> Float[Array, '*rows']:
  """Return a score in [0, 1]; 0 where nothing was there to compare with."""
  return jnp.where(has_previous, clip(jnp.asarray(score)), 0.0)
