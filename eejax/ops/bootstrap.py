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
(a stretch of text), never a token. Everything estimated here is a sum over
tokens divided by their number: each draw of rows gives new sums, hence a new
ratio, and the interval is where the middle of these ratios lies.

Reference:
  Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 8
  (units that are drawn whole) and 13 (percentile intervals).
"""

import dataclasses

import numpy as np

from eejax.errors import ArgumentError
from eejax.types import Num

METHOD = 'percentile bootstrap over rows'


@dataclasses.dataclass(frozen=True)
class Interval:
  """Hold an estimate and the interval around it.

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
  """Say how intervals are made.

  Attributes:
    confidence: share of intervals that shall hold the truth.
    draws: how often rows are drawn anew.
    seed: of the drawing; equal seeds pair the draws of several estimates.
  """

  confidence: float = 0.95
  draws: int = 1000
  seed: int = 0

  def __post_init__(self):
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
  rows = len(sums)
  if rows == 1:
    return Interval(value, value, value)
  # One row drawn k times adds k times its sum, so the numbers of draws are
  # all that is needed, and equal seeds give every estimate the same ones.
  random = np.random.default_rng(bootstrap.seed)
  times = random.multinomial(
    rows, np.full(rows, 1 / rows), size=bootstrap.draws
  )
  ratios = (times @ sums) / np.maximum(times @ counts, 1e-12)
  tail = (1 - bootstrap.confidence) / 2
  low, high = np.quantile(ratios, [tail, 1 - tail])
  return Interval(value, float(low), float(high))


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
