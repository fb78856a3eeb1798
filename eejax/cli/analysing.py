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
"""Analyse a model stage by stage, and write what was found.

analysis.json     everything, plain values; the page can be made again from it
report.html       the page, one file
tables/*.csv      every table of it
captured/         the captured text, see `eejax.capture.file`
models/           captured texts of a manifest's models
stages/           what is done, so that a run that was ended goes on

A stage that fails is named in the report, and the others go on.
"""

import datetime
import functools
import json
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from eejax import environment, serialization
from eejax.analysis import sections as sections_lib
from eejax.analysis.sections import DEFAULTS, SectionSettings
from eejax.cli import (
  analysing_keys,
  analysing_models,
  analysing_verdict,
  measuring,
  output,
)
from eejax.cli.analysing_capture import (
  Generates,
  Reads,
  capture_own_text,
  capture_text,
  capture_words,
)
from eejax.cli.measuring import Text
from eejax.errors import EejaxError
from eejax.recipes import stages as stages_lib
from eejax.version import __version__

if TYPE_CHECKING:
  from eejax.capture.captured import Captured
  from eejax.checkpoint.model import Model

USUAL_TEXT = Text(max_tokens=16_000)
# What is done, and about how many seconds it takes on two cores for the
# embedded default.
TITLES = {
  'capture': ('reading every depth', 25.0),
  'natural': ('what every depth says', 12.0),
  'suitability': ('scores and ceilings', 4.0),
  'gates': ('gates over thresholds', 15.0),
  'confidence': ('calibration of confidence', 5.0),
  'verdict': ('will it pay on this machine', 30.0),
  'drafting': ('self-speculation', 5.0),
  'sublayers': ('exits inside blocks', 3.0),
  'words': ('kinds of tokens', 6.0),
  'own_text': ('text that it writes itself', 25.0),
  'keys': ('stand-ins for keys and values', 60.0),
  'grid': ('tokens by depth', 3.0),
}
_GENERATING = ('own_text', 'keys')
_OPTIONAL = {
  'comparison': ('models of the manifest', 60.0),
  'dynamics': ('steps of the training', 60.0),
}


def analyse(
  *,
  checkpoint: str,
  out: str = 'runs/analysis',
  text: Text = USUAL_TEXT,
  settings: SectionSettings = DEFAULTS,
  manifest: str | None = None,
  training_run: str | None = None,
  shown_text: str | None = None,
  reads: Reads = Reads.ATTENTION,
  generates: Generates = Generates.TEXTS,
  dtype: str = 'float32',
) -> dict[str, Any]:
  """Analyse a model and write the report.

  Args:
    checkpoint: an eejax checkpoint or a Hugging Face folder.
    out: folder of the report; an earlier analysis there goes on.
    text: what is read.
    settings: how the sections are computed.
    manifest: models and texts to compare, if any.
    training_run: a run folder whose steps are compared, if any.
    shown_text: what the map of tokens by depth shows; None takes the first
      row of the text.
    reads: where the model is read.
    generates: whether it generates, too.
    dtype: compute dtype.

  Raises:
    EejaxError: nothing at all could be read.
  """
  compared = None
  if manifest is not None:
    # Before anything is begun: a manifest that says nothing is a mistake.
    from eejax.analysis.manifest import read_manifest

    compared = read_manifest(manifest)
  optional = {'comparison': manifest, 'dynamics': training_run}
  titles = {
    name: title
    for name, title in TITLES.items()
    if generates is Generates.TEXTS or name not in _GENERATING
  }
  titles |= {k: v for k, v in _OPTIONAL.items() if optional[k]}
  with stages_lib.claimed(out) as folder:
    work = _Work(folder, titles, settings, text, dtype)
    work.of_model(checkpoint, reads, generates, shown_text)
    if compared is not None:
      work.try_stage(
        'comparison',
        functools.partial(
          analysing_models.compare,
          compared,
          folder=folder / 'models',
          text=text,
          settings=settings,
          dtype=dtype,
        ),
        inputs=[
          stages_lib.fingerprint(manifest or ''),
          [stages_lib.fingerprint(m.checkpoint) for m in compared.models],
          text,
          settings,
          dtype,
        ],
      )
    if training_run is not None:
      work.try_stage(
        'dynamics',
        functools.partial(
          analysing_models.over_training,
          training_run,
          text=text,
          settings=settings,
          dtype=dtype,
        ),
        inputs=[stages_lib.fingerprint(training_run), text, settings, dtype],
      )
    return work.finish(checkpoint)


