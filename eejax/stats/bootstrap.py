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
"""Confidence intervals of ratios, by bootstrap over rows of text.

Tokens of one text resemble one another, so the unit that is drawn is a row
(a stretch of text), never a token. Every estimate here is a sum over tokens
divided by their number: each draw of rows gives new sums, hence a new ratio.

Two ways to an interval, both measured in `benchmarks/analysis_suitability.py`:

  ratio_interval     studentised: each draw's ratio is taken in units of its
                     own standard error, which a sum over rows gives without
                     drawing again (chapter 12.5)
  function_interval  of any function of several ratios: bias-corrected and
                     accelerated (chapter 14.3), its
                     levels widened for few rows

The percentile interval that both replace covers too seldom where rows are
few: 92 % of the time for a nominal 95 % at 32 rows.

Reference:
  Efron and Tibshirani (1993), An Introduction to the Bootstrap.
  Hesterberg (2015), What Teachers Should Know About the Bootstrap, The
  American Statistician 69(4) (levels widened for few rows).
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable

import numpy as np

from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError
from eejax.types import Float, Int, Num

METHOD = 'studentised bootstrap over rows'
FUNCTION_METHOD = 'bias-corrected accelerated bootstrap over rows'
_NORMAL = statistics.NormalDist()


@dataclasses.dataclass(frozen=True)
class Interval:
  """An estimate and the interval around it.

  Attributes:
    value: the estimate.
    low: lower end; equal to `value` where there is but one row.
    high: upper end.
  """

  value: float
  low: float
  high: float

  def excludes(self, value: float) -> bool:
    """Return whether `value` lies outside the interval."""
    return not self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """How intervals are made.

  Attributes:
    confidence: share of intervals that shall contain the truth.
    draws: how often rows are drawn anew.
    seed: of the drawing; equal seeds pair the draws of several estimates.
  """

  confidence: float = 0.95
  draws: int = 1000
  seed: int = 0

  def __post_init__(self):
    check_fields(self)
    if not 0 < self.confidence < 1:
      raise ArgumentError(
        f'confidence must lie between 0 and 1, not {self.confidence}.'
      )
    if self.draws < 1:
      raise ArgumentError(f'draws must be at least 1, not {self.draws}.')


DEFAULT = Bootstrap()


def ratio_interval(
  sums: Num[np.ndarray, 'rows'],
  counts: Num[np.ndarray, 'rows'],
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> Interval:
  """Return the interval of sum(sums) / sum(counts).

  It never reaches beyond the ratios of single rows, so a share stays within
  0 and 1, and of two rows it is all that lies between them.

  Args:
    sums: of each row.
    counts: tokens of each row; rows without any do not take part.
    bootstrap: how the interval is made.

  Raises:
    ArgumentError: no row has a token.
  """
  some = counts > 0
  if not some.any():
    raise ArgumentError('there is no token to estimate anything from.')
  sums, counts = sums[some].astype(float), counts[some].astype(float)
  value = float(sums.sum() / counts.sum())
  if len(sums) == 1:
    return Interval(value, value, value)
  times = draw_rows(len(sums), bootstrap)
  totals = times @ counts
  ratios = (times @ sums) / totals
  # The standard error of a ratio by linearisation: what each row's sum is
  # above the ratio's share of its tokens, squared and added up.
  moments = np.stack([sums**2, sums * counts, counts**2], axis=1)
  errors = _standard_error(times @ moments, ratios, totals)
  error = _standard_error(moments.sum(axis=0), value, counts.sum())
  # A draw that repeats a single row has no error of its own; its ratio then
  # counts as far away as possible.
  with np.errstate(divide='ignore', invalid='ignore'):
    units = np.nan_to_num((ratios - value) / errors, nan=0.0)
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(
      np.clip(units, -1e9, 1e9), [tail, 1 - tail], method='median_unbiased'
    )
  rows = sums / counts
  ends = np.clip(
    [value - high * error, value - low * error], rows.min(), rows.max()
  )
  # Rounding must not put the estimate outside.
  return Interval(value, float(min(ends[0], value)), float(max(ends[1], value)))


def difference_interval(
  sums: Num[np.ndarray, 'rows'],
  other_sums: Num[np.ndarray, 'rows'],
  counts: Num[np.ndarray, 'rows'],
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> Interval:
  """Return the interval of a paired difference: the first less the other.

  Both are measured on the same tokens, so what makes a row hard for both
  cancels within it.
  """
  return ratio_interval(sums - other_sums, counts, bootstrap=bootstrap)


def function_interval(
  sums: Num[np.ndarray, 'rows K'],
  counts: Num[np.ndarray, 'rows'],
  function: Callable[[np.ndarray], np.ndarray],
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> Interval:
  """Return the interval of a function of K ratios of one count.

  Args:
    sums: of each row; ratio k is the sum of column k over that of `counts`.
    counts: tokens of each row; rows without any do not take part.
    function: takes ratios [draws, K] and returns [draws]; the least and the
      largest of several may be in it, as in a search over settings.
    bootstrap: how the interval is made.

  Raises:
    ArgumentError: no row has a token.
  """
  some = counts > 0
  if not some.any():
    raise ArgumentError('there is no token to estimate anything from.')
  sums, counts = sums[some].astype(float), counts[some].astype(float)
  total, tokens = sums.sum(axis=0), counts.sum()
  value = float(function((total / tokens)[None])[0])
  rows = len(sums)
  if rows == 1:
    return Interval(value, value, value)
  times = draw_rows(rows, bootstrap)
  drawn = function((times @ sums) / (times @ counts)[:, None])
  without = function((total - sums) / (tokens - counts)[:, None])
  levels = _levels(drawn, without, value, bootstrap)
  low, high = np.quantile(drawn, levels)
  return Interval(value, float(low), float(high))


@functools.lru_cache(maxsize=8)
def draw_rows(
  rows: int, bootstrap: Bootstrap = DEFAULT
) -> Int[np.ndarray, 'draws rows']:
  """Return how often each row is in each draw.

  One row drawn k times adds k times its sum, so these numbers are all that
  is needed, and equal seeds give every estimate the same ones.
  """
  random = np.random.default_rng(bootstrap.seed)
  times = random.multinomial(
    rows, np.full(rows, 1 / rows), size=bootstrap.draws
  )
  times.flags.writeable = False
  return times


def _standard_error(moments, ratio, total):
  squares, products, sizes = np.moveaxis(moments, -1, 0)
  spread = squares - 2 * ratio * products + ratio**2 * sizes
  # What is left of rows that are equal is rounding.
  floor = 1e-13 * (squares + ratio**2 * sizes)
  return np.sqrt(np.where(spread > floor, spread, 0.0)) / total


def _levels(
  drawn: Float[np.ndarray, 'draws'],
  without: Float[np.ndarray, 'rows'],
  value: float,
  bootstrap: Bootstrap,
) -> list[float]:
  """Return which quantiles of the draws are the ends."""
  rows, draws = len(without), len(drawn)
  # Draws that equal the estimate count half to either side.
  below = (np.mean(drawn < value) + np.mean(drawn <= value)) / 2
  least = 1 / (draws + 1)
  bias = _NORMAL.inv_cdf(float(np.clip(below, least, 1 - least)))
  gaps = without.mean() - without
  spread = float((gaps**2).sum())
  skew = float((gaps**3).sum()) / (6 * spread**1.5) if spread > 1e-30 else 0.0
  tail = (1 - bootstrap.confidence) / 2
  # Draws of n rows spread by a factor of sqrt((n - 1) / n) too little, and
  # their own spread is uncertain, as in Student's t.
  wide = np.sqrt(rows / (rows - 1)) * _student(1 - tail, rows - 1)

  def level(normal: float) -> float:
    shifted = bias + normal
    return _NORMAL.cdf(bias + shifted / max(1 - skew * shifted, 1e-3))

  return [level(-wide), level(wide)]


def _student(level: float, degrees: int) -> float:
  """Return a quantile of Student's t, by expansion around the normal one.

  Abramowitz and Stegun (1964), Handbook of Mathematical Functions, equation
  26.7.5; within 1 % from 4 degrees of freedom on at 97.5 %.
  """
  z = _NORMAL.inv_cdf(level)
  terms = (
    (z**3 + z) / 4,
    (5 * z**5 + 16 * z**3 + 3 * z) / 96,
    (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
  )
  return z + sum(t / degrees**i for i, t in enumerate(terms, start=1))
