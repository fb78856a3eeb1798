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
"""Threshold rules: how a row's thresholds change while it is decoded.

A rule is a frozen dataclass with three pure functions over a typed state:
`init`, `update` with what was observed, `values` at a position. Every entry
of the state belongs to one row, so rows stay independent. Under every rule
0 stays 0, which always exits, and infinity stays infinity, which never does.
"""

import abc
import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jax.scipy.special import betaln

from eejax.decoding.policy.notation import make, parse_notation, write_notation
from eejax.errors import ArgumentError
from eejax.types import Array, Bool, Float, Int

# Scores this close to 0 or 1 count as that far away: a Beta density may have
# neither in its range.
_EDGE = 1e-4


@flax.struct.dataclass
class Moments:
  """Running moments of scores; last axis: disagreed, agreed.

  Attributes:
    count: scores observed.
    mean: of them.
    spread: sum of their squared distances from the mean.
  """

  count: Float[Array, 'B X 2']
  mean: Float[Array, 'B X 2']
  spread: Float[Array, 'B X 2']


@flax.struct.dataclass
class ThresholdState:
  """What a rule knows of every row.

  Attributes:
    initial: thresholds as the policy gives them; infinity is never.
    start: position of the token from which a row's first new token follows.
    limit: how many new tokens each row may get.
    moments: of scores that were checked, for rules that learn, else None.
  """

  initial: Float[Array, 'B X']
  start: Int[Array, 'B']
  limit: Int[Array, 'B']
  moments: Moments | None = None


@dataclasses.dataclass(frozen=True)
class ThresholdRule(abc.ABC):
  """How thresholds follow from the policy's and what happens.

  A rule's fields are numbers; it is written `name(1, 2)`, in their order.

  Attributes:
    name: what it is called, without its numbers.
  """

  def init(
    self,
    initial: Float[Array, 'B X'],
    *,
    start: Int[Array, 'B'],
    limit: Int[Array, 'B'],
  ) -> ThresholdState:
    """Return the state of rows that have decoded nothing."""
    return ThresholdState(initial, start, limit)

  def update(
    self,
    state: ThresholdState,
    *,
    scores: Float[Array, 'B X'],
    agreed: Bool[Array, 'B X'],
    observed: Bool[Array, 'B X'],
  ) -> ThresholdState:
    """Return the state after one more token a row.

    Args:
      state: of all rows.
      scores: of the token at each exit.
      agreed: whether the exit's token is the full model's.
      observed: where both are known. Let it not follow from the score: a rule
        that only sees rows that did not exit learns from a skewed sample.
    """
    return state

  @abc.abstractmethod
  def values(
    self, state: ThresholdState, positions: Int[Array, 'B']
  ) -> Float[Array, 'B X']:
    """Return each row's thresholds for the token at `positions`."""

  @property
  def notation(self) -> str:
    """Return the text that stands for this rule."""
    values = [getattr(self, f.name) for f in dataclasses.fields(self)]
    return write_notation(rule_name(self), *values)


@dataclasses.dataclass(frozen=True)
class Constant(ThresholdRule):
  """The policy's thresholds: one for all exits, or one an exit."""

  def values(
    self, state: ThresholdState, positions: Int[Array, 'B']
  ) -> Float[Array, 'B X']:
    """Return the policy's thresholds."""
    return state.initial


@dataclasses.dataclass(frozen=True)
class Decaying(ThresholdRule):
  """Thresholds that are high for a text's first tokens, which later ones read.

  value = clip(0.9 threshold + 0.1 exp(-temperature t / N), 0, 1), with t how
  many new tokens the row has got and N how many it may get. Range [0, 1]; it
  falls from 0.9 threshold + 0.1 towards 0.9 threshold.

  Reference:
    Schuster et al. (2022), Confident Adaptive Language Modeling, equation 5.

  Attributes:
    temperature: tau, how fast it falls; 0 keeps the first value.
  """

  temperature: float = 4.0

  def __post_init__(self):
    if not self.temperature >= 0:
      raise ArgumentError(
        'the temperature of decaying thresholds must be at least 0, not '
        f'{self.temperature}.'
      )

  def values(
    self, state: ThresholdState, positions: Int[Array, 'B']
  ) -> Float[Array, 'B X']:
    """Return the thresholds of each row at its own position."""
    share = (positions - state.start) / jnp.maximum(state.limit, 1)
    fall = jnp.exp(-self.temperature * jnp.maximum(share, 0.0))
    values = jnp.clip(0.9 * state.initial + 0.1 * fall[:, None], 0.0, 1.0)
    return _with_ends(values, state.initial)