class _Work:
  """Carry what was found, and what failed, from stage to stage."""

  def __init__(self, folder, titles, settings, text: Text, dtype: str):
    self.folder: pathlib.Path = folder
    self.settings: SectionSettings = settings
    self.text = text
    self.dtype = dtype
    self.stages = stages_lib.Stages(
      folder, titles=titles, progress=output.reporter()
    )
    self.sections: dict[str, Any] = {}
    self.failures: dict[str, str] = {}
    self.about: dict[str, Any] | None = None

  def try_stage(
    self, name: str, work: Callable[[], Any], *, inputs: Any = None
  ) -> None:
    """Run a stage and note what it found or why it failed."""
    try:
      self.sections[name] = self.stages.run(name, work, inputs=inputs)
    # Whatever breaks in one section must not take the others along.
    except Exception as error:
      self.fail(name, error)

  def fail(self, name: str, error: Exception) -> None:
    """Note that a stage failed; say it at once."""
    words = ' '.join(str(error).split()) or type(error).__name__
    if not isinstance(error, EejaxError):
      words = f'stopped by {type(error).__name__} ({words[:300]}).'
    self.failures[name] = words
    output.say(f'{name}: {self.failures[name]}')

  def of_model(
    self,
    checkpoint: str,
    reads: Reads,
    generates: Generates,
    shown_text: str | None,
  ) -> None:
    """Capture the text and run every section on it."""
    try:
      self._of_model(checkpoint, reads, generates, shown_text)
    except EejaxError as error:
      self.fail('capture', error)

  def _of_model(
    self,
    checkpoint: str,
    reads: Reads,
    generates: Generates,
    shown_text: str | None,
  ) -> None:
    from eejax.capture import file

    model = _Opened(checkpoint, self.dtype)
    path = self.folder / 'captured'
    self.about = self.stages.run(
      'capture',
      lambda: sections_lib.describe(
        capture_text(model(), self.text, reads, path=path, dtype=self.dtype)
      ),
      inputs=[
        # What another version found may be of another form.
        __version__,
        stages_lib.fingerprint(checkpoint),
        _fingerprint_of_text(self.text.data),
        self.text,
        reads,
        self.dtype,
      ],
      products=('captured',),
    )
    captured = file.read(path)
    for name, section in self._sections(model).items():
      work = functools.partial(
        _waited_for, name, section, captured, self.settings
      )
      self.try_stage(name, work, inputs=self.settings)
    if generates is Generates.TEXTS:
      self._generating(model, captured)
    self.try_stage(
      'grid',
      lambda: _grid(model(), captured, shown_text, self.dtype),
      inputs=shown_text,
    )

  def _sections(self, model: '_Opened') -> dict[str, Callable[..., Any]]:
    """Return what is run on the captured text, by name."""
    from eejax.analysis.natural.subwords import token_texts

    def verdict(captured, settings):
      return analysing_verdict.judged(
        model(), captured, settings, dtype=self.dtype
      )

    def drafting(captured, settings):
      cost_of = analysing_verdict.cost_of(
        model().config, self.sections.get('verdict')
      )
      return sections_lib.drafting(captured, settings, cost_of=cost_of)

    def words(captured, settings):
      texts = token_texts(
        measuring.open_tokenizer(model()), captured.facts.vocab_size
      )
      return sections_lib.words(captured, settings, texts=texts)

    return {
      'natural': sections_lib.natural,
      'suitability': sections_lib.suitability,
      'gates': sections_lib.gates,
      'confidence': sections_lib.confidence,
      'verdict': verdict,
      'drafting': drafting,
      'sublayers': sections_lib.sublayers,
      'words': words,
    }

  def _generating(self, model: '_Opened', captured: 'Captured') -> None:
    """Run the stages in which the model generates."""
    self.try_stage(
      'own_text',
      lambda: sections_lib.own_text(
        capture_own_text(model(), captured, dtype=self.dtype), self.settings
      ),
      inputs=self.settings,
    )
    self.try_stage(
      'keys',
      lambda: analysing_keys.key_damage(
        model(), captured, self.settings, dtype=self.dtype
      ),
      inputs=self.settings,
    )

  def finish(self, checkpoint: str) -> dict[str, Any]:
    """Write everything and return what `--json` prints."""
    from eejax.report.analysis_verdict import verdict

    if not self.sections:
      raise EejaxError(next(iter(self.failures.values())))
    values = self._values(checkpoint)
    report = _write(self.folder, values)
    found = verdict(self.sections)
    with_model = self.about is not None
    return {
      'checkpoint': checkpoint,
      'out': str(self.folder),
      'report': str(report),
      'verdict': found.kind if with_model else None,
      'headline': found.headline
      if with_model
      else f'{checkpoint} could not be read.',
      'reasons': found.reasons if with_model else (),
      'failures': self.failures,
      'tables': values['tables'],
      'seconds': sum(self.stages.seconds.values()),
    }

  def _values(self, checkpoint: str) -> dict[str, Any]:
    from eejax.report.analysis_tables import tables

    now = datetime.datetime.now(datetime.UTC)
    # Paths of the machine are of no use to who reads the page.
    path = pathlib.Path(checkpoint).resolve()
    # That of a run is called like any other's.
    name = f'{path.parent.name}/model' if path.name == 'model' else path.name
    return {
      'name': name,
      'data': self.text.data,
      'about': self.about,
      'sections': self.sections,
      'failures': self.failures,
      'commands': [
        f'eejax analyse {checkpoint} --data {self.text.data} '
        f'--max-tokens {self.text.max_tokens} --out {self.folder}'
      ],
      'tables': sorted(tables(self.sections)),
      'version': __version__,
      'created': now.strftime('%Y-%m-%d %H:%M UTC'),
      'environment': environment.describe(),
      'stages': [
        {'name': name, 'seconds': seconds}
        for name, seconds in self.stages.seconds.items()
      ],
    }


