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
"""Measure the models of a manifest on its texts, and compare groups of them.

A model's figures are means over the texts, each of which counts alike. Scores
relative to a reference divide by the reference's on the same texts. A group's
interval holds what other text of the same kind would change; it does not hold
which models happen to be in the group, so a comparison of groups of one or two
models says something of these models and little of their kind.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from eejax.analysis.manifest import ComparisonManifest, DataEntry, ModelEntry
from eejax.analysis.suitability.headroom import headroom
from eejax.analysis.suitability.score import (
  DEFAULT_SETTINGS,
  Score,
  ScoreSettings,
  eas_of_draws,
  relative,
  score,
)
from eejax.analysis.suitability.skip import (
  BUDGETS,
  DEFAULT_SWEEP,
  Quality,
  Skip,
  SweepSettings,
  skip_at,
  sweep,
)
from eejax.capture.captured import Captured
from eejax.errors import ArgumentError, EejaxError
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval, draw_rows
from eejax.types import Float

CaptureOf = Callable[[ModelEntry, DataEntry], Captured]
GROUPS = ('kind', 'tuning', 'size', 'family')


@dataclasses.dataclass(frozen=True)
class TextResult:
  """Figures of a model on one text.

  Attributes:
    data: name of the text.
    score: with the similarity at every depth.
    stable: SAT.
    agree: AGREE.
    skips: SKIP@e in agreement, then in accuracy, for every budget.
    draws: score of each drawing of rows.
  """

  data: str
  score: Score
  stable: Interval
  agree: Interval
  skips: tuple[Skip, ...]
  draws: Float[np.ndarray, 'draws'] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class ModelResult:
  """Figures of a model over all texts.

  Attributes:
    entry: the model and its facts.
    texts: on each of them that could be read.
    eas: mean of the scores; None where no text could be read.
    relative: over the reference's; None without one.
    stable: mean of SAT.
    failures: what went wrong, a sentence each.
  """

  entry: ModelEntry
  texts: tuple[TextResult, ...]
  eas: Interval | None
  relative: Interval | None
  stable: float | None
  failures: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class GroupResult:
  """Mean score of the models that share a fact.

  Attributes:
    fact: kind, tuning, size or family.
    value: of it.
    models: their names.
    eas: mean of their scores.
  """

  fact: str
  value: str
  models: tuple[str, ...]
  eas: Interval


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Figures of the models of a manifest, and of groups of them.

  Attributes:
    models: in its order.
    groups: by every fact that tells some of its models from others.
    reference: name of the reference, '' for none.
    settings: of the score, in words.
  """

  models: tuple[ModelResult, ...]
  groups: tuple[GroupResult, ...]
  reference: str
  settings: str

  @property
  def failures(self) -> tuple[str, ...]:
    """Return every sentence about what could not be measured."""
    return tuple(f for m in self.models for f in m.failures)


def compare(
  manifest: ComparisonManifest,
  capture_of: CaptureOf,
  *,
  settings: ScoreSettings = DEFAULT_SETTINGS,
  sweep_settings: SweepSettings = DEFAULT_SWEEP,
  budgets: Sequence[float] = BUDGETS,
  bootstrap: Bootstrap = DEFAULT,
  on_model: Callable[[ModelResult], None] = lambda _: None,
) -> Comparison:
  """Measure every model of a manifest on every text.

  Args:
    manifest: models and texts.
    capture_of: captures a text with a model. What it raises is noted, and the
      next one is taken.
    settings: of the score.
    sweep_settings: of the gates.
    budgets: e of SKIP@e.
    bootstrap: how intervals are made.
    on_model: is told each model's result once it is there, without what is
      relative to the reference.
  """
  measure = functools.partial(
    _measure,
    settings=settings,
    sweep_settings=sweep_settings,
    budgets=budgets,
    bootstrap=bootstrap,
  )
  results = []
  for entry in manifest.models:
    found, failures = [], []
    for data in manifest.data:
      try:
        found.append(measure(capture_of(entry, data), data.name))
      # Whatever breaks in one model must not take the others along.
      except Exception as error:
        failures.append(f'{entry.name} on {data.name}: {_sentence(error)}')
    results.append(_result(entry, found, failures, bootstrap))
    on_model(results[-1])
  results = _with_relative(results, manifest.reference)
  return Comparison(
    models=tuple(results),
    groups=tuple(_groups(results, bootstrap)),
    reference=manifest.reference,
    settings=settings.words(),
  )


def _measure(
  captured: Captured,
  name: str,
  *,
  settings: ScoreSettings,
  sweep_settings: SweepSettings,
  budgets: Sequence[float],
  bootstrap: Bootstrap,
) -> TextResult:
  found = score(captured, settings=settings, bootstrap=bootstrap)
  ceilings = headroom(captured, bootstrap=bootstrap)
  swept = sweep(captured, settings=sweep_settings)
  return TextResult(
    data=name,
    score=found,
    stable=ceilings.stable,
    agree=ceilings.agree,
    skips=tuple(
      skip_at(swept, e, quality=quality, bootstrap=bootstrap)
      for quality in Quality
      for e in budgets
    ),
    draws=eas_of_draws(captured, draw_rows(found.rows, bootstrap), settings),
  )


def _result(entry, found, failures, bootstrap: Bootstrap) -> ModelResult:
  eas = stable = None
  if len(found) == 1:
    eas = found[0].score.eas
  elif found:
    value = float(np.mean([t.score.eas.value for t in found]))
    eas = _around(value, np.mean([t.draws for t in found], axis=0), bootstrap)
  if found:
    stable = float(np.mean([t.stable.value for t in found]))
  return ModelResult(
    entry=entry,
    texts=tuple(found),
    eas=eas,
    relative=None,
    stable=stable,
    failures=tuple(failures),
  )


def _with_relative(
  results: Sequence[ModelResult], reference: str
) -> list[ModelResult]:
  base = next((r.eas for r in results if r.entry.name == reference), None)
  if base is None or base.value <= 0:
    return list(results)
  found = []
  for r in results:
    ratio = None if r.eas is None else relative(r.eas, base)
    if r.entry.name == reference:
      ratio = Interval(1.0, 1.0, 1.0)
    found.append(dataclasses.replace(r, relative=ratio))
  return found


def _groups(results: Sequence[ModelResult], bootstrap: Bootstrap):
  for fact in GROUPS:
    members: dict[str, list[ModelResult]] = {}
    for r in results:
      value = getattr(r.entry, fact)
      value = getattr(value, 'value', value)
      if value and r.eas is not None:
        members.setdefault(value, []).append(r)
    if len(members) < 2:
      continue
    for value, models in members.items():
      draws = np.mean(
        [np.mean([t.draws for t in m.texts], axis=0) for m in models], axis=0
      )
      mean = float(np.mean([m.eas.value for m in models if m.eas]))
      yield GroupResult(
        fact=fact,
        value=value,
        models=tuple(m.entry.name for m in models),
        eas=_around(mean, draws, bootstrap),
      )


def _around(value: float, draws, bootstrap: Bootstrap) -> Interval:
  tail = (1 - bootstrap.confidence) / 2
  low, high = np.quantile(draws, [tail, 1 - tail])
  return Interval(value, float(min(low, value)), float(max(high, value)))


def _sentence(error: Exception) -> str:
  words = ' '.join(str(error).split()) or type(error).__name__
  if not isinstance(error, (EejaxError, ArgumentError)):
    words = f'stopped by {type(error).__name__} ({words[:200]})'
  return words if words.endswith('.') else f'{words}.'