@dataclasses.dataclass(frozen=True)
class Adaptive(ThresholdRule):
  """Thresholds learnt from each row's own tokens: which scores tell agreement.

  Scores of tokens whose exit agreed with the full model and of those whose
  exit did not are two Beta distributions, each fitted by its moments: with
  mean m and variance v, alpha = m c and beta = (1 - m) c, where
  c = m (1 - m) / v - 1. The value is the lowest point of an even grid over
  [lowest, highest] from which on

    Beta_agreed(x) / (Beta_agreed(x) + Beta_disagreed(x)) > certainty

  at all points, and `highest` where there is none. Until both classes have
  `minimum_count` scores at an exit, the policy's threshold holds there.

  Reference:
    Bae et al. (2023), Fast and Robust Early-Exiting Framework (FREE),
    section 4.3. Its code counts the points that pass instead of looking from
    which on all do, and takes the class with the higher mean for agreement.

  Attributes:
    certainty: zeta, what the share of agreement has to exceed, in (0, 1).
    lowest: the least threshold it may give.
    highest: the greatest threshold it may give.
    points: how many points the grid has, at least 2.
    minimum_count: scores wanted of each class, at least 2.
  """

  certainty: float = 0.4
  lowest: float = 0.3
  highest: float = 0.9
  points: int = 10
  minimum_count: int = 10

  def __post_init__(self):
    if not 0 < self.certainty < 1:
      raise ArgumentError(f'certainty must be in (0, 1), not {self.certainty}.')
    if not 0 < self.lowest <= self.highest < 1:
      raise ArgumentError(
        'adaptive thresholds need 0 < lowest <= highest < 1, not '
        f'{self.lowest} and {self.highest}.'
      )
    if self.points < 2 or self.minimum_count < 2:
      raise ArgumentError(
        'adaptive thresholds need at least 2 points and 2 scores of a class, '
        f'not {self.points} and {self.minimum_count}.'
      )

  def init(
    self,
    initial: Float[Array, 'B X'],
    *,
    start: Int[Array, 'B'],
    limit: Int[Array, 'B'],
  ) -> ThresholdState:
    """Return the state of rows that have observed nothing."""
    zeros = jnp.zeros((*initial.shape, 2), jnp.float32)
    return ThresholdState(initial, start, limit, Moments(zeros, zeros, zeros))

  def update(
    self,
    state: ThresholdState,
    *,
    scores: Float[Array, 'B X'],
    agreed: Bool[Array, 'B X'],
    observed: Bool[Array, 'B X'],
  ) -> ThresholdState:
    """Take in the scores of one token, as Welford (1962) does."""
    assert state.moments is not None
    old = state.moments
    classes = jnp.stack([~agreed, agreed], axis=-1)
    is_new = classes & observed[..., None]
    count = old.count + is_new
    # What was not observed may be NaN, which a product with 0 would keep.
    score = jnp.clip(scores, _EDGE, 1 - _EDGE)[..., None]
    step = jnp.where(is_new, score - old.mean, 0.0)
    mean = old.mean + step / jnp.maximum(count, 1)
    spread = old.spread + step * jnp.where(is_new, score - mean, 0.0)
    return dataclasses.replace(state, moments=Moments(count, mean, spread))

  def values(
    self, state: ThresholdState, positions: Int[Array, 'B']
  ) -> Float[Array, 'B X']:
    """Return what each row has learnt at each exit."""
    assert state.moments is not None
    alpha, beta = fit_beta(state.moments)
    grid = jnp.linspace(self.lowest, self.highest, self.points)[None, None]
    log_density = _log_beta_density(
      grid[:, :, None], alpha[..., None], beta[..., None]
    )
    disagreed, agreed = log_density[..., 0, :], log_density[..., 1, :]
    passes = jax.nn.sigmoid(agreed - disagreed) > self.certainty
    fails_later = jnp.flip(
      jnp.cumsum(jnp.flip(~passes, axis=-1), axis=-1), axis=-1
    )
    learnt = jnp.min(jnp.where(fails_later == 0, grid, self.highest), axis=-1)
    is_known = jnp.all(state.moments.count >= self.minimum_count, axis=-1)
    values = jnp.where(is_known, learnt, state.initial)
    return _with_ends(values, state.initial)


def fit_beta(
  moments: Moments,
) -> tuple[Float[Array, 'B X 2'], Float[Array, 'B X 2']]:
  """Return alpha and beta of the Beta distributions with these moments.

  Where scores do not vary, or vary more than a Beta distribution can, the
  nearest variance that it can have is taken.
  """
  mean = jnp.clip(moments.mean, _EDGE, 1 - _EDGE)
  variance = moments.spread / jnp.maximum(moments.count, 1)
  most = mean * (1 - mean)
  variance = jnp.clip(variance, _EDGE * most, (1 - _EDGE) * most)
  concentration = most / variance - 1
  return mean * concentration, (1 - mean) * concentration


def _log_beta_density(
  x: Float[Array, '1 1 1 points'],
  alpha: Float[Array, 'B X 2 1'],
  beta: Float[Array, 'B X 2 1'],
) -> Float[Array, 'B X 2 points']:
  return (
    (alpha - 1) * jnp.log(x) + (beta - 1) * jnp.log1p(-x) - betaln(alpha, beta)
  )


def _with_ends(
  values: Float[Array, 'B X'], initial: Float[Array, 'B X']
) -> Float[Array, 'B X']:
  """Keep 0 and infinity as they were given: always and never."""
  return jnp.where((initial == 0) | jnp.isinf(initial), initial, values)


_RULES: dict[str, type[ThresholdRule]] = {
  'constant': Constant,
  'decaying': Decaying,
  'adaptive': Adaptive,
}


def rule_name(rule: ThresholdRule) -> str:
  """Return the name of a rule, without its numbers."""
  return next(name for name, kind in _RULES.items() if kind is type(rule))


def parse_threshold_rule(text: str) -> ThresholdRule:
  """Return the rule that `text` names, such as `decaying(4)`.

  Raises:
    ArgumentError: there is none of that name, or it refuses the numbers.
  """
  name, numbers = parse_notation(text)
  if name not in _RULES:
    raise ArgumentError(
      f'there is no threshold rule {name!r}; there are {", ".join(_RULES)}.'
    )
  return make(_RULES[name], numbers, what=f'threshold rule {name}')
