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
"""P-values that a risk is above a limit, from losses in [0, 1].

The null hypothesis is that the mean loss R is above the limit `risk`; n
independent losses with mean r speak against it as far as r lies below. Each
p-value here is valid for every n and every distribution on [0, 1]: under the
null it is at most u with a chance of at most u.

  Hoeffding          exp(-2 n (risk - r)^2)
  Bentkus            e P(Binomial(n, risk) <= ceil(n r))
  Hoeffding-Bentkus  min(exp(-n kl(r, risk)), Bentkus), with kl(a, b) the
                     divergence a log(a/b) + (1-a) log((1-a)/(1-b))
  betting            1 / max_t prod_{i <= t} (1 - v_i (loss_i - risk))

The first three depend on the mean alone. The last bets against the null with
stakes v_i that depend on the variance of the losses before the i-th, so it
needs fewer losses where they vary little.

References:
  Hoeffding (1963), theorem 1: the second form is his sharper one.
  Bentkus (2004), On Hoeffding's inequalities.
  Angelopoulos et al. (2021), Learn then Test, arXiv 2110.01052, section 2:
  p-values of these; Bates et al. (2021), arXiv 2101.02703, section 3.1:
  `Hoeffding-Bentkus`, and the betting bound with these stakes, after
  Waudby-Smith and Ramdas, arXiv 2010.09686.
"""

import enum
import math

import numpy as np
from scipy import stats

from eejax.errors import ArgumentError
from eejax.types import Float

# Rounding of a sum of losses must not push a count over the next integer.
_ROUNDING = 1e-9
# The largest number of sequences that is worth naming.
MOST_SAMPLES = 10**7


class Bound(enum.Enum):
  """A p-value; the module's docstring has the formulas."""

  HOEFFDING = 'hoeffding'
  BENTKUS = 'bentkus'
  HOEFFDING_BENTKUS = 'hoeffding_bentkus'
  BETTING = 'betting'


def check_level(value: float, *, name: str) -> None:
  """Check that a risk or a delta lies strictly between 0 and 1.

  Raises:
    ArgumentError: it does not.
  """
  if not 0 < value < 1:  # NaN does not, either.
    raise ArgumentError(
      f'{name} must lie between 0 and 1, both left out, not {value}.'
    )


def check_losses(losses: Float[np.ndarray, 'n']) -> None:
  """Check that losses are there and lie in [0, 1].

  Raises:
    ArgumentError: there is none, or one is NaN or outside.
  """
  if not losses.size:
    raise ArgumentError('there is no loss to calibrate with.')
  if not ((losses >= 0) & (losses <= 1)).all():
    wrong = losses[~((losses >= 0) & (losses <= 1))][0]
    raise ArgumentError(
      f'losses must be numbers in [0, 1], and one is {wrong}; check the '
      'measure.'
    )


def p_value(
  losses: Float[np.ndarray, 'n'],
  *,
  risk: float,
  delta: float = 0.05,
  bound: Bound = Bound.HOEFFDING_BENTKUS,
) -> float:
  """Return the p-value of the hypothesis that the mean loss is above `risk`.

  Args:
    losses: of independent sequences, each in [0, 1].
    risk: the limit, in (0, 1).
    delta: the level that the stakes of `BETTING` are made for; the p-value is
      valid whatever it is.
    bound: which p-value.

  Raises:
    ArgumentError: a loss is not in [0, 1], or `risk` or `delta` not in (0, 1).
  """
  check_level(risk, name='risk')
  check_level(delta, name='delta')
  check_losses(losses)
  if bound is Bound.BETTING:
    return betting(losses, risk=risk, delta=delta)
  return p_of_mean(float(losses.mean()), n=losses.size, risk=risk, bound=bound)


def p_of_mean(mean: float, *, n: int, risk: float, bound: Bound) -> float:
  """Return the p-value of a bound that depends on the mean loss alone.

  Args:
    mean: of the losses, in [0, 1].
    n: how many there are.
    risk: the limit, in (0, 1).
    bound: any but `BETTING`.

  Raises:
    ArgumentError: the bound needs all losses.
  """
  if bound is Bound.HOEFFDING:
    return math.exp(-2 * n * max(risk - mean, 0.0) ** 2)
  bentkus = _bentkus(mean, n=n, risk=risk)
  if bound is Bound.BENTKUS:
    return bentkus
  if bound is Bound.HOEFFDING_BENTKUS:
    return min(math.exp(-n * _divergence(min(mean, risk), risk)), bentkus)
  raise ArgumentError(f'the bound {bound.value} needs every loss.')


def betting(
  losses: Float[np.ndarray, 'n'], *, risk: float, delta: float
) -> float:
  """Return the p-value of a bet against a mean loss above `risk`.

  The stake on each loss is computed from the losses before it, so that the
  capital is a supermartingale under the null; by Ville's inequality the chance
  that it ever exceeds 1/u is at most u.
  """
  n = losses.size
  number = np.arange(1, n + 1)
  mean = (0.5 + np.cumsum(losses)) / (number + 1)
  variance = (0.25 + np.cumsum((losses - mean) ** 2)) / (number + 1)
  before = np.concatenate([[0.25], variance[:-1]])
  # A stake of 1 at most keeps the capital above 0, for losses are at most 1.
  stakes = np.minimum(1.0, np.sqrt(2 * math.log(1 / delta) / (n * before)))
  growth = np.log1p(-stakes * (losses - risk))
  return float(min(1.0, np.exp(-np.cumsum(growth).max())))


def samples_needed(
  *,
  risk: float,
  delta: float,
  expected: float = 0.0,
  bound: Bound = Bound.HOEFFDING_BENTKUS,
) -> int | None:
  """Return how many sequences certify `risk` where the mean loss is lower.

  For `BETTING` it is the number of equal losses, which is the smallest.

  Args:
    risk: the limit, in (0, 1).
    delta: chance of a wrong certificate, in (0, 1).
    expected: mean loss that the sequences will have.
    bound: which p-value.

  Returns:
    The number, or None where no number would do: the expected loss is not
    below the limit, or so close that it takes more than `MOST_SAMPLES`.

  Raises:
    ArgumentError: `risk` or `delta` is not in (0, 1).
  """
  check_level(risk, name='risk')
  check_level(delta, name='delta')
  if not 0 <= expected < risk:
    return None

  def certifies(n: int) -> bool:
    if bound is Bound.BETTING:
      losses = np.full(n, float(expected))
      return betting(losses, risk=risk, delta=delta) <= delta
    return p_of_mean(expected, n=n, risk=risk, bound=bound) <= delta

  high = 1
  while not certifies(high):
    high *= 2
    if high > MOST_SAMPLES:
      return None
  low = high // 2
  while low + 1 < high:
    middle = (low + high) // 2
    low, high = (low, middle) if certifies(middle) else (middle, high)
  # The binomial's steps make the p-value saw-toothed in n: from here on a
  # larger n may fail again, so the last failure is looked for.
  for n in range(high + math.ceil(4 / risk), high, -1):
    if not certifies(n):
      return n + 1
  return high


def _bentkus(mean: float, *, n: int, risk: float) -> float:
  count = math.ceil(n * mean - _ROUNDING)
  return float(min(1.0, math.e * stats.binom.cdf(count, n, risk)))


def _divergence(a: float, b: float) -> float:
  """Return the divergence of Bernoulli(a) from Bernoulli(b), b in (0, 1)."""
  first = a * math.log(a / b) if a > 0 else 0.0
  second = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
  return first + second
