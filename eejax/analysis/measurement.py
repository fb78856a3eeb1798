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
"""Measurement of candidates: speed and loss on held-out prompts, in turns.

Every candidate, full decoding and full decoding once more generate freely
after the same prompts, one at a time and taking turns, so that a machine whose
speed drifts favours none of them. Prompts must be of no text that settings
were chosen on.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from eejax.analysis import certify
from eejax.analysis.candidate import TRAINED, Candidate, Measured, Promise
from eejax.checkpoint.model import Model
from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  ModelConfig,
  OutputMatrix,
)
from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.policy.policy import Policy
from eejax.decoding.results import DecodeResult, GeneratedRow
from eejax.errors import ArgumentError
from eejax.evaluation.lossless import first_difference
from eejax.evaluation.wall_clock import Clock, interleaved, wall_clock
from eejax.progress import SILENT, Progress
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval, ratio_interval

Prompt = Sequence[int]


@dataclasses.dataclass(frozen=True)
class MeasurementSettings:
  """Settings of a measurement.

  Attributes:
    new_tokens: generated after each prompt.
    repeats: rounds that are timed; the median of each prompt counts.
    dtype: compute dtype.
    clock: returns the times of a decoding, of which prefill does not count.
    bootstrap: how intervals over prompts are made.
  """

  new_tokens: int = 48
  repeats: int = 3
  dtype: str = 'float32'
  clock: Clock = wall_clock
  bootstrap: Bootstrap = DEFAULT

  def __post_init__(self):
    if self.new_tokens < 1 or self.repeats < 1:
      raise ArgumentError('new_tokens and repeats must be at least 1.')


def measure(
  model: Model,
  candidates: Sequence[Candidate],
  prompts: Sequence[Prompt],
  *,
  settings: MeasurementSettings = MeasurementSettings(),
  prepared: Prepared | None = None,
  progress: Progress = SILENT,
) -> tuple[tuple[Candidate, ...], Interval]:
  """Return the candidates with what was measured of them, and the noise.

  Candidates without a policy stay as they are.

  Args:
    model: with its exits.
    candidates: ways to decode it.
    prompts: token ids of each.
    settings: of the measurement.
    prepared: the model laid out for decoding in the settings' dtype, where
      that is done already.
    progress: told of every run.

  Raises:
    ArgumentError: there is no prompt.
  """
  if not prompts:
    raise ArgumentError('there is no prompt to measure on.')
  if prepared is None:
    prepared = prepare(
      model.params,
      config=model.config,
      dtype=settings.dtype,
    )
  start = functools.partial(_Run, model, prepared, settings)
  runs = [start(c) for c in candidates if c.policy is not None]
  full, again = start(None), start(None)
  every = {str(i): run for i, run in enumerate([full, again, *runs])}
  total = len(prompts) * len(every) * (settings.repeats + 1)
  with progress.bar('measuring', total=total, unit='run') as bar:
    for prompt in prompts:
      seconds = interleaved(
        {
          name: functools.partial(run.decode, prompt, bar.update)
          for name, run in every.items()
        },
        repeats=settings.repeats,
      )
      for name, run in every.items():
        run.keep(seconds[name])
  measured = {
    id(run.candidate): Measured(
      _speedup(full, run, settings.bootstrap),
      _loss(model, full, run, settings),
    )
    for run in runs
  }
  return (
    tuple(
      dataclasses.replace(c, measured=measured.get(id(c))) for c in candidates
    ),
    _speedup(full, again, settings.bootstrap),
  )


class _Run:
  """What one candidate, or full decoding, did after every prompt."""

  def __init__(
    self,
    model: Model,
    prepared: Prepared,
    settings: MeasurementSettings,
    candidate: Candidate | None,
  ):
    self.candidate, self._settings = candidate, settings
    self._policy, self._config = Policy(), model.config
    self._prepared = prepared
    if candidate is not None:
      assert candidate.policy is not None
      # Whoever gives a policy checks its certificate.
      self._policy = candidate.policy.without_certificate()
      self._prepared, self._config = _with_exits(prepared, model, candidate)
    self._last: DecodeResult | None = None
    self.rows: list[GeneratedRow] = []
    self.seconds: list[float] = []

  def decode(self, prompt: Prompt, on_run: Callable[[], None]) -> float:
    """Return the seconds of generating after a prompt."""
    self._last = generate(
      self._prepared,
      config=self._config,
      prompts=[prompt],
      policy=self._policy,
      max_new_tokens=self._settings.new_tokens,
      # No token is -1, so all texts are of one length.
      eos_ids=(-1,) * len(self._config.model.eos_ids),
    )
    on_run()
    return self._settings.clock(self._last).decode_s

  def keep(self, seconds: Sequence[float]) -> None:
    """Keep the times and the text of the prompt that was decoded last."""
    assert self._last is not None
    self.seconds.append(statistics.median(seconds))
    self.rows += self._last.rows


def _with_exits(
  prepared: Prepared, model: Model, candidate: Candidate
) -> tuple[Prepared, EarlyExitConfig]:
  """Return the model with the exits of a candidate; blocks are shared."""
  if candidate.source == TRAINED:
    chosen = [e for e in model.config.exits if e.depth in candidate.depths]
    return prepared, model.config.with_exits(tuple(chosen))
  config = natural_config(model.config.model, candidate.depths)
  norm = {'norm': prepared.final_norm}
  exits = {e.name: norm for e in config.exits}
  return dataclasses.replace(prepared, exits=exits, config=config), config


def natural_config(
  model: ModelConfig, depths: Sequence[int]
) -> EarlyExitConfig:
  """Return a model whose own final norm and head are read at some depths."""
  return EarlyExitConfig(
    model,
    tuple(
      ExitConfig(depth, ExitHeadKind.NORM, OutputMatrix.SHARED)
      for depth in depths
    ),
  )


def _speedup(full: _Run, ours: _Run, bootstrap: Bootstrap) -> Interval:
  """Return the ratio of total times, with its interval over prompts."""
  return ratio_interval(
    np.array(full.seconds), np.array(ours.seconds), bootstrap=bootstrap
  )


def _loss(
  model: Model, full: _Run, ours: _Run, settings: MeasurementSettings
) -> Interval:
  """Return the share of tokens that are not the full model's."""
  assert ours.candidate is not None
  counts = np.array([len(row.tokens) for row in ours.rows], float)
  if ours.candidate.promise is Promise.EXACT:
    lost = [
      _after_difference(a.tokens, b.tokens)
      for a, b in zip(ours.rows, full.rows, strict=True)
    ]
  else:
    choices = certify.full_choices(
      model.params,
      config=model.config.model,
      prompts=[row.prompt_tokens for row in ours.rows],
      continuations=[
        certify.Continuation(r.tokens, r.exit_depths) for r in ours.rows
      ],
      batch_size=len(ours.rows),
      dtype=settings.dtype,
    )
    lost = [
      sum(a != b for a, b in zip(row.tokens, chosen, strict=True))
      for row, chosen in zip(ours.rows, choices, strict=True)
    ]
  return ratio_interval(
    np.array(lost, float), counts, bootstrap=settings.bootstrap
  )


def _after_difference(ours: Sequence[int], full: Sequence[int]) -> int:
  """Return how many tokens follow from the first difference on."""
  place = first_difference(ours, full)
  return 0 if place is None else max(len(ours) - place, 1)
