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
"""Threshold rules of the reference decoder, by the formulas, number by number.

They remember every score they were ever told.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

_EDGE = 1e-4


class Thresholds:
  """Say which thresholds hold for one row; here they never change."""

  def __init__(self, initial: Sequence[float | None], start: int, limit: int):
    """Start a row.

    Args:
      initial: the policy's, one an exit in use; None is never.
      start: position of the last prompt token.
      limit: how many tokens the row may get.
    """
    self._initial = list(initial)
    self._start, self._limit = start, limit

  def at(self, position: int) -> list[float | None]:
    """Return the thresholds for the token at `position`."""
    return [
      t if t is None or t == 0 else self._moved(i, position)
      for i, t in enumerate(self._initial)
    ]

  def observes(self, position: int) -> bool:
    """Return whether the token there goes to the end, to learn from it."""
    del position
    return False

  def learn(self, scores: Sequence[float], agreed: Sequence[bool]) -> None:
    """Take in what exits said of an observed token."""

  def _moved(self, index: int, position: int) -> float | None:
    del position
    return self._initial[index]


ConstantThresholds = Thresholds


def decaying(temperature: float) -> Callable[..., Thresholds]:
  """Return the rule of CALM, equation 5 (arXiv 2207.07061)."""

  class ReferenceDecaying(Thresholds):
    def _moved(self, index: int, position: int) -> float:
      fall = math.exp(-temperature * (position - self._start) / self._limit)
      initial = self._initial[index]
      assert initial is not None
      return min(max(0.9 * initial + 0.1 * fall, 0.0), 1.0)

  return ReferenceDecaying


def adaptive(
  *,
  every: int,
  certainty: float = 0.4,
  lowest: float = 0.3,
  highest: float = 0.9,
  points: int = 10,
  minimum_count: int = 10,
) -> Callable[..., Thresholds]:
  """Return the rule of FREE, section 4.3 (arXiv 2310.05424).

  Args:
    every: tokens at multiples of this position are observed.
    certainty: what the share of agreement has to exceed.
    lowest: first threshold tried.
    highest: last threshold tried.
    points: how many are tried.
    minimum_count: scores wanted of each class.
  """
  grid = np.linspace(lowest, highest, points)

  class ReferenceAdaptive(Thresholds):
    def __init__(self, initial, start, limit):
      super().__init__(initial, start, limit)
      self._agreed: list[list[float]] = [[] for _ in initial]
      self._disagreed: list[list[float]] = [[] for _ in initial]

    def observes(self, position: int) -> bool:
      return position % every == 0

    def learn(self, scores, agreed) -> None:
      for index, (score, agrees) in enumerate(zip(scores, agreed, strict=True)):
        seen = (self._agreed if agrees else self._disagreed)[index]
        seen.append(min(max(score, _EDGE), 1 - _EDGE))

    def _moved(self, index: int, position: int) -> float | None:
      yes, no = self._agreed[index], self._disagreed[index]
      if min(len(yes), len(no)) < minimum_count:
        return self._initial[index]
      best = highest
      for x in reversed(grid):
        gap = _log_beta(x, no) - _log_beta(x, yes)
        if not 1 / (1 + math.exp(min(gap, 700))) > certainty:
          break
        best = float(x)
      return best

  return ReferenceAdaptive


def _log_beta(x: float, scores: Sequence[float]) -> float:
  """Return the log-density at `x` of the Beta with the scores' moments."""
  mean, variance = float(np.mean(scores)), float(np.var(scores))
  most = mean * (1 - mean)
  variance = min(max(variance, _EDGE * most), (1 - _EDGE) * most)
  both = most / variance - 1
  alpha, beta = mean * both, (1 - mean) * both
  return (
    (alpha - 1) * math.log(x)
    + (beta - 1) * math.log1p(-x)
    + math.lgamma(both)
    - math.lgamma(alpha)
    - math.lgamma(beta)
  )
