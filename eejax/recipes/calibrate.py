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
"""Calibration: thresholds with a guarantee on what they lose.

Thresholds are searched for on one part of a text, certified on a second and
timed on a third; the parts share no document. See docs/analysis.md.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence

import jax
import numpy as np

from eejax import storage
from eejax.analysis import certify, measurement
from eejax.analysis.candidate import Candidate
from eejax.analysis.certify import (
  CalibrationPrompts,
  CertificationResult,
  Prompt,
)
from eejax.analysis.cost_model import DecodeCost, decode_cost
from eejax.analysis.measures import MeasureLike
from eejax.analysis.verdict import THIS_MACHINE, Verdict
from eejax.checkpoint.model import Model
from eejax.decoding.policy import check_use
from eejax.decoding.policy.certificate import EOS_IDS, Certificate
from eejax.decoding.policy.criteria.registry import usable_criteria
from eejax.decoding.policy.policy import Policy
from eejax.errors import ArgumentError
from eejax.evaluation.part_times import PartTimes, part_times
from eejax.evaluation.wall_clock import Clock, wall_clock
from eejax.parallel.mesh import MeshChoice
from eejax.progress import SILENT, Progress
from eejax.recipes.calibration import path as path_lib
from eejax.recipes.calibration.continuations import Continuations, Part
from eejax.recipes.calibration.path import PathStep, PolicyPath
from eejax.recipes.calibration.request import CalibrationRequest, read_prompts
from eejax.recipes.calibration.result import (
  CalibrationError,
  CalibrationResult,
  ForecastSpeed,
)
from eejax.recipes.devices import on_mesh
from eejax.recipes.text import Text
from eejax.version import __version__

DEFAULT_REQUEST = CalibrationRequest()


def calibrate(
  model: Model,
  text: Text,
  *,
  risk: float = 0.05,
  delta: float = 0.05,
  measure: MeasureLike = 'local',
  method: str = 'learn_then_test',
  bound: str = 'hoeffding_bentkus',
  criterion: str | None = None,
  sequences: int = 384,
  search_sequences: int = 96,
  report_sequences: int = 16,
  prompt_tokens: int | None = None,
  max_new_tokens: int = 64,
  window: int = 8,
  batch_size: int = 16,
  seed: int = 0,
  dtype: str = 'float32',
  search_text: Text | None = None,
  folder: str | os.PathLike | None = None,
  allow_slower: bool = False,
  required: bool = False,
  times: PartTimes | None = None,
  mesh: MeshChoice | None = None,
  progress: Progress = SILENT,
  clock: Clock = wall_clock,
) -> Policy:
  """Return a policy that is certified to lose little, and measured to pay.

  With a chance of at least 1 - `delta` over the sequences that were drawn, the
  mean loss of a sequence drawn like them is at most `risk`; a sequence is a
  prompt cut from the text and its greedy continuation. The policy carries a
  certificate of that, and everything it depends on. Where no such policy pays,
  full decoding is returned, whose `note` says why and what it would take.
  `eejax.recipes.calibrate.run_calibration` returns all that was looked at.

  Args:
    model: with its exits and a tokenizer.
    text: what prompts are cut from, conversations up to a turn of the
      assistant; its documents are split into parts to search on, to certify on
      and to measure speed on.
    risk: limit of the mean loss of a sequence, in (0, 1).
    delta: largest chance that the mean loss is above it all the same, in
      (0, 1).
    measure: loss of a sequence: `local`, the share of tokens that the full
      model would not have chosen after the same text; `rouge_l` and
      `same_place`, against its own continuation; or a function of your own,
      see `eejax.analysis.measures`.
    method: `learn_then_test`, or `conformal`, which bounds the loss on average
      over calibrations and has no delta.
    bound: p-value of `learn_then_test`: `hoeffding_bentkus`, `bentkus`,
      `hoeffding` or `betting`.
    criterion: score that exits are asked by; None takes the one that is
      fastest at this risk.
    sequences: prompts to certify on, at most.
    search_sequences: prompts to search thresholds on, at most.
    report_sequences: prompts to measure speed on, at most.
    prompt_tokens: tokens of a prompt, of a conversation at most; None is 32,
      and of conversations what the context has room for, at most 512.
    max_new_tokens: tokens generated after it, at most; the certificate covers
      texts that are no longer.
    window: every `window`-th token at the latest goes to full depth.
    batch_size: prompts decoded together.
    seed: of the choice of prompts.
    dtype: what is computed in, and certified for: float32 or bfloat16.
    search_text: another text to search thresholds on.
    folder: keeps decoded texts, so that a calibration that was stopped goes on
      from there; None keeps nothing.
    allow_slower: return a certified policy though it is measured to be no
      faster than full decoding.
    required: raise where there is no certified policy that pays, instead of
      returning full decoding.
    times: of the parts of decoding on this machine, for forecasts; measured
      where they are not given.
    mesh: the devices, as `eejax.generate` takes them; None is the default one.
    progress: is told how far it has come.
    clock: returns the times that a decoding took.

  Raises:
    CalibrationError: a policy is `required`, and no thresholds save time, none
      can be certified with these sequences, or those that are do not pay; the
      message says what it would take, and the error's `result` has all that
      was looked at.
    EejaxError: an argument cannot be used, the text is too short, the model
      has no exits or tokenizer, or the folder cannot be written.

  Example:
    >>> import eejax
    >>> eejax.calibrate(eejax.load('default'), eejax.read_text(), risk=0.05)
    Traceback (most recent call last):
    eejax.errors.ArgumentError: the model has no exits to calibrate; add ...
    >>> policy = eejax.calibrate(model, text, risk=0.05)  # doctest: +SKIP
    >>> eejax.generate(model, ['def main'], policy=policy)  # doctest: +SKIP
  """
  request = CalibrationRequest(
    risk=risk,
    delta=delta,
    measure=measure,
    method=method,
    bound=bound,
    criterion=criterion,
    sequences=sequences,
    search_sequences=search_sequences,
    report_sequences=report_sequences,
    prompt_tokens=prompt_tokens,
    max_new_tokens=max_new_tokens,
    window=window,
    batch_size=batch_size,
    seed=seed,
    dtype=dtype,
  )
  result = run_calibration(
    model,
    text,
    request,
    search_text=search_text,
    folder=folder,
    times=times,
    mesh=mesh,
    progress=progress,
    clock=clock,
  )
  try:
    return result.policy(allow_slower=allow_slower)
  except CalibrationError as error:
    if required:
      raise
    return Policy(note=str(error))


def run_calibration(
  model: Model,
  text: Text,
  request: CalibrationRequest = DEFAULT_REQUEST,
  *,
  search_text: Text | None = None,
  folder: str | os.PathLike | None = None,
  times: PartTimes | None = None,
  mesh: MeshChoice | None = None,
  progress: Progress = SILENT,
  clock: Clock = wall_clock,
) -> CalibrationResult:
  """Return everything that a calibration looked at; see `calibrate`.

  Args:
    model: with its exits and a tokenizer.
    text: what prompts are cut from.
    request: what is to be certified, and how.
    search_text: another text to search thresholds on.
    folder: keeps decoded texts; None keeps nothing.
    times: of the parts of decoding; measured where they are not given.
    mesh: the devices, as `eejax.generate` takes them; None is the default one.
    progress: is told how far it has come.
    clock: returns the times that a decoding took.

  Raises:
    EejaxError: an argument cannot be used, the text is too short, the model
      has no exits or tokenizer, or the folder cannot be written.
  """
  if not model.config.exits:
    raise ArgumentError(
      'the model has no exits to calibrate; add some with eejax.add_exits and '
      'tune them.'
    )
  text = text.unseen_by(model)
  request = request.with_prompt_tokens(model, text)
  with progress.waiting(f'reading {text}'):
    prompts = read_prompts(model, text, request, search_text=search_text)
  model = on_mesh(model, mesh)
  calibration = _Calibration(
    model,
    request,
    Continuations(
      model,
      prompts,
      request,
      folder=None if folder is None else storage.local_path(folder),
      progress=progress,
    ),
    times,
    progress,
  )
  paths = calibration.find_paths()
  result = CalibrationResult(
    request=request,
    source=str(text),
    search_sequences=len(prompts.search),
    paths=tuple(paths),
  )
  if not paths[0].steps:
    return result
  steps = calibration.steps_from(paths[0])
  certification = calibration.certify(steps)
  result = dataclasses.replace(
    result,
    steps=tuple(steps),
    certification=certification,
    forecasts=tuple(
      calibration.forecast(step.policy)
      for step in steps[: len(certification.mean_losses)]
    ),
  )
  if certification.chosen is None:
    return result
  policy = steps[certification.chosen].policy
  certified = _with_certificate(
    model,
    policy,
    request,
    certification,
    data=_data(text, search_text, prompts, request),
    progress=progress,
  )
  return dataclasses.replace(
    result,
    certified=certified,
    report_loss=float(calibration.losses(Part.REPORT, policy).mean()),
    verdict=calibration.verdict(certified, prompts.report, clock=clock),
  )


@dataclasses.dataclass(frozen=True)
class _Calibration:
  """The steps of a calibration on one model."""

  model: Model
  request: CalibrationRequest
  continuations: Continuations
  known_times: PartTimes | None
  progress: Progress

  @functools.cached_property
  def times(self) -> PartTimes:
    """Return what the parts of decoding take on this machine."""
    if self.known_times is not None:
      return self.known_times
    with self.progress.waiting('timing the parts of decoding'):
      return part_times(
        self.continuations.prepared,
        config=self.model.config,
        window=self.request.window,
      )

  def losses(self, part: Part, policy: Policy) -> np.ndarray:
    """Return the loss of each sequence of a part."""
    return self.continuations.losses(part, policy)

  def find_paths(self) -> list[PolicyPath]:
    """Return the paths of settings, searched on the search part."""
    request, model = self.request, self.model
    criteria = usable_criteria(model.config.exits)
    if request.criterion is not None:
      criteria = (request.criterion,)
    logged = path_lib.score_continuations(
      model,
      prompts=self.continuations.prompts(Part.SEARCH),
      continuations=self.continuations.decode(Part.SEARCH),
      criteria=criteria,
      dtype=request.dtype,
      batch_size=request.batch_size,
      progress=self.progress,
    )
    return path_lib.find_paths(
      logged,
      risk=request.risk,
      window=request.window,
      speedup_of=lambda policy: self._cost(policy).speedup,
      progress=self.progress,
    )

  def steps_from(self, path: PolicyPath) -> list[PathStep]:
    """Return the steps of a path from where certification begins."""
    begin = path_lib.begin_at(
      lambda index: float(
        self.losses(Part.SEARCH, path.steps[index].policy).mean()
      ),
      len(path.steps),
      risk=self.request.risk,
    )
    return list(path.steps[begin:])

  def certify(self, steps: list[PathStep]) -> CertificationResult:
    """Return what can be certified of settings, in their order."""
    losses_of = lambda index: self.losses(Part.CERTIFY, steps[index].policy)
    if self.request.is_conformal:
      return certify.control_settings(
        losses_of, len(steps), risk=self.request.risk
      )
    return certify.certify_settings(
      losses_of, len(steps), guarantee=self.request.guarantee
    )

  def forecast(self, policy: Policy) -> ForecastSpeed:
    """Return the speed that is predicted, a prompt at a time."""
    depths = [
      np.array(c.depths)
      for c in self.continuations.decode(Part.CERTIFY, policy)
    ]
    return ForecastSpeed(
      speedup=self._cost(policy).speedup_of_depths(depths),
      mean_depth=float(np.concatenate(depths).mean()),
    )

  def verdict(
    self, policy: Policy, prompts: Sequence[Prompt], *, clock: Clock
  ) -> Verdict:
    """Return whether a certified policy pays, measured on other prompts."""
    request = self.request
    candidates, noise = measurement.measure(
      self.model,
      [Candidate.of_policy(policy, depths=self.model.config.exit_depths)],
      prompts,
      settings=measurement.MeasurementSettings(
        request.max_new_tokens, dtype=request.dtype, clock=clock
      ),
      prepared=self.continuations.prepared,
      progress=self.progress,
    )
    return Verdict(
      candidates=candidates,
      budget=request.risk,
      noise=noise,
      prompts=len(prompts),
      new_tokens=request.max_new_tokens,
      machine=THIS_MACHINE,
      has_trained_exits=True,
    )

  def _cost(self, policy: Policy) -> DecodeCost:
    return decode_cost(self.model.config, policy, times=self.times)


def _data(
  text: Text,
  search_text: Text | None,
  prompts: CalibrationPrompts,
  request: CalibrationRequest,
) -> dict[str, object]:
  """Return where the sequences of a certificate come from."""
  ends = {} if prompts.eos_ids is None else {EOS_IDS: list(prompts.eos_ids)}
  return {
    **ends,
    'name': text.source,
    'search_name': None if search_text is None else search_text.source,
    'split': text.part.value,
    'unit': text.unit.value,
    'seed': request.seed,
    'searched': len(prompts.search),
    'search_hash': certify.data_hash(prompts.search),
    'certify_hash': certify.data_hash(prompts.certify),
  }


def _with_certificate(
  model: Model,
  policy: Policy,
  request: CalibrationRequest,
  certification: CertificationResult,
  *,
  data: dict[str, object],
  progress: Progress,
) -> Policy:
  """Return a policy with its certificate."""
  assert certification.chosen is not None
  assert request.prompt_tokens is not None
  p_values = certification.p_values
  certificate = Certificate(
    method=request.method,
    risk=request.risk,
    delta=None if request.is_conformal else request.delta,
    bound=None if request.is_conformal else request.bound,
    measure=request.measure_name,
    sequences=certification.sequences,
    mean_loss=certification.mean_losses[certification.chosen],
    p_value=p_values[certification.chosen] if p_values else None,
    prompt_tokens=request.prompt_tokens,
    max_new_tokens=request.max_new_tokens,
    dtype=request.dtype,
    data=data,
    versions={'eejax': __version__, 'jax': jax.__version__},
  )
  return check_use.certify(policy, model, certificate, progress=progress)
