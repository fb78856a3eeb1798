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
"""Sections of one analysis, computed in turn and kept as they are done."""

import datetime
import functools
import json
import os
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from eejax import environment, serialization, storage
from eejax.analysis import sections as sections_lib
from eejax.analysis.manifest import ComparisonManifest
from eejax.analysis.natural.subwords import token_texts
from eejax.analysis.part_costs import model_cost
from eejax.analysis.sections import SectionSettings
from eejax.analysis.suitability.speculation import SpeculationCost
from eejax.capture import file as capture_file
from eejax.capture.captured import Captured, ReadoutKind
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.errors import EejaxError
from eejax.progress import Progress
from eejax.recipes import stages as stages_lib
from eejax.recipes.analysis import models as models_lib
from eejax.recipes.analysis.captures import (
  NATURAL_AND_EXITS,
  RowSettings,
  answer_prompts,
  capture_free_running,
  capture_string,
  capture_text,
)
from eejax.recipes.analysis.kv_damage import damage_by_strategy
from eejax.recipes.analysis.models import ModelLike, model_identity
from eejax.recipes.analysis.verdict import verdict_section
from eejax.recipes.text import Text
from eejax.report import analysis_tables
from eejax.version import __version__

# What each stage does, and about how many seconds it takes on two cores for
# the embedded default. All but `capture` are sections.
TITLES = {
  'capture': ('reading every depth', 25.0),
  'natural': ('natural exits', 12.0),
  'suitability': ('scores and ceilings', 4.0),
  'gates': ('gates over thresholds', 15.0),
  'confidence': ('calibration of confidence', 5.0),
  'verdict': ('verdict on this machine', 30.0),
  'speculation': ('self-speculation', 5.0),
  'sublayers': ('exits between attention and MLP', 3.0),
  'subwords': ('kinds of tokens', 6.0),
  'free_running': ('natural exits on generated text', 25.0),
  'kv_damage': ('damage of approximate keys and values', 60.0),
  'token_grid': ('tokens by depth', 3.0),
  'comparison': ('comparison of models', 60.0),
  'dynamics': ('steps of the training', 60.0),
}
SECTIONS = tuple(name for name in TITLES if name != 'capture')
# Sections that need a manifest or several models, and a training run.
OF_SEVERAL = ('comparison', 'dynamics')

Work = Callable[[], Any]


