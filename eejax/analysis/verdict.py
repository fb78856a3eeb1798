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
"""Will early exit pay on a model: the best of each way, with intervals.

Three statements, each at its own level:

  ceiling   blocks an oracle could skip without changing a token
  lossless  self-speculation: exits draft, the full model verifies (exact)
  lossy     early exit within a budget of tokens that differ (empirical;
            `eejax calibrate` certifies)

Speed is predicted from what the model said along a text, given that text
(teacher-forced), and what the parts of decoding cost; `judging` finds it.
"""

import dataclasses
import enum

from eejax.analysis.agreement import NaturalExits
from eejax.stats.bootstrap import Interval

# A speed-up up to this is called none.
PAYS = 1.05
# More sequences than this are not worth naming.
_MOST = 5000


class Answer(enum.Enum):
  """Whether early exit pays.

  YES: the whole interval of a speed-up is above 1.05. UNCLEAR: the estimate
  is, its interval is not. NO: not even the estimate is.
  """

  YES = 'yes'
  UNCLEAR = 'unclear'
  NO = 'no'

  @classmethod
  def of(cls, speedup: Interval) -> 'Answer':
    """Return the answer that a speed-up gives."""
    if speedup.low > PAYS:
      return cls.YES
    return cls.UNCLEAR if speedup.value > PAYS else cls.NO


@dataclasses.dataclass(frozen=True)
class Way:
  """Hold a way to decode with exits.

  Attributes:
    name: of the way.
    level: how strong the statement about its text is.
    source: natural depths or trained exits.
    depths: of the exits it takes; empty where none pays.
    criterion: score that is asked; '' where there is none.
    thresholds: of the exits.
    speedup: predicted, over full decoding.
    agreement: share of tokens that are the full model's.
    drafts: tokens drafted a round; 0 without speculation.
    measured: speed-up by the clock, over prompts; None where nobody timed it.
  """

  name: str
  level: str
  source: str
  depths: tuple[int, ...]
  criterion: str
  thresholds: tuple[float, ...]
  speedup: Interval
  agreement: Interval
  drafts: int = 0
  measured: Interval | None = None

  @property
  def answer(self) -> Answer:
    """Return whether it pays; what was measured outweighs a prediction."""
    predicted = Answer.of(self.speedup)
    if self.measured is None or self.measured.value > PAYS:
      return predicted
    return Answer.NO if self.measured.value <= 1 else Answer.UNCLEAR

  @property
  def best_known(self) -> float:
    """Return the measured speed-up, or the predicted one."""
    return (self.measured or self.speedup).value


@dataclasses.dataclass(frozen=True)
class Verdict:
  """Hold whether and how early exit pays on a model.

  Attributes:
    natural: every depth, and the ceiling.
    lossless: the best self-speculation.
    lossy: the best early exit within the budget.
    loss: share of tokens that may differ.
    needed: by depth, the share of tokens a natural exit there must take to
      pay alone, asked by its head; None where even all are too few.
    settled: by depth, the share of tokens whose stable depth is there or
      before.
    sequences: how many would certify the early exit, if its sequences lose
      what its tokens lost here; None where none would.
    head_in_blocks: what reading the final head costs.
    window_factor: what the widest window costs over one token.
    machine: where costs come from.
  """

  natural: NaturalExits
  lossless: Way
  lossy: Way
  loss: float
  needed: dict[int, float | None]
  settled: dict[int, float]
  sequences: int | None
  head_in_blocks: float
  window_factor: float
  machine: str

  @property
  def answer(self) -> Answer:
    """Return the better answer of both ways."""
    answers = (self.lossless.answer, self.lossy.answer)
    return next(a for a in Answer if a in answers)

  def headline(self) -> str:
    """Return the answer in one sentence."""
    best = max((self.lossless, self.lossy), key=lambda w: w.best_known)
    match self.answer:
      case Answer.YES:
        paying = [
          w for w in (self.lossless, self.lossy) if w.answer is Answer.YES
        ]
        best = max(paying, key=lambda w: w.best_known)
        how = (
          'with exactly the text of the full model'
          if best.drafts
          else f'where {self.loss:.0%} of the tokens may differ'
        )
        return f'Yes, early exit should pay here, {how}: {_speed(best)}.'
      case Answer.UNCLEAR:
        return (
          f'Perhaps: the best that was found is {_speed(best)}, which may be '
          'no gain; probe more text (--max-tokens), on an idle machine.'
        )
      case Answer.NO:
        found = (
          f'the best that was found is {_speed(best)}'
          if best.best_known > 1
          else 'nothing that was tried saves time'
        )
        return (
          'No: early exit will not pay on this model as it is, on '
          f'{self.machine}; {found}.'
        )

  def sentences(self) -> list[str]:
    """Return what stands behind the answer."""
    found = [
      f'Ceiling: {self.natural.verdict()}',
      f'Lossless: {_speculation(self.lossless)}',
      f'With loss: {self._early_exit()}',
      f'Costs on {self.machine}: reading the head takes as long as '
      f'{self.head_in_blocks:.1f} blocks, and catching up a whole window '
      f'{self.window_factor:.1f} times as long as one token.',
    ]
    if self.answer is Answer.NO:
      found.append(self._why_not())
    return found

  def _early_exit(self) -> str:
    way = self.lossy
    if not way.depths:
      return (
        f'no exits were found that save time while at most {self.loss:.0%} of '
        'the tokens differ.'
      )
    places = ', '.join(str(d) for d in way.depths)
    certified = (
      'is too close to the budget to be certified for it; ask for less --loss'
      if self.sequences is None or self.sequences > _MOST
      else f'would take about {self.sequences} sequences to certify '
      '(eejax calibrate)'
    )
    return (
      f'{way.source} at depth {places}, asked by {way.criterion}, should run '
      f'at {_speed(way)}, while '
      f'{way.agreement.value:.1%} of the tokens (interval '
      f'{way.agreement.low:.1%} to {way.agreement.high:.1%}) are the full '
      f"model's. This is empirical and teacher-forced; it {certified}."
    )

  def _why_not(self) -> str:
    gaps = {
      d: (share, self.settled[d])
      for d, share in self.needed.items()
      if share is not None
    }
    if not gaps:
      return (
        'Why not: catching up skipped blocks costs so much here that no exit '
        'would pay even if every token took it.'
      )
    depth, (share, settled) = min(
      gaps.items(), key=lambda item: item[1][0] - item[1][1]
    )
    return (
      f'Why not: an exit at depth {depth} alone would have to take '
      f'{share:.0%} of the tokens to pay, and {settled:.0%} are settled '
      'there; nobody knows which without asking. Trained exits settle more: '
      'eejax add-exits, then eejax tune.'
    )


def _times(speedup: Interval) -> str:
  return f'{speedup.value:.2f} ({speedup.low:.2f} to {speedup.high:.2f})'


def _speed(way: Way) -> str:
  words = f'{_times(way.speedup)} times full decoding, predicted'
  if way.measured is None:
    return words
  return f'{words}, and {_times(way.measured)} measured'


def _count(drafts: int) -> str:
  return 'a token' if drafts == 1 else f'{drafts} tokens'


def _speculation(way: Way) -> str:
  return (
    f'self-speculation drafting {_count(way.drafts)} at depth {way.depths[0]} '
    f'({way.source}) should run at {_speed(way)}, with exactly its text.'
  )
