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
"""Candidates: ways to decode a model faster, with what each promises.

  exact      the tokens of full decoding (drafts that the full model verifies)
  certified  loss at most `risk`, with confidence 1 - `delta` (a calibration)
  empirical  loss within a budget, by its interval over held-out prompts

The loss is the share of the tokens a candidate emits, generating freely, that
the full model would not have chosen there.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Any

from eejax.decoding.policy.policy import Mode, Policy
from eejax.stats.bootstrap import Interval

# Exits of a candidate: depths that the model's own final norm and head read,
# or exits that it has.
NATURAL, TRAINED = 'natural', 'trained'
# More prompts than this are not worth naming.
MOST_PROMPTS = 5000
# A forecast misses by up to this share.
FORECAST_ERROR = 0.05


class Answer(enum.Enum):
  """Whether early exit pays: YES, NO, or UNDECIDED for want of data."""

  YES = 'yes'
  NO = 'no'
  UNDECIDED = 'undecided'

  @classmethod
  def best_of(cls, answers: Sequence['Answer']) -> 'Answer':
    """Return YES where one is, else UNDECIDED where one is, else NO."""
    order = (cls.YES, cls.UNDECIDED)
    return next((a for a in order if a in answers), cls.NO)


class Promise(enum.Enum):
  """What a candidate promises of its text; see the module's docstring."""

  EXACT = 'exact'
  CERTIFIED = 'certified'
  EMPIRICAL = 'empirical'

  @classmethod
  def of(cls, policy: Policy) -> 'Promise':
    """Return the promise of decoding with a policy."""
    if policy.mode is not Mode.EARLY_EXIT:
      return cls.EXACT
    return cls.EMPIRICAL if policy.certificate is None else cls.CERTIFIED


@dataclasses.dataclass(frozen=True)
class Forecast:
  """Forecast of a candidate, from a text that its settings were not chosen on.

  Attributes:
    speedup: over full decoding, by the cost model.
    loss: share of tokens that differ, teacher-forced; 0 where exact.
  """

  speedup: Interval
  loss: Interval


@dataclasses.dataclass(frozen=True)
class Measured:
  """Measurement of a candidate on held-out prompts, generating freely.

  Attributes:
    speedup: over full decoding, with its interval over prompts.
    loss: share of its tokens that the full model would not have chosen.
  """

  speedup: Interval
  loss: Interval


@dataclasses.dataclass(frozen=True)
class Candidate:
  """Candidate: a way to decode, its forecast and its measurement.

  Attributes:
    name: in words.
    source: `NATURAL` or `TRAINED`.
    depths: of the exits it uses; empty where none was found that pays.
    policy: how it decodes a model with exits at `depths` alone; None where
      none was found that pays.
    forecast: None where nothing is forecast.
    measured: None where it was not measured.
  """

  name: str
  source: str
  depths: tuple[int, ...]
  policy: Policy | None
  promise: Promise
  forecast: Forecast | None = None
  measured: Measured | None = None

  @classmethod
  def of_policy(
    cls, policy: Policy, *, depths: Sequence[int], **fields: Any
  ) -> 'Candidate':
    """Return a policy of a model that has exits at `depths`."""
    promise = Promise.of(policy)
    is_exact = promise is Promise.EXACT
    name = 'the policy given' if is_exact else 'calibrated early exit'
    return cls(name, TRAINED, tuple(depths), policy, promise, **fields)

  @property
  def uses_exits(self) -> bool:
    """Return whether exits do a part of it; drafts from a text need none."""
    policy = self.policy
    if policy is None:
      return True
    taken = any(threshold is not None for threshold in policy.thresholds)
    return policy.mode is not Mode.FULL and taken

  @property
  def speedup(self) -> Interval | None:
    """Return the measured speed-up, else the forecast one."""
    known = self.measured or self.forecast
    return None if known is None else known.speedup

  @property
  def loss(self) -> Interval | None:
    """Return the measured loss, else the forecast one."""
    known = self.measured or self.forecast
    return None if known is None else known.loss

  def answer(self, *, budget: float, noise: Interval | None) -> Answer:
    """Return whether it pays.

    Args:
      budget: loss that is allowed where the promise is empirical.
      noise: of full decoding; None for a forecast.
    """
    speedup, loss = self.speedup, self.loss
    if self.policy is None or speedup is None or loss is None:
      return Answer.NO
    answers = (
      _above(speedup, _least(self, noise)),
      _promise_holds(self.promise, loss, budget),
    )
    if Answer.NO in answers:
      return Answer.NO
    return Answer.UNDECIDED if Answer.UNDECIDED in answers else Answer.YES

  def needs(
    self, *, budget: float, noise: Interval | None, prompts: int
  ) -> int | None:
    """Return how many prompts would probably decide it.

    An interval narrows with the square root of the number of prompts.

    Returns:
      None where it is decided, nothing was measured, or more than 5,000 would
      be needed.
    """
    if self.measured is None:
      return None
    if self.answer(budget=budget, noise=noise) is not Answer.UNDECIDED:
      return None
    speedup, loss = self.measured.speedup, self.measured.loss
    wanted = _prompts_to_part(speedup, _least(self, noise), prompts)
    if self.promise is Promise.EMPIRICAL:
      wanted = max(wanted, _prompts_to_part(loss, budget, prompts))
    wanted = max(wanted, prompts + 1)
    return math.ceil(wanted) if wanted <= MOST_PROMPTS else None


def _least(candidate: Candidate, noise: Interval | None) -> float:
  """Return what the speed-up of a candidate has to be above."""
  if candidate.measured is None or noise is None:
    return 1 + FORECAST_ERROR
  return max(noise.high, 1.0)


def _above(speedup: Interval, least: float) -> Answer:
  if speedup.low > least:
    return Answer.YES
  if speedup.high <= least or speedup.value <= 1:
    return Answer.NO
  return Answer.UNDECIDED


def _promise_holds(promise: Promise, loss: Interval, budget: float) -> Answer:
  match promise:
    case Promise.EXACT:
      return Answer.YES if loss.value == 0 else Answer.NO
    case Promise.CERTIFIED:
      return Answer.YES
    case Promise.EMPIRICAL:
      if loss.high <= budget:
        return Answer.YES
      return Answer.NO if loss.low > budget else Answer.UNDECIDED


def _prompts_to_part(interval: Interval, limit: float, prompts: int) -> float:
  """Return how many prompts would part an interval from a limit."""
  if not interval.low <= limit < interval.high:
    return float(prompts)
  gap = interval.value - limit
  if gap == 0:
    return math.inf
  end = interval.low if gap > 0 else interval.high
  return prompts * ((interval.value - end) / gap) ** 2
