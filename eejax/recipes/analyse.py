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
"""Analysis of a model on a text, and of several models beside one another.

A folder that an analysis keeps has the files of `eejax.recipes.analysis.result`
and

  captured/         the captured text, see `eejax.capture.file`
  models/           captures and results of the models that are compared
  stages/           finished sections, which a call that resumes skips
"""

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping

from eejax import storage
from eejax.analysis.manifest import ComparisonManifest
from eejax.analysis.sections import DEFAULTS, SectionSettings
from eejax.checkpoint.model import Model
from eejax.errors import ArgumentError
from eejax.parallel.mesh import MeshChoice, devices_of
from eejax.progress import SILENT, Progress
from eejax.recipes import stages
from eejax.recipes.analysis.captures import RowSettings
from eejax.recipes.analysis.models import ModelLike, as_manifest
from eejax.recipes.analysis.result import AnalysisResult
from eejax.recipes.analysis.run import SECTIONS, AnalysisRun
from eejax.recipes.text import Text


def analyse(
  model: ModelLike | Mapping[str, ModelLike],
  text: Text,
  *,
  sections: Collection[str] | None = None,
  leave_out: Collection[str] = (),
  folder: str | os.PathLike | None = None,
  manifest: ComparisonManifest | None = None,
  training_run: str | os.PathLike | None = None,
  shown_text: str | None = None,
  max_tokens: int = 16_000,
  sequence_length: int | None = None,
  batch_size: int = 4,
  dtype: str = 'float32',
  mesh: MeshChoice | None = None,
  settings: SectionSettings = DEFAULTS,
  command: str = '',
  progress: Progress = SILENT,
  clock: Callable[[], float] = time.monotonic,
) -> AnalysisResult:
  """Analyse a model on a text, or compare several models on it.

  A section that fails is named in the result; the others are computed.

  Args:
    model: the model, or what `eejax.load` loads one from. Several by name are
      compared, and nothing else is computed of them.
    text: what is read.
    sections: names out of `SECTIONS`; None computes all that apply.
    leave_out: names of sections that are not computed. `free_running` and
      `kv_damage` generate, which takes longest with a large model.
    folder: keeps everything. A call that was ended, or is repeated, skips what
      is there already; for another model, text or setting it is computed anew.
    manifest: models with their facts, and texts, that the section `comparison`
      compares.
    training_run: folder of a run whose kept steps the section `dynamics`
      compares.
    shown_text: string that the section `token_grid` shows; None takes the
      first row of the text.
    max_tokens: tokens read at most, spread over the text.
    sequence_length: tokens in a row; None is 256, or the model's context where
      that is shorter.
    batch_size: rows at a time.
    dtype: compute dtype, `float32` or `bfloat16`.
    mesh: the devices, as `eejax.generate` takes them; None is the default one.
    settings: how sections are computed.
    command: command that the page names as what made it.
    progress: is told of every stage.
    clock: in seconds.

  Returns:
    The sections, with a page, tables and a picture of them.

  Raises:
    EejaxError: nothing could be computed, a section is unknown, the mesh does
      not fit the model, or the folder holds something else or is in use.

  Example:
    >>> import eejax
    >>> result = eejax.analyse(
    ...   eejax.load('default'),
    ...   eejax.read_text('stdlib'),
    ...   sections=['suitability'],
    ...   max_tokens=512,
    ...   sequence_length=64,
    ... )
    >>> result.tables()['similarity'][0]['depth']
    0.0
  """
  models = dict(model) if isinstance(model, Mapping) else {}
  if isinstance(model, Mapping):
    manifest = as_manifest(models, text)
  applicable = {'comparison': manifest, 'dynamics': training_run}
  rows = RowSettings(max_tokens, sequence_length, batch_size, dtype)
  with _stage_folder(folder) as place:
    run = AnalysisRun(
      place,
      text=text,
      rows=rows,
      settings=settings,
      mesh=None if mesh is None else devices_of(mesh),
      names=[
        name
        for name in _chosen(sections, leave_out)
        if (applicable[name] if name in applicable else not models)
      ],
      progress=progress,
      clock=clock,
    )
    if not isinstance(model, Mapping):
      run.of_model(model, shown_text=shown_text)
    if manifest is not None:
      run.comparison(manifest, models)
    if training_run is not None:
      run.dynamics(training_run)
    values = run.values(_name_of(model), command)
  result = AnalysisResult(values, None if folder is None else place)
  if result.folder is not None:
    result.save(result.folder)
  return result


def _chosen(
  sections: Collection[str] | None, leave_out: Collection[str]
) -> list[str]:
  """Return the sections that are asked for, in their order.

  Raises:
    ArgumentError: there is no such section.
  """
  asked = SECTIONS if sections is None else sections
  for name in (*asked, *leave_out):
    if name not in SECTIONS:
      raise ArgumentError(
        f'there is no section {name!r} of an analysis; the sections are '
        f'{", ".join(SECTIONS)}.'
      )
  return [n for n in SECTIONS if n in asked and n not in leave_out]


@contextlib.contextmanager
def _stage_folder(
  folder: str | os.PathLike | None,
) -> Iterator[pathlib.Path]:
  if folder is None:
    with tempfile.TemporaryDirectory(prefix='eejax-analysis-') as temporary:
      yield pathlib.Path(temporary)
  else:
    with stages.claimed(folder) as claimed:
      yield claimed


def _name_of(model: ModelLike | Mapping[str, ModelLike]) -> str:
  """Return what the page calls a model."""
  if isinstance(model, Mapping):
    return ', '.join(model)
  if isinstance(model, Model):
    return f'a {model.config.model.family} model'
  # Paths of the machine are of no use to who reads the page. The model of a
  # run is named after the run.
  path = storage.absolute(model)
  if not storage.is_remote(path):
    path = path.resolve()
  return f'{path.parent.name}/model' if path.name == 'model' else path.name
