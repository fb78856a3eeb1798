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
"""gin's names for an analysis.

Importing this module registers them; only the command line does.
"""

import gin

from eejax.analysis.manifest import read_manifest
from eejax.analysis.sections import DEFAULTS, SectionSettings
from eejax.analysis.suitability.score import (
  DepthRange,
  ScoreSettings,
  Similarity,
)
from eejax.analysis.suitability.skip import SweepSettings
from eejax.capture.captured import ReadoutKind
from eejax.cli import output
from eejax.parallel.mesh import MeshChoice
from eejax.recipes import analyse as recipe
from eejax.recipes.analysis.result import AnalysisResult
from eejax.recipes.text import read_text
from eejax.stats.bootstrap import Bootstrap


def analyse(
  *,
  checkpoint: str,
  out: str = 'runs/analysis',
  data: str = 'stdlib',
  split: str | None = None,
  unit: str = 'file',
  max_tokens: int = 16_000,
  sequence_length: int | None = None,
  batch_size: int = 4,
  sections: str | None = None,
  leave_out: str = '',
  settings: SectionSettings = DEFAULTS,
  manifest: str | None = None,
  training_run: str | None = None,
  shown_text: str | None = None,
  dtype: str = 'float32',
  mesh: MeshChoice | None = None,
) -> AnalysisResult:
  """Call the recipe `eejax.recipes.analyse` with what gin files can say."""
  flag = '--conversations' if unit == 'conversation' else '--data'
  return recipe.analyse(
    checkpoint,
    read_text(data, split=split, unit=unit),
    sections=None if sections is None else _names(sections),
    leave_out=_names(leave_out),
    folder=out,
    manifest=None if manifest is None else read_manifest(manifest),
    training_run=training_run,
    shown_text=shown_text,
    max_tokens=max_tokens,
    sequence_length=sequence_length,
    batch_size=batch_size,
    dtype=dtype,
    mesh=mesh,
    settings=settings,
    command=(
      f'eejax analyse {checkpoint} {flag} {data} --max-tokens {max_tokens} '
      f'--out {out}'
    ),
    progress=output.reporter(),
  )


def _names(text: str) -> list[str]:
  return [name.strip() for name in text.split(',') if name.strip()]


OWN = (Bootstrap, ScoreSettings, SectionSettings, SweepSettings, analyse)
ENUMS = (DepthRange, ReadoutKind, Similarity)


def _register() -> None:
  # Another verb may have run in this process, and locked what it ended with.
  with gin.unlock_config():
    for configurable in OWN:
      gin.external_configurable(configurable, module='eejax')
    for kind in ENUMS:
      gin.constants_from_enum(kind, module='eejax')


_register()
