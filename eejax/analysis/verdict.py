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
"""The verdict: does early exit pay on a model, here, and with what promise.

A candidate (`eejax.analysis.candidate`) pays where its promise holds and the
lower end of its measured speed-up is above the noise, which is full decoding
timed against itself in the same turns. The answer is `yes` where one that
uses exits pays, `undecided` where more prompts might show that one does, else
`no`. Drafts from the text alone use no exit, so they are told beside the
answer, and exits that draft beside the text have to be faster than they are.

What was not measured is a forecast, and so is every answer about a model
without trained exits, which will be judged anew when it has some.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from eejax import serialization
from eejax.analysis.candidate import Answer, Candidate, Promise
from eejax.stats.bootstrap import Interval

THIS_MACHINE = 'this machine'


@dataclasses.dataclass(frozen=True)
class Verdict:
  """Verdict on a model: every candidate, and the one answer.

  Attributes:
    candidates: what was looked at.
    budget: loss that was allowed where a promise is empirical.
    noise: full decoding against itself, in turns with the candidates; None
      where nothing was measured.
    prompts: held-out prompts that were measured on, one at a time.
    new_tokens: generated after each.
    machine: whose speed it is, in words.
    has_trained_exits: whether the model has exits of its own.
  """

  candidates: tuple[Candidate, ...]
  budget: float
  noise: Interval | None
  prompts: int
  new_tokens: int
  machine: str
  has_trained_exits: bool

  @property
  def answer(self) -> Answer:
    """Return the one answer."""
    return Answer.best_of([self.answer_of(c) for c in self._with_exits])

  @property
  def by_promise(self) -> dict[Promise, Answer]:
    """Return the answer of each promise that a candidate makes."""
    return {
      promise: Answer.best_of(
        [self.answer_of(c) for c in self._with_exits if c.promise is promise]
      )
      for promise in Promise
      if any(c.promise is promise for c in self._with_exits)
    }

  @property
  def needs(self) -> int | None:
    """Return how many prompts would probably decide it; None if none would."""
    if self.answer is not Answer.UNDECIDED:
      return None
    every = [
      c.needs(budget=self.budget, noise=self._noise(c), prompts=self.prompts)
      for c in self._with_exits
    ]
    return min((n for n in every if n is not None), default=None)

  @property
  def best(self) -> Candidate | None:
    """Return the candidate that the answer speaks of: the fastest of it."""
    return self._fastest(self._with_exits, self.answer)

  @property
  def without_exits(self) -> Candidate | None:
    """Return the fastest candidate that uses no exit and pays, if any."""
    others = [c for c in self.candidates if not c.uses_exits]
    return self._fastest(others, Answer.YES)

  @property
  def is_forecast(self) -> bool:
    """Return whether the answer is a forecast."""
    return self.noise is None or not self.has_trained_exits

  def answer_of(self, candidate: Candidate) -> Answer:
    """Return whether a candidate pays."""
    return candidate.answer(budget=self.budget, noise=self._noise(candidate))

  def sentence(self) -> str:
    """Return the answer in one sentence; a forecast says that it is one."""
    best, answer = self.best, self.answer
    words = {
      Answer.YES: f'yes, early exit pays on {self.machine}',
      Answer.NO: f'no, early exit does not pay on {self.machine}',
      Answer.UNDECIDED: f'undecided: {self._wanted()}',
    }[answer]
    if best is None:
      words += '; nothing was found that saves time'
    elif answer is Answer.YES:
      words += f', {self._promise(best)}: {_way(best)} {_speed(best)}'
    else:
      words += f'; the best that was found, {_way(best)}, {_speed(best)}'
    if self.noise is not None:
      words += f', where full decoding against itself is {_range(self.noise)}'
    if self.without_exits is not None:
      words += (
        f'; without any exit, {_way(self.without_exits)} '
        f'{_speed(self.without_exits)}'
      )
    if self.is_forecast:
      why = (
        'nothing was measured'
        if self.noise is None
        else 'the model has no trained exits yet'
      )
      return f'Forecast ({why}): {words}.'
    return f'{words[0].upper()}{words[1:]}.'

  def sentences(self) -> list[str]:
    """Return the answer of every promise, a sentence each."""
    return [
      self._promise_sentence(promise, answer)
      for promise, answer in self.by_promise.items()
    ]

  def rows(self) -> list[dict[str, Any]]:
    """Return the lines of a table of all candidates."""
    return [
      {
        'candidate': c.name,
        'pays': self._pays(c),
        'promise': _promise_text(c),
        'exits': f'{c.source} at {_places(c)}' if _places(c) else None,
        'score': _score(c),
        'forecast speed-up': _optional(c.forecast, 'speedup'),
        'measured speed-up': _optional(c.measured, 'speedup'),
        'forecast loss %': _optional(c.forecast, 'loss', 100),
        'measured loss %': _optional(c.measured, 'loss', 100),
      }
      for c in self.candidates
    ]

  def to_json(self) -> dict[str, Any]:
    """Return plain values: the one answer, and all it rests on."""
    return serialization.plain(
      {
        'answer': self.answer,
        'is_forecast': self.is_forecast,
        'headline': self.sentence(),
        'sentences': self.sentences(),
        'by_promise': self.by_promise,
        'needs_prompts': self.needs,
        'noise': self.noise,
        'budget': self.budget,
        'prompts': self.prompts,
        'new_tokens': self.new_tokens,
        'machine': self.machine,
        'candidates': [self._candidate_values(c) for c in self.candidates],
      }
    )

  def __str__(self) -> str:
    return self.sentence()

  def _pays(self, candidate: Candidate) -> str | None:
    """Return whether it pays; None where no figure says so."""
    if candidate.policy is not None and candidate.speedup is None:
      return None
    return self.answer_of(candidate).value

  def _candidate_values(self, candidate: Candidate) -> dict[str, Any]:
    policy = candidate.policy
    needs = candidate.needs(
      budget=self.budget, noise=self._noise(candidate), prompts=self.prompts
    )
    return {
      'name': candidate.name,
      'promise': candidate.promise,
      'source': candidate.source,
      'depths': candidate.depths,
      'policy': None if policy is None else policy.to_json(),
      'forecast': candidate.forecast,
      'measured': candidate.measured,
      'answer': self.answer_of(candidate),
      'uses_exits': candidate.uses_exits,
      'needs_prompts': needs,
    }

  @property
  def _with_exits(self) -> tuple[Candidate, ...]:
    return tuple(c for c in self.candidates if c.uses_exits)

  def _noise(self, candidate: Candidate) -> Interval | None:
    """Return what a candidate's speed-up has to be above, at its high end.

    Where exits and the text draft, it is that of the text alone, if that is
    faster than the noise.
    """
    if candidate.measured is None or self.noise is None:
      return None
    noise, policy = self.noise, candidate.policy
    is_mixed = policy is not None and policy.drafts_from_text
    for other in self.candidates if is_mixed and candidate.uses_exits else ():
      if not other.uses_exits and other.measured is not None:
        high = max(noise.high, other.measured.speedup.value)
        noise = dataclasses.replace(noise, high=high)
    return noise

  def _fastest(
    self, candidates: Sequence[Candidate], answer: Answer
  ) -> Candidate | None:
    """Return the fastest that has an answer; one that decodes at all."""
    speed = lambda c: 0.0 if c.speedup is None else c.speedup.low
    usable = [
      c
      for c in candidates
      if c.policy is not None and self.answer_of(c) is answer
    ]
    return max(usable, key=speed, default=None)

  def _promise_sentence(self, promise: Promise, answer: Answer) -> str:
    name = promise.value.capitalize()
    fastest = self._fastest(
      [c for c in self._with_exits if c.promise is promise], answer
    )
    if fastest is None or fastest.loss is None:
      return f'{name}: {answer.value}; nothing was found that saves time.'
    lost = (
      ''
      if promise is Promise.EXACT
      else f', loss {_range(fastest.loss, 100)} %'
    )
    return f'{name}: {answer.value}; {_way(fastest)} {_speed(fastest)}{lost}.'

  def _wanted(self) -> str:
    if self.noise is None:
      return 'the forecast is too near to 1; measure on the machine itself'
    if self.needs is None:
      return 'so near to the noise that a quieter machine is needed'
    return f'about {self.needs} prompts would be needed'

  def _promise(self, best: Candidate) -> str:
    match best.promise:
      case Promise.EXACT:
        return 'with exactly the text of full decoding'
      case Promise.CERTIFIED:
        return f'with a loss that is {_promise_text(best)}'
      case Promise.EMPIRICAL:
        return f'where {self.budget:.0%} of the tokens may differ'


def _promise_text(candidate: Candidate) -> str:
  policy = candidate.policy
  if policy is None or policy.certificate is None:
    return candidate.promise.value
  held = policy.certificate
  delta = 'on average' if held.delta is None else f'delta {held.delta:g}'
  return f'certified: risk {held.risk:g}, {delta}, n {held.sequences}'


def _places(candidate: Candidate) -> str:
  """Return the depths of the exits it uses, listed."""
  return ', '.join(map(str, candidate.depths)) if candidate.uses_exits else ''


def _way(candidate: Candidate) -> str:
  places = _places(candidate)
  if not places:
    return candidate.name
  return f'{candidate.name} ({candidate.source} exits at depth {places})'


def _speed(candidate: Candidate) -> str:
  forecast, measured = candidate.forecast, candidate.measured
  if measured is None:
    if forecast is None:
      return 'has no forecast'
    return f'should be {_range(forecast.speedup)} times as fast'
  words = f'is {_range(measured.speedup)} times as fast'
  if forecast is None:
    return words
  return f'{words} (forecast {forecast.speedup.value:.2f})'


def _score(candidate: Candidate) -> str | None:
  policy = candidate.policy
  if policy is None or candidate.promise is Promise.EXACT:
    return None
  values = ', '.join(
    'never' if t is None else f'{t:.3g}' for t in policy.thresholds
  )
  return f'{policy.criterion} >= {values}'


def _optional(known: Any, name: str, scale: float = 1) -> str | None:
  return None if known is None else _range(getattr(known, name), scale)


def _range(interval: Interval, scale: float = 1) -> str:
  value, low, high = (
    scale * x for x in (interval.value, interval.low, interval.high)
  )
  return f'{value:.2f} ({low:.2f} to {high:.2f})'