class AnalysisRun:
  """Sections and failures of one analysis, as they are computed."""

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    text: Text,
    rows: RowSettings,
    settings: SectionSettings,
    names: Collection[str],
    mesh: Mesh | None = None,
    progress: Progress,
    clock: Callable[[], float],
  ):
    """Begin with no section computed.

    Args:
      folder: of the capture and the stages.
      text: what is read.
      rows: how it is read.
      settings: how sections are computed.
      names: sections that are wanted, in their order.
      mesh: the devices; None is the default one.
      progress: is told of every stage.
      clock: in seconds.
    """
    self._folder, self._progress = folder, progress
    self._text, self._rows, self._settings = text, rows, settings
    self._names, self._mesh = names, mesh
    stage_names = [*names]
    if set(names) - set(OF_SEVERAL):
      stage_names = ['capture', *names]
    self._stages = stages_lib.Stages(
      folder,
      titles={name: TITLES[name] for name in stage_names},
      progress=progress,
      clock=clock,
    )
    self._sections: dict[str, Any] = {}
    self._failures: dict[str, str] = {}
    self._about: Mapping[str, Any] | None = None

  def of_model(self, model: ModelLike, *, shown_text: str | None) -> None:
    """Capture the text and compute the sections that read the capture."""
    if not set(self._names) - set(OF_SEVERAL):
      return
    opened = self._opener(model)
    try:
      captured = self._capture(model, opened)
    except EejaxError as error:
      self._fail('capture', error)
      return
    work = self._work(opened, captured, shown_text)
    for name in self._names:
      if name in work:
        inputs = [self._settings, shown_text if name == 'token_grid' else None]
        self._compute(name, work[name], inputs=inputs)

  def _opener(self, model: ModelLike) -> Callable[[], Model]:
    """Return the model on demand: a call that resumes may not need it."""

    @functools.cache
    def opened() -> Model:
      return models_lib.open_model(
        model,
        dtype=self._rows.dtype,
        mesh=self._mesh,
        progress=self._progress,
      )

    return opened

  def _capture(self, model: ModelLike, opened: Callable[[], Model]) -> Captured:
    """Return the captured text, from the folder if it is there."""
    kinds = [*NATURAL_AND_EXITS]
    if 'sublayers' in self._names:
      kinds.append(ReadoutKind.ATTENTION)
    path = self._folder / 'captured'
    self._about = self._stages.run(
      'capture',
      lambda: sections_lib.describe(
        capture_text(
          opened(),
          self._text,
          self._rows,
          kinds=_there(kinds, opened().config.model),
          path=path,
          progress=self._progress,
        )
      ),
      inputs=[
        # Another version may write another form.
        __version__,
        model_identity(model),
        self._text.fingerprint(),
        self._rows,
        kinds,
      ],
      products=('captured',),
    )
    return capture_file.read(path)

  def _work(
    self,
    opened: Callable[[], Model],
    captured: Captured,
    shown_text: str | None,
  ) -> dict[str, Work]:
    """Return what computes each section of one model, by name."""
    lib, settings, dtype = sections_lib, self._settings, self._rows.dtype
    progress = self._progress
    vocab_size = captured.facts.vocab_size
    work: dict[str, Work] = {
      name: functools.partial(section, captured, settings)
      for name, section in {
        'natural': lib.natural,
        'suitability': lib.suitability,
        'gates': lib.gates,
        'confidence': lib.confidence,
        'sublayers': lib.sublayers,
      }.items()
    }
    return work | {
      'verdict': lambda: verdict_section(
        opened(),
        captured,
        settings,
        dtype=dtype,
        prompts=self._answer_prompts(opened()),
        progress=progress,
      ),
      'speculation': lambda: lib.speculation(
        captured,
        settings,
        cost_of=_speculation_cost(
          opened().config, self._sections.get('verdict')
        ),
      ),
      'subwords': lambda: lib.subwords(
        captured, settings, texts=token_texts(opened().tokenizer, vocab_size)
      ),
      'free_running': lambda: lib.free_running(
        capture_free_running(
          opened(),
          captured,
          dtype=dtype,
          progress=progress,
          **self._answering(opened()),
        ),
        settings,
      ),
      'kv_damage': lambda: damage_by_strategy(
        opened(),
        captured,
        settings,
        dtype=dtype,
        prompts=self._prompt_list(opened()),
        progress=progress,
      ),
      'token_grid': lambda: _token_grid(opened(), captured, shown_text, dtype),
    }

  def _answer_prompts(self, model: Model) -> dict[int, list[int]] | None:
    """Return what comes before an answer of each row; None of other texts."""
    if not self._text.has_conversations:
      return None
    # Half of the context is left for the model's own answer.
    return answer_prompts(
      self._rows.batches(model, self._text),
      longest=model.config.model.max_length // 2,
    )

  def _prompt_list(self, model: Model) -> list[list[int]] | None:
    found = self._answer_prompts(model)
    return None if found is None else list(found.values())

  def _answering(self, model: Model) -> dict[str, Any]:
    """Return how the model's own answers are generated in conversations."""
    if not self._text.has_conversations:
      return {}
    return {
      'prompts': self._prompt_list(model),
      'eos_ids': model.answer_ends,
    }

  def comparison(
    self, manifest: ComparisonManifest, models: Mapping[str, ModelLike]
  ) -> None:
    """Compare models."""
    if 'comparison' not in self._names:
      return
    sources = {
      m.name: models.get(m.name, m.checkpoint) for m in manifest.models
    }
    self._compute(
      'comparison',
      lambda: models_lib.compare(
        manifest,
        models=models,
        folder=self._folder / 'models',
        rows=self._rows,
        settings=self._settings,
        mesh=self._mesh,
        progress=self._progress,
      ),
      inputs=[
        __version__,
        manifest,
        [model_identity(m) for m in sources.values()],
        [_fingerprint(data.path) for data in manifest.data],
        self._rows,
        self._settings,
      ],
    )

  def dynamics(self, training_run: str | os.PathLike) -> None:
    """Compare the steps of a training run."""
    if 'dynamics' not in self._names:
      return
    self._compute(
      'dynamics',
      lambda: models_lib.over_training(
        training_run,
        text=self._text,
        rows=self._rows,
        settings=self._settings,
        mesh=self._mesh,
        progress=self._progress,
      ),
      inputs=[
        __version__,
        model_identity(training_run),
        _fingerprint(self._text.source),
        self._text,
        self._rows,
        self._settings,
      ],
    )

  def _compute(self, name: str, work: Work, *, inputs: Any) -> None:
    """Compute a section, or note why it cannot be."""

    def waited_for() -> Any:
      with self._progress.waiting(TITLES[name][0]):
        return work()

    try:
      self._sections[name] = self._stages.run(name, waited_for, inputs=inputs)
    # Whatever breaks in one section must not take the others along.
    except Exception as error:
      self._fail(name, error)

  def _fail(self, name: str, error: Exception) -> None:
    sentence = ' '.join(str(error).split()) or type(error).__name__
    if not isinstance(error, EejaxError):
      sentence = f'stopped by {type(error).__name__} ({sentence[:300]}).'
    self._failures[name] = sentence
    self._progress.say(f'{name}: {sentence}')

  def values(self, name: str, command: str) -> dict[str, Any]:
    """Return everything as plain values.

    Raises:
      EejaxError: no section could be computed.
    """
    if not self._sections:
      raise EejaxError(
        next(iter(self._failures.values()), 'there is no section to compute.')
      )
    now = datetime.datetime.now(datetime.UTC)
    values = {
      'name': name,
      'data': str(self._text),
      'about': self._about,
      'sections': self._sections,
      'failures': self._failures,
      'commands': [command] if command else [],
      'version': __version__,
      'created': now.strftime('%Y-%m-%d %H:%M UTC'),
      'environment': environment.describe(),
      'stages': [
        {'name': name, 'seconds': seconds}
        for name, seconds in self._stages.seconds.items()
      ],
    }
    plain = json.loads(serialization.dumps(values))
    plain['tables'] = sorted(analysis_tables.tables(plain['sections']))
    return plain


