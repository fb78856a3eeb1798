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
"""Read texts with the models of a manifest, and with the steps of a run."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from typing import TYPE_CHECKING, Any

from eejax import serialization
from eejax.analysis.manifest import DataEntry, Manifest, ModelEntry
from eejax.analysis.sections import SectionSettings
from eejax.cli import measuring, output
from eejax.cli.analysing_capture import Reads, capture_text, check_length
from eejax.cli.measuring import Text
from eejax.recipes import stages

if TYPE_CHECKING:
  from eejax.analysis.comparison import Comparison, ModelResult
  from eejax.capture.captured import Captured
  from eejax.checkpoint.model import Model


def compare(
  manifest: Manifest,
  *,
  folder: pathlib.Path,
  text: Text,
  settings: SectionSettings,
  dtype: str,
) -> 'Comparison':
  """Measure the models of a manifest; each result is kept once it is there."""
  from eejax.analysis import comparison

  opened = functools.lru_cache(maxsize=1)(
    functools.partial(measuring.open_model, dtype=dtype)
  )

  def capture_of(model: ModelEntry, data: DataEntry) -> 'Captured':
    return _capture(opened(model.checkpoint), model, data, folder, text, dtype)

  def keep(result: 'ModelResult') -> None:
    for failure in result.failures:
      output.say(failure)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{_file_name(result.entry.name)}.json'
    path.write_text(
      serialization.dumps(result, indent=1) + '\n', encoding='utf-8'
    )

  return comparison.compare(
    manifest,
    capture_of,
    settings=settings.score,
    sweep_settings=settings.sweep,
    budgets=settings.budgets,
    bootstrap=settings.bootstrap,
    on_model=keep,
  )


def _capture(
  model: 'Model',
  entry: ModelEntry,
  data: DataEntry,
  folder: pathlib.Path,
  text: Text,
  dtype: str,
) -> 'Captured':
  chosen = dataclasses.replace(
    text, data=data.path, split=data.split, unit=data.unit
  )
  # Another model or text of that name must not be taken for this one.
  stamp = json.dumps(
    serialization.plain([stages.fingerprint(entry.checkpoint), chosen, dtype])
  )
  digest = hashlib.sha256(stamp.encode()).hexdigest()[:12]
  name = f'{_file_name(entry.name)}-{_file_name(data.name)}-{digest}'
  return capture_text(
    model,
    chosen,
    Reads.BLOCKS,
    path=folder / name,
    dtype=dtype,
    name=f'{entry.name} on {data.name}',
  )


def over_training(
  run: str, *, text: Text, settings: SectionSettings, dtype: str
) -> dict[str, Any]:
  """Read the steps of a run over a text, with progress."""
  from eejax.analysis import dynamics
  from eejax.checkpoint import run_steps
  from eejax.data.batch import Packing

  model, steps = dynamics.open_run(run)
  measuring.check_has_tokenizer(pathlib.Path(run) / 'model', model)
  batches = measuring.read_text(model, text, packing=Packing.ONE_PER_ROW)
  check_length(batches, text, model)
  total = len(run_steps.list_steps(run))
  found = dynamics.dynamics(
    output.track(steps, 'reading steps', total=total, unit='step'),
    batches,
    config=model.config,
    settings=settings.score,
    dtype=dtype,
    bootstrap=settings.bootstrap,
  )
  return {'steps': found.steps, 'saved_change': found.saved_change}


def _file_name(name: str) -> str:
  return re.sub(r'[^\w.-]+', '_', name).strip('.') or 'model'
