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
"""Which exits are worth having: a search over places and scores.

Given what every candidate exit would say and how sure it would be at every
token of a text, exits are chosen one after the other: the next one is that
which, with the best threshold of a ladder, raises the predicted speed most
while the agreement with the full model stays above the target; an exit that
was chosen before may change its threshold instead. Prediction replays
decoding token by token (`eejax.decoding.replay`), so windows and catch-up are
in it. Exits are chosen on one text and reported on another, with intervals
over rows.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from eejax.analysis.cost_model import DecodeCost
from eejax.decoding.replay import Replay, replay
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import (
  DEFAULT,
  Bootstrap,
  Interval,
  ratio_interval,
)
from eejax.types import Bool, Float

# Returns what decoding with the exits of these candidates costs.
CostOf = Callable[[tuple[int, ...]], DecodeCost]


@dataclasses.dataclass(frozen=True)
class CandidateExits:
  """Candidate exits: what each would do at every token of a text.

  Attributes:
    names: of the candidates, with their scores.
    depths: of the candidates, rising.
    scores: how sure each would be; higher is safer.
    agree: whether it would say what the full model says.
    counted: tokens that are there; they stand at the start of their row.
  """

  names: tuple[str, ...]
  depths: tuple[int, ...]
  scores: Float[np.ndarray, 'C rows T']
  agree: Bool[np.ndarray, 'C rows T']
  counted: Bool[np.ndarray, 'rows T']

  def at_rows(self, rows: np.ndarray) -> 'CandidateExits':
    """Return the same of some rows of the text, by number or by mask."""
    return dataclasses.replace(
      self,
      scores=self.scores[:, rows],
      agree=self.agree[:, rows],
      counted=self.counted[rows],
    )


@dataclasses.dataclass(frozen=True)
class Budget:
  """Budget of a search: what exits may cost.

  Attributes:
    agreement: with the full model, to be kept, in (0, 1].
    exits: how many at most.
    ladder: thresholds tried an exit.
  """

  agreement: float = 0.95
  exits: int = 3
  ladder: int = 16

  def __post_init__(self):
    if not 0 < self.agreement <= 1:
      raise ArgumentError(
        f'the agreement to be kept must lie in (0, 1], not {self.agreement}.'
      )
    if self.exits < 1 or self.ladder < 1:
      raise ArgumentError('exits and ladder must be at least 1.')


@dataclasses.dataclass(frozen=True)
class ExitPlacement:
  """Placement: exits that were chosen, and their worth on another text.

  Attributes:
    chosen: numbers of the candidates, shallowest first; empty where none pays.
    thresholds: of these.
    exit_shares: share of tokens that leave at each, and last at the end.
    speedup: predicted, with its interval over rows.
    agreement: with the full model, teacher-forced.
    searched: agreement and speed-up on the rows searched on, too good to be
      believed.
  """

  chosen: tuple[int, ...]
  thresholds: tuple[float, ...]
  exit_shares: tuple[float, ...]
  speedup: Interval
  agreement: Interval
  searched: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class _Setting:
  """Setting: exits with their thresholds."""

  exits: tuple[int, ...] = ()
  thresholds: tuple[float, ...] = ()

  def with_exit(self, exit: int, threshold: float) -> '_Setting':
    held = dict(zip(self.exits, self.thresholds, strict=True))
    held[exit] = threshold
    names = tuple(sorted(held))
    return _Setting(names, tuple(held[n] for n in names))


def search(
  chosen_on: CandidateExits,
  reported_on: CandidateExits,
  *,
  cost_of: CostOf,
  window: int,
  budget: Budget = Budget(),
  bootstrap: Bootstrap = DEFAULT,
) -> ExitPlacement:
  """Return the exits that pay most within a budget.

  Args:
    chosen_on: candidates on the text that exits are chosen on.
    reported_on: the same candidates on another text.
    cost_of: what decoding costs with some of them; two of one depth are never
      asked for together.
    window: of the decoder.
    budget: what may be lost, and how many exits there may be.
    bootstrap: how intervals are made.

  Raises:
    ArgumentError: one of the texts has no token.
  """
  if not (chosen_on.counted.any() and reported_on.counted.any()):
    raise ArgumentError(
      'exits are chosen on one part of the text and reported on another, and '
      'one of them is empty; give more text.'
    )
  best, worth = _Setting(), (1.0, 1.0)
  for _ in range(budget.exits):
    better = _best_next(chosen_on, best, worth, cost_of, window, budget)
    if better is None:
      break
    best, worth = better
  return _report(reported_on, best, worth, cost_of, window, bootstrap)


def _best_next(
  text: CandidateExits,
  setting: _Setting,
  worth: tuple[float, float],
  cost_of: CostOf,
  window: int,
  budget: Budget,
):
  """Return the best change of one exit, or None where none helps."""
  taken = {text.depths[e] for e in setting.exits}
  best = None
  for exit in range(len(text.depths)):
    if text.depths[exit] in taken and exit not in setting.exits:
      continue
    tried = [
      setting.with_exit(exit, threshold)
      for threshold in _ladder(text, exit, budget.ladder)
    ]
    cost = cost_of(tried[0].exits)
    replayed = _replay(text, tried, window)
    for number, one in enumerate(tried):
      agreement = _agreement(text, one, replayed.taken[number])
      speed = cost.speedup(replayed.work[number])
      if agreement >= budget.agreement and speed > worth[1] + 1e-9:
        worth, best = (agreement, speed), one
  return None if best is None else (best, worth)


def _ladder(text: CandidateExits, exit: int, count: int) -> list[float]:
  scores = text.scores[exit][text.counted]
  ladder = np.quantile(scores, np.linspace(0.02, 0.995, count))
  # Exactly 0 would end the model at the exit.
  return [float(x) for x in np.unique(np.clip(ladder, 1e-6, 1.0))]


def _replay(
  text: CandidateExits, settings: Sequence[_Setting], window: int
) -> Replay:
  """Replay settings of the same exits."""
  exits = list(settings[0].exits)
  return replay(
    text.scores[exits].astype(np.float32),
    counted=text.counted,
    thresholds=np.array([s.thresholds for s in settings], np.float32),
    window=window,
  )


def _right(text: CandidateExits, setting: _Setting, taken) -> np.ndarray:
  """Return where the head that was asked says what the full model says."""
  always = np.ones((1, *text.counted.shape), bool)
  said = np.concatenate([text.agree[list(setting.exits)], always])
  segment = np.maximum(taken, 0)[None].astype(np.intp)
  return np.take_along_axis(said, segment, axis=0)[0] & text.counted


def _agreement(text: CandidateExits, setting: _Setting, taken) -> float:
  right = _right(text, setting, taken)
  return float(right.sum() / text.counted.sum())


def _report(
  text: CandidateExits,
  setting: _Setting,
  worth: tuple[float, float],
  cost_of: CostOf,
  window: int,
  bootstrap: Bootstrap,
) -> ExitPlacement:
  if not setting.exits:
    one = Interval(1.0, 1.0, 1.0)
    return ExitPlacement((), (), (1.0,), one, one, worth)
  cost = cost_of(setting.exits)
  counts = text.counted.sum(axis=1)
  replayed = _replay(text, [setting], window)
  right = _right(text, setting, replayed.taken[0])
  agreement = ratio_interval(
    right.sum(axis=1).astype(float), counts, bootstrap=bootstrap
  )
  # The time of each row over its tokens: a ratio over rows, then turned round.
  per_row = [
    _replay(text.at_rows(np.array([row])), [setting], window).work[0]
    for row in range(len(counts))
  ]
  times = np.array([cost.of(work) for work in per_row])
  slow = ratio_interval(times, counts * cost.full_token, bootstrap=bootstrap)
  work = replayed.work[0]
  return ExitPlacement(
    chosen=setting.exits,
    thresholds=setting.thresholds,
    exit_shares=tuple(float(x) for x in work.taken / work.tokens),
    speedup=Interval(1 / slow.value, 1 / slow.high, 1 / slow.low),
    agreement=agreement,
    searched=worth,
  )
