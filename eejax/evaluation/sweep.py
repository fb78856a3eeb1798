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
"""The curve of speed against quality, and the best thresholds on it.

Everything here follows from one logged pass over a text and replays of
decoding on it, so a hundred settings cost hardly more than one. Agreement is
the share of tokens at which the head that decoding would have asked says what
the full model says, given the same text so far (teacher-forced).
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from eejax.decoding.policy.policy import Threshold
from eejax.decoding.policy.threshold_values import threshold_values
from eejax.decoding.replay import DecodeWork, Replay, replay
from eejax.errors import ArgumentError
from eejax.evaluation.scores import ExitScores
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval, ratio_interval
from eejax.types import Bool, Float

# Predicts how many times faster than full decoding some work is.
Speedup = Callable[[DecodeWork], float]

# Scores live near one, so thresholds are tried more densely there.
GRID: tuple[Threshold, ...] = (
  *(0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95),
  *(0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999),
  None,
)


@dataclasses.dataclass(frozen=True)
class SweepPoint:
  """What one setting of the thresholds would do.

  Attributes:
    thresholds: one an exit, shallowest first; None is never.
    agreement: with full decoding, teacher-forced.
    exit_shares: share of tokens emitted at each exit and, last, at full
      depth.
    mean_depth: blocks a token went through before it was emitted.
    block_reads: share of full decoding's block weights that were read, a
      window of waiting tokens counting once.
    predicted_speedup: against full decoding, by the cost model.
  """

  thresholds: tuple[Threshold, ...]
  agreement: Interval
  exit_shares: tuple[float, ...]
  mean_depth: float
  block_reads: float
  predicted_speedup: float


@dataclasses.dataclass(frozen=True)
class ThresholdSearchResult:
  """The cheapest setting found on one half, and its worth on the other.

  Where no exit is worth taking, all thresholds are `never`, which then means
  full decoding, without exits.

  Attributes:
    target: agreement that was asked for.
    tuned: on the half that the thresholds were chosen on; too good to be
      believed.
    held_out: on the other half.
  """

  target: float
  tuned: SweepPoint
  held_out: SweepPoint

  @property
  def thresholds(self) -> tuple[Threshold, ...]:
    """Return the thresholds that were chosen."""
    return self.tuned.thresholds

  @property
  def uses_exits(self) -> bool:
    """Return whether any exit is ever taken."""
    return any(t is not None for t in self.thresholds)


def evaluate_settings(
  scores: ExitScores,
  settings: Sequence[Sequence[Threshold]],
  *,
  window: int,
  speedup: Speedup,
  bootstrap: Bootstrap = DEFAULT,
) -> list[SweepPoint]:
  """Return what each setting of the thresholds would do on a text.

  Args:
    scores: of every exit at every token.
    settings: each one threshold an exit.
    window: of the decoder.
    speedup: the cost model.
    bootstrap: how intervals are made.
  """
  replayed = _replay(scores, threshold_values(settings), window)
  right = _right(scores, replayed)
  counts = scores.counted.sum(axis=1)
  depths = np.array([*scores.depths, scores.num_layers])
  blocks = np.diff(depths, prepend=0)
  points = []
  for i, setting in enumerate(settings):
    work = replayed.work[i]
    shares = work.taken / work.tokens
    reads = work.segment_runs.sum(axis=1) @ blocks
    points.append(
      SweepPoint(
        thresholds=tuple(setting),
        agreement=ratio_interval(
          right[i].sum(axis=1), counts, bootstrap=bootstrap
        ),
        exit_shares=tuple(float(s) for s in shares),
        mean_depth=float(shares @ depths),
        block_reads=float(reads / (work.tokens * scores.num_layers)),
        predicted_speedup=speedup(work),
      )
    )
  return points


def sweep(
  scores: ExitScores,
  *,
  window: int,
  speedup: Speedup,
  grid: Sequence[Threshold] = GRID,
  bootstrap: Bootstrap = DEFAULT,
) -> list[SweepPoint]:
  """Return the curve of one threshold for all exits."""
  exits = len(scores.depths)
  return evaluate_settings(
    scores,
    [(threshold,) * exits for threshold in grid],
    window=window,
    speedup=speedup,
    bootstrap=bootstrap,
  )


@dataclasses.dataclass(frozen=True)
class Search:
  """How thresholds for each exit are searched for.

  Attributes:
    target: agreement to reach.
    margin: standard errors (over rows) that the half tuned on must stay above
      the target, so that the other half is likely to reach it, too.
    candidates: thresholds tried an exit, at quantiles of its scores.
    prices: prices of a disagreement that are tried.
    rounds: passes over the exits a price.
  """

  target: float = 0.97
  margin: float = 1.64
  candidates: int = 24
  prices: int = 16
  rounds: int = 3

  def __post_init__(self):
    if not 0 < self.target <= 1:
      raise ArgumentError(
        f'the target agreement must lie in (0, 1], not {self.target}.'
      )
    if self.margin < 0 or min(self.candidates, self.prices, self.rounds) < 1:
      raise ArgumentError(
        'margin must be >= 0, and candidates, prices and rounds at least 1.'
      )


DEFAULT_SEARCH = Search()


def calibrate(
  scores: ExitScores,
  *,
  window: int,
  speedup: Speedup,
  search: Search = DEFAULT_SEARCH,
  bootstrap: Bootstrap = DEFAULT,
) -> ThresholdSearchResult:
  """Find the cheapest thresholds for each exit that keep the agreement.

  They are chosen on every other row of the text and reported on the rest.
  `never` everywhere always keeps it, so there is always an answer.

  Args:
    scores: of every exit at every token.
    window: of the decoder.
    speedup: the cost model.
    search: the target, and how hard to look.
    bootstrap: how intervals are made.
  """
  tuning, reporting = scores.halves()
  chosen = find_thresholds(
    tuning, window=window, speedup=speedup, search=search
  )
  tuned, held_out = (
    evaluate_settings(
      half, [chosen], window=window, speedup=speedup, bootstrap=bootstrap
    )[0]
    for half in (tuning, reporting)
  )
  result = ThresholdSearchResult(
    target=search.target, tuned=tuned, held_out=held_out
  )
  if result.uses_exits:
    return result
  as_full = lambda point: dataclasses.replace(point, predicted_speedup=1.0)
  return dataclasses.replace(
    result, tuned=as_full(tuned), held_out=as_full(held_out)
  )


def coverage(scores: ExitScores, *, precision: float) -> tuple[float, ...]:
  """Return how many tokens each exit may take on its own.

  It is the largest share of tokens, those with the highest scores, of which
  at least `precision` are as the full model says: how far the score tells
  right from wrong. Exits are looked at one by one.

  Args:
    scores: of every exit at every token.
    precision: share of the tokens taken that must be right.
  """
  shares = []
  for score, agree in zip(scores.scores, scores.agree, strict=True):
    order = np.argsort(-score[scores.counted], kind='stable')
    right = agree[scores.counted][order]
    number = np.arange(1, len(right) + 1)
    enough = np.cumsum(right) >= precision * number - 1e-9
    best = number[enough].max() if enough.any() else 0
    shares.append(float(best / len(right)))
  return tuple(shares)


def find_thresholds(
  scores: ExitScores,
  *,
  window: int,
  speedup: Speedup,
  search: Search = DEFAULT_SEARCH,
) -> tuple[Threshold, ...]:
  """Return the cheapest thresholds found that keep the agreement."""
  return find_path(
    scores,
    targets=(search.target,),
    window=window,
    speedup=speedup,
    search=search,
  )[0]


def find_path(
  scores: ExitScores,
  *,
  targets: Sequence[float],
  window: int,
  speedup: Speedup,
  search: Search = DEFAULT_SEARCH,
) -> tuple[tuple[Threshold, ...], ...]:
  """Return the cheapest thresholds found for each of several targets.

  For several prices of a disagreement, coordinate descent minimises time plus
  price; the constraint alone would hold a search fast wherever one exit has
  used up what may be lost. Of all settings met on the way, the fastest that
  keeps a target is returned for it, so the prices need not be right.

  Args:
    scores: of every exit at every token.
    targets: agreements to reach, instead of the search's own.
    window: of the decoder.
    speedup: the cost model.
    search: how hard to look.
  """
  exits = len(scores.depths)
  ladders = [_candidates(scores, e, search.candidates) for e in range(exits)]
  prices = np.geomspace(0.3, 300, search.prices)
  # All prices descend side by side, in one replay an exit and a round.
  current = np.full((search.prices, exits), np.inf, np.float32)
  best = np.full((len(targets), exits), np.inf, np.float32)
  best_speed = np.ones(len(targets))
  for _ in range(search.rounds):
    before = current.copy()
    for exit in range(exits):
      ladder = ladders[exit]
      tried = np.repeat(current, len(ladder), axis=0)
      tried[:, exit] = np.tile(ladder, search.prices)
      agreement, error, speed = _measure(scores, tried, window, speedup)
      cost = 1 / speed + np.repeat(prices, len(ladder)) * (1 - agreement)
      choice = cost.reshape(search.prices, -1).argmin(axis=1)
      current[:, exit] = ladder[choice]
      for number, target in enumerate(targets):
        safe = agreement - search.margin * error >= target
        i = int(np.where(safe, speed, -np.inf).argmax())
        if safe[i] and speed[i] > best_speed[number]:
          best[number], best_speed[number] = tried[i], speed[i]
    if np.array_equal(before, current):
      break
  as_threshold = lambda t: None if np.isinf(t) else float(t)
  return tuple(tuple(map(as_threshold, setting)) for setting in best)


def _candidates(
  scores: ExitScores, exit: int, count: int
) -> Float[np.ndarray, 'candidates']:
  """Return thresholds at even shares of tokens that would exit, and never."""
  counted = scores.scores[exit][scores.counted]
  ladder = np.quantile(counted, np.linspace(0.02, 0.995, count))
  # Exactly 0 would end the model at the exit.
  ladder = np.unique(np.clip(ladder, 1e-6, 1.0))
  return np.append(ladder, np.inf).astype(np.float32)


def _measure(scores: ExitScores, thresholds, window: int, speedup: Speedup):
  """Return agreement, its standard error over rows, and speed-up."""
  replayed = _replay(scores, thresholds, window)
  wrong = (~_right(scores, replayed) & scores.counted).sum(axis=2)
  counts = scores.counted.sum(axis=1)
  rate = wrong.sum(axis=1) / counts.sum()
  # Of a ratio: residuals of the rows (Cochran 1977, Sampling Techniques,
  # section 6.3).
  residuals = wrong - rate[:, None] * counts
  rows = max(len(counts), 2)
  error = np.sqrt((residuals**2).sum(axis=1) * rows / (rows - 1)) / counts.sum()
  speed = np.array([speedup(work) for work in replayed.work])
  return 1 - rate, error, speed


def _replay(scores: ExitScores, thresholds, window: int) -> Replay:
  return replay(
    scores.scores,
    counted=scores.counted,
    thresholds=thresholds,
    window=window,
  )


def _right(
  scores: ExitScores, replayed: Replay
) -> Bool[np.ndarray, 'settings rows T']:
  """Return where the head that was asked says what the full model says."""
  always = np.ones((1, *scores.counted.shape), bool)
  said = np.concatenate([scores.agree, always])
  segment = np.maximum(replayed.taken, 0)[:, None]
  rights = np.take_along_axis(said[None], segment.astype(np.intp), axis=1)
  return rights[:, 0] & scores.counted