def _fingerprint(source: str) -> Any:
  path = storage.as_path(source).expanduser()
  return stages_lib.fingerprint(path) if path.exists() else source


def _speculation_cost(
  config: EarlyExitConfig, verdict: Mapping[str, Any] | None
) -> Callable[[int], SpeculationCost]:
  """Return costs by drafts a round, as timed for a verdict, else by bytes."""
  if not verdict:
    cost = SpeculationCost(model_cost(config.with_exits(())).head_in_blocks)
    return lambda length: cost
  # Keys of an object of JSON are texts.
  windows = {int(n): max(w, 1.0) for n, w in verdict['windows'].items()}
  return lambda length: SpeculationCost(verdict['head'], windows[length])


def _token_grid(
  model: Model, captured: Captured, text: str | None, dtype: str
) -> dict[str, Any]:
  if text is not None:
    captured = capture_string(model, text, dtype=dtype)

  @functools.cache
  def piece_of(token: int, before: int | None) -> str:
    context = () if before is None else (before,)
    return model.tokenizer.pieces([token], context=context)[0]

  return sections_lib.token_grid(captured, piece_of=piece_of)


def _there(
  kinds: Sequence[ReadoutKind], model: ModelConfig
) -> list[ReadoutKind]:
  """Return the read-outs that a model has: none after attention alone."""
  lacks = () if model.has_mlp else (ReadoutKind.ATTENTION,)
  return [kind for kind in kinds if kind not in lacks]
