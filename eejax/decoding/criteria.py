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
"""Criteria: numbers that say how safe it is to exit.

A score lies in [0, 1] and higher is safer; a row exits when its score reaches
the threshold. A criterion reads either the stream before any head, which is
cheap, or the logits of the exit it stands at, which cost a pass over the
output matrix for every row that asks (design 5.5).
"""

import abc
import enum

import flax.struct
import jax
import jax.numpy as jnp

from eejax.config import EarlyExitConfig, ExitConfig, GateKind
from eejax.errors import ArgumentError
from eejax.types import Array, Float


class Reads(enum.Enum):
  """What a criterion has to be shown.

  GATE: the logit of the exit's gate, before any head.
  LOGITS: the logits of the exit's head.
  """

  GATE = 'gate'
  LOGITS = 'logits'


@flax.struct.dataclass
class Evidence:
  """Hold what is known of every row at one exit.

  Attributes:
    gate_logit: given to criteria that read `Reads.GATE`, else None.
    logits: given to criteria that read `Reads.LOGITS`, else None; float32.
  """

  gate_logit: Float[Array, '*rows'] | None = None
  logits: Float[Array, '*rows V'] | None = None


class Criterion(abc.ABC):
  """Score rows at an exit.

  Attributes:
    name: what it is called in policies and on the command line.
    reads: which field of `Evidence` it reads.
  """

  name: str
  reads: Reads

  @abc.abstractmethod
  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return a score in [0, 1] for each row, higher where exiting is safer."""

  def check(self, exits: tuple[ExitConfig, ...]) -> None:  # noqa: B027
    """Raise an `ArgumentError` if the criterion cannot be used at `exits`.

    Most can be used anywhere.
    """


class GateScore(Criterion):
  """Trust a trained probe of the stream.

  score = sigmoid(g), with g the gate's logit: the probability, as trained,
  that the exit's token is the full model's. Range (0, 1).

  Reference:
    Schuster et al. (2022), Confident Adaptive Language Modeling, section 3.2
    ("early exit classifier").
  """

  name = 'gate'
  reads = Reads.GATE

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return the probability of agreement."""
    assert evidence.gate_logit is not None
    return jax.nn.sigmoid(evidence.gate_logit)

  def check(self, exits: tuple[ExitConfig, ...]) -> None:
    """Raise an `ArgumentError` naming the exits that have no gate."""
    lacking = [str(e.depth) for e in exits if e.gate is GateKind.NONE]
    if lacking:
      noun = 'depth' if len(lacking) == 1 else 'depths'
      raise ArgumentError(
        f'criterion gate needs a gate at every exit, and there is none at '
        f'{noun} {", ".join(lacking)}; add exits with :gate and tune them, '
        'or use max_prob, margin or entropy.'
      )


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
    logits = _logits(evidence)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    return _clip(jnp.exp(jnp.max(logits, axis=-1) - log_normalizer))


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
    logits = _logits(evidence)
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    first = jnp.max(logits, axis=-1)
    is_top = logits == first[..., None]
    below = jnp.max(jnp.where(is_top, -jnp.inf, logits), axis=-1)
    second = jnp.where(jnp.sum(is_top, axis=-1) > 1, first, below)
    difference = jnp.exp(first - log_normalizer) - jnp.exp(
      second - log_normalizer
    )
    return _clip(difference)


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
    log_p = jax.nn.log_softmax(_logits(evidence), axis=-1)
    p = jnp.exp(log_p)
    # Probabilities that underflow have an infinite logarithm and no weight.
    entropy = -jnp.sum(jnp.where(p > 0, p * log_p, 0.0), axis=-1)
    most = jnp.log(jnp.float32(max(log_p.shape[-1], 2)))
    return _clip(1.0 - entropy / most)


def _logits(evidence: Evidence) -> Float[Array, '*rows V']:
  assert evidence.logits is not None
  return evidence.logits


def _clip(score: Float[Array, '*rows']) -> Float[Array, '*rows']:
  """Take back what rounding adds beyond [0, 1]."""
  return jnp.clip(score, 0.0, 1.0)


_CRITERIA: dict[str, Criterion] = {}


def register(criterion: Criterion) -> None:
  """Make a criterion known by its name.

  Raises:
    ArgumentError: the name is taken by another kind of criterion.
  """
  known = _CRITERIA.get(criterion.name)
  if known is not None and type(known) is not type(criterion):
    raise ArgumentError(f'there is already a criterion {criterion.name!r}.')
  _CRITERIA[criterion.name] = criterion


def criterion_names() -> tuple[str, ...]:
  """Return the names of all known criteria."""
  return tuple(_CRITERIA)


def get_criterion(name: str) -> Criterion:
  """Return the criterion called `name`.

  Raises:
    ArgumentError: there is none.
  """
  if name not in _CRITERIA:
    raise ArgumentError(
      f'there is no criterion {name!r}; there are '
      f'{", ".join(criterion_names())}.'
    )
  return _CRITERIA[name]


def default_criterion(config: EarlyExitConfig) -> str:
  """Return `gate` where every exit has one, else `max_prob`."""
  gated = all(e.gate is not GateKind.NONE for e in config.exits)
  return GateScore.name if config.exits and gated else MaxProbability.name


for _criterion in (GateScore(), MaxProbability(), Margin(), Entropy()):
  register(_criterion)