class _Opened:
  """Open a model when it is first needed, for a run that goes on may not."""

  def __init__(self, checkpoint: str, dtype: str):
    self._open = functools.cache(
      lambda: measuring.open_model(checkpoint, dtype=dtype)
    )

  def __call__(self) -> 'Model':
    return self._open()


def _waited_for(name: str, section, captured: 'Captured', settings) -> Any:
  if name == 'verdict':  # which tells itself what takes long
    return section(captured, settings)
  with output.waiting(TITLES[name][0]):
    return section(captured, settings)


def _grid(
  model: 'Model', captured: 'Captured', text: str | None, dtype: str
) -> dict[str, Any]:
  tokenizer = measuring.open_tokenizer(model)
  if text is not None:
    captured = capture_words(model, tokenizer, text, dtype)

  @functools.cache
  def piece_of(token: int, before: int | None) -> str:
    context = () if before is None else (before,)
    return tokenizer.pieces([token], context=context)[0]

  return sections_lib.grid(captured, piece_of=piece_of)


def _fingerprint_of_text(data: str) -> Any:
  path = pathlib.Path(data).expanduser()
  return stages_lib.fingerprint(path) if path.exists() else data


def _write(folder: pathlib.Path, values: dict[str, Any]) -> pathlib.Path:
  """Write the values, the page and the tables, each whole or not at all."""
  from eejax.report.analysis_page import render
  from eejax.report.analysis_tables import as_csv, tables

  plain = json.loads(serialization.dumps(values))
  serialization.write_text(
    folder / 'analysis.json', serialization.dumps(plain, indent=1) + '\n'
  )
  for name, rows in tables(plain['sections']).items():
    serialization.write_text(folder / 'tables' / f'{name}.csv', as_csv(rows))
  report = folder / 'report.html'
  serialization.write_text(report, render(plain))
  return report
