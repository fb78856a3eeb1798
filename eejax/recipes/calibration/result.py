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
"""What came of a calibration: settings looked at, guarantee, speed, policy."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eejax import serialization
from eejax.analysis.candidate import MOST_PROMPTS, Answer
from eejax.analysis.certify import CertificationResult
from eejax.analysis.verdict import Verdict
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import format_thresholds
from eejax.errors import EejaxError
from eejax.recipes.calibration.path import TARGETS, PathStep, PolicyPath
from eejax.recipes.calibration.request import CalibrationRequest
from eejax.recipes.result import Result
from eejax.stats.bootstrap import Interval

if TYPE_CHECKING:
  from matplotlib.axes import Axes


class CalibrationError(EejaxError):
  """No policy can be returned: nothing is certified, or it is slower.

  Attributes:
    result: everything that the calibration found.
  """

  def __init__(self, sentence: str, result: 'CalibrationResult'):
    """Report `sentence` and hand on `result`."""
    super().__init__(sentence)
    self.result = result


@dataclasses.dataclass(frozen=True)
class ForecastSpeed:
  """Speed that the cost model predicts for a setting, at batch 1.

  Attributes:
    speedup: over full decoding, for the exits its texts took.
    mean_depth: blocks a token went through before it was emitted.
  """

  speedup: float
  mean_depth: float


@dataclasses.dataclass(frozen=True)
class CalibrationResult(Result):
  """What came of a calibration.

  Attributes:
    request: what was asked for.
    source: the text that prompts were cut from.
    search_sequences: how many prompts were searched on.
    paths: of each criterion, the one that was followed first.
    steps: settings that were to be certified, from safe to risky.
    certification: of these, in order until one failed; None where there was
      no setting, for none saves time.
    forecasts: for each setting that was looked at.
    certified: the policy with its certificate; None where there is none.
    verdict: whether the certified policy pays, measured on the report part.
    report_loss: mean loss of the certified policy on the report part, in
      [0, 1].
  """

  request: CalibrationRequest
  source: str
  search_sequences: int
  paths: tuple[PolicyPath, ...]
  steps: tuple[PathStep, ...] = ()
  certification: CertificationResult | None = None
  forecasts: tuple[ForecastSpeed, ...] = ()
  certified: Policy | None = None
  verdict: Verdict | None = None
  report_loss: float | None = None

  title = 'Calibration'

  def policy(self, *, allow_slower: bool = False) -> Policy:
    """Return the certified policy.

    Args:
      allow_slower: return it though it is measured to be no faster than full
        decoding.

    Raises:
      CalibrationError: nothing is certified, or what is does not pay.
    """
    if self.certified is None:
      raise CalibrationError(self.summary(), self)
    if self.is_slower and not allow_slower:
      raise CalibrationError(
        f'{self.summary()} So no policy is returned; decode with mode full or '
        'speculative, tune the exits further, or allow_slower all the same.',
        self,
      )
    return self.certified

  @property
  def is_slower(self) -> bool:
    """Return whether the policy is measured not to pay."""
    return self.verdict is not None and self.verdict.answer is Answer.NO

  @property
  def speedup(self) -> Interval | None:
    """Return how many times faster than full decoding it is measured to be."""
    return None if self.verdict is None else self.verdict.candidates[0].speedup

  def summary(self) -> str:
    """Return what is certified and how fast, or why nothing is."""
    if self.certification is None:
      return (
        'no thresholds save time on this model at any agreement down to '
        f'{TARGETS[-1]:.0%}, by any score: early exit does not pay here, so '
        'there is nothing to certify; decode with mode full or speculative.'
      )
    if self.certified is None or self.certified.certificate is None:
      return self._not_certified(self.certification)
    chosen = self.certification.chosen
    assert chosen is not None
    sentences = [
      f'{self.certified.certificate.sentence()}; on these it is '
      f'{self.certification.mean_losses[chosen]:.4f}{self._report()}.',
      f'The forecast of its speed is {self.forecasts[chosen].speedup:.2f} '
      'times full decoding.',
    ]
    if self.verdict is not None:
      sentences.append(self.verdict.sentence())
    return ' '.join(sentences)

  def table(self) -> list[dict[str, Any]]:
    """Return the lines of a table of the settings that were looked at."""
    if self.certification is None:
      return []
    p_values = self.certification.p_values
    return [
      {
        'criterion': step.policy.criterion,
        'thresholds': format_thresholds(step.policy.thresholds),
        f'{self.request.measure_name} loss': f'{mean:.4f}',
        'p-value': f'{p_values[i]:.2g}' if p_values else None,
        'certified': self._is_certified(i),
        'mean depth': round(self.forecasts[i].mean_depth, 2),
        'predicted speed': round(self.forecasts[i].speedup, 3),
        'measured speed': self._measured(i),
      }
      for i, (step, mean) in enumerate(
        zip(self.steps, self.certification.mean_losses, strict=False)
      )
    ]

  def to_json(self) -> dict[str, Any]:
    """Return everything as plain values."""
    request = dataclasses.asdict(self.request)
    policy = self.certified
    values = {
      'certified': policy is not None,
      'is_slower': self.is_slower,
      'sentence': self.summary(),
      'policy': None if policy is None else policy.to_json(),
      'request': {**request, 'measure': self.request.measure_name},
      'data': self.source,
      'certification': self.certification,
      'searched': self.search_sequences,
      'verdict': None if self.verdict is None else self.verdict.to_json(),
      'report_loss': self.report_loss,
      'settings': [
        {'target': step.target, **row}
        for step, row in zip(self.steps, self.table(), strict=False)
      ],
    }
    return serialization.plain(values)

  def draw(self, axes: 'Axes') -> None:
    """Draw the loss of each setting against its speed."""
    if self.certification is None:
      axes.set_title('nothing to certify')
      return
    means = self.certification.mean_losses
    speeds = [f.speedup for f in self.forecasts]
    axes.plot(speeds, means, color='0.7', zorder=1)
    for is_certified in (True, False):
      chosen = self.certification.chosen
      last = -1 if chosen is None else chosen
      indices = [i for i in range(len(means)) if (i <= last) is is_certified]
      axes.scatter(
        _at(speeds, indices),
        _at(means, indices),
        facecolors='C0' if is_certified else 'none',
        edgecolors='C0',
        label='certified' if is_certified else 'not certified',
      )
    speedup = self.speedup
    if speedup is not None and self.certification.chosen is not None:
      axes.errorbar(
        [speedup.value],
        [means[self.certification.chosen]],
        xerr=[[speedup.value - speedup.low], [speedup.high - speedup.value]],
        fmt='s',
        color='C1',
        label='measured',
      )
    axes.axhline(self.request.risk, color='C3', ls='--', label='risk allowed')
    axes.axvline(1, color='0.7', lw=0.8)
    axes.set_xlabel('times full decoding, forecast and measured')
    axes.set_ylabel(f'mean {self.request.measure_name} loss')
    axes.legend()

  def _not_certified(self, certification: CertificationResult) -> str:
    start = (
      f'nothing can be certified at risk {self.request.risk:g} with '
      f'{certification.sequences} sequences: the safest thresholds that save '
      f'time lose {certification.mean_losses[0]:.4f} on average'
    )
    needed = certification.needed
    if needed is None or needed > MOST_PROMPTS:
      return (
        f'{start}, which is not far enough below the limit for any number of '
        f'sequences up to {MOST_PROMPTS}; allow a higher risk, or tune the '
        'exits further.'
      )
    return (
      f'{start}; about {needed} sequences would be needed for '
      'that, and as much text.'
    )

  def _report(self) -> str:
    if self.report_loss is None or self.verdict is None:
      return ''
    return (
      f', and {self.report_loss:.4f} on {self.verdict.prompts} prompts that '
      'were neither searched nor certified on'
    )

  def _is_certified(self, index: int) -> str:
    assert self.certification is not None
    chosen = self.certification.chosen
    if chosen is None or index > chosen:
      return 'no'
    return 'yes, taken' if index == chosen else 'yes'

  def _measured(self, index: int) -> float | None:
    assert self.certification is not None
    if self.speedup is None or index != self.certification.chosen:
      return None
    return round(self.speedup.value, 3)


def _at(values: Sequence[float], indices: Sequence[int]) -> list[float]:
  return [values[i] for i in indices]
