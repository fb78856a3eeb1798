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
"""Several models on the same texts, and one model over its training."""

import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from eejax import serialization, storage
from eejax.analysis import comparison
from eejax.analysis import dynamics as dynamics_lib
from eejax.analysis.comparison import Comparison, ModelResult
from eejax.analysis.manifest import ComparisonManifest, DataEntry, ModelEntry
from eejax.analysis.sections import SectionSettings
from eejax.capture.captured import Captured
from eejax.checkpoint import run_steps, tree
from eejax.checkpoint.load import load
from eejax.checkpoint.model import Model
from eejax.config import config_json
from eejax.decoding.policy.bindings import exit_hashes
from eejax.errors import ArgumentError
from eejax.progress import SILENT, Progress
from eejax.recipes import stages
from eejax.recipes.analysis.captures import RowSettings, capture_text
from eejax.recipes.devices import on_mesh
from eejax.recipes.text import Text, read_text

# A model, or what `eejax.load` loads one from.
ModelLike = Model | str | os.PathLike


def model_identity(model: ModelLike) -> list[Any]:
  """Return plain values that differ between any two models.

  Of a model in memory these are its configuration, hashes of its parameters
  and its tokenizer; of a folder the names, sizes and times of change of its
  files, so that a run that resumes need not read them.
  """
  if not isinstance(model, Model):
    path = storage.as_path(model)
    return stages.fingerprint(path) if path.exists() else [str(path)]
  has_tokenizer = model.tokenizer_folder is not None
  return [
    config_json.to_json(model.config),
    tree.backbone_hash(model.params),
    exit_hashes(model.params, model.config),
    model.tokenizer.fingerprint if has_tokenizer else None,
  ]


def open_model(
  model: ModelLike,
  *,
  dtype: str,
  mesh: Mesh | None = None,
  progress: Progress = SILENT,
) -> Model:
  """Return a model, loaded if need be, on its devices.

  Args:
    model: in memory, or what `eejax.load` loads one from.
    dtype: of one that is loaded.
    mesh: the devices; None is the default one.
    progress: is told while files are read.
  """
  if not isinstance(model, Model):
    model = load(model, dtype=dtype, mesh=mesh, progress=progress)
  return on_mesh(model, mesh)


def as_manifest(
  models: Mapping[str, ModelLike], text: Text
) -> ComparisonManifest:
  """Return a manifest of models by name and one text.

  Raises:
    ArgumentError: there is no model.
  """
  if not models:
    raise ArgumentError('there is no model to analyse; name at least one.')
  data = DataEntry(
    name=storage.local_path(text.source).name,
    path=text.source,
    split=text.part.value,
    unit=text.unit.value,
    field=text.field,
  )
  entries = tuple(
    ModelEntry(name, '' if isinstance(model, Model) else os.fspath(model))
    for name, model in models.items()
  )
  return ComparisonManifest(entries, (data,))


def compare(
  manifest: ComparisonManifest,
  *,
  models: Mapping[str, ModelLike],
  folder: pathlib.Path,
  rows: RowSettings,
  settings: SectionSettings,
  mesh: Mesh | None = None,
  progress: Progress = SILENT,
) -> Comparison:
  """Measure the models of a manifest on its texts.

  Captures and results are written into a folder as they are made. What cannot
  be measured is named in the result; the rest is.

  Args:
    manifest: models, their facts, and texts.
    models: in memory or to be loaded, by name; of those it lacks the
      manifest's `checkpoint` is loaded.
    folder: of the captures and results.
    rows: how texts are read.
    settings: how sections are computed.
    mesh: the devices; None is the default one.
    progress: is told of every model and text.
  """

  # One model at a time stands in memory.
  @functools.lru_cache(maxsize=1)
  def opened(name: str, checkpoint: str) -> Model:
    model = models.get(name, checkpoint)
    return open_model(model, dtype=rows.dtype, mesh=mesh, progress=progress)

  def capture_of(entry: ModelEntry, data: DataEntry) -> Captured:
    model = opened(entry.name, entry.checkpoint)
    text = read_text(
      data.path, split=data.split, unit=data.unit, field=data.field
    )
    source = models.get(entry.name, entry.checkpoint)
    # Another model or text of that name must not be taken for this one.
    stamp = serialization.dumps(
      [model_identity(source), text.fingerprint(), rows]
    )
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    return capture_text(
      model,
      text,
      rows,
      path=folder / _file_name(f'{entry.name}-{data.name}-{digest}'),
      progress=progress,
      title=f'{entry.name} on {data.name}',
    )

  return comparison.compare(
    manifest,
    capture_of,
    settings=settings.score,
    sweep_settings=settings.sweep,
    budgets=settings.budgets,
    bootstrap=settings.bootstrap,
    on_model=_writer(folder, progress),
  )


def _writer(
  folder: pathlib.Path, progress: Progress
) -> Callable[[ModelResult], None]:
  def write(result: ModelResult) -> None:
    for failure in result.failures:
      progress.say(failure)
    path = folder / f'{_file_name(result.entry.name)}.json'
    serialization.write_json(path, result, indent=1)

  return write


def over_training(
  run: str | os.PathLike,
  *,
  text: Text,
  rows: RowSettings,
  settings: SectionSettings,
  mesh: Mesh | None = None,
  progress: Progress = SILENT,
) -> dict[str, Any]:
  """Return how suited a model is at every kept step of its training.

  Args:
    run: folder of a training run that has ended.
    text: what every step reads.
    rows: how it is read.
    settings: how sections are computed.
    mesh: the devices; None is the default one.
    progress: is told each step.

  Raises:
    EejaxError: the run keeps no steps or the text cannot be read.
  """
  model, steps = dynamics_lib.open_run(run)
  batches = rows.batches(model, text)
  total = len(run_steps.list_steps(run))
  result = dynamics_lib.dynamics(
    progress.track(steps, 'reading steps', total=total, unit='step'),
    batches,
    config=model.config,
    settings=settings.score,
    dtype=rows.dtype,
    mesh=mesh,
    bootstrap=settings.bootstrap,
  )
  return {'steps': result.steps, 'saved_change': result.saved_change}


def _file_name(name: str) -> str:
  return re.sub(r'[^\w.-]+', '_', name).strip('.') or 'model'
