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
"""How the suitability of a model changes over its training.

Every kept step of a run is read over the same text, so steps are compared
token by token: S_l(step) as a heat map, the score and the ceilings as curves,
all with intervals over rows.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from eejax import storage
from eejax.analysis.natural.depths import stable_depth
from eejax.analysis.suitability.headroom import Headroom, headroom
from eejax.analysis.suitability.score import (
  DEFAULT_SETTINGS,
  Score,
  ScoreSettings,
  score,
)
from eejax.capture.capture import capture
from eejax.capture.captured import Captured, ReadoutKind
from eejax.capture.settings import CaptureConfig
from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import run_steps
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.errors import ArgumentError
from eejax.parallel import sharding
from eejax.stats.bootstrap import (
  DEFAULT,
  Bootstrap,
  Interval,
  difference_interval,
)
from eejax.types import Float, Params

# What scores and ceilings need of a capture.
FIELDS = ('top_tokens', 'loss', 'logit_cosine', 'hidden_cosine', 'js_final')


@dataclasses.dataclass(frozen=True)
class StepSuitability:
  """Suitability for early exit at one step of a training.

  Attributes:
    step: optimizer steps taken.
    score: with S_l of every depth.
    headroom: the ceilings.
    loss: of the full model, nats a token, mean.
    skipped: blocks an oracle could skip over all blocks, summed over each
      row; differences between steps are paired by it.
    counts: tokens of each row.
  """

  step: int
  score: Score
  headroom: Headroom
  loss: float
  skipped: Float[np.ndarray, 'rows'] = dataclasses.field(repr=False)
  counts: Float[np.ndarray, 'rows'] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Dynamics:
  """Suitability at the steps of a run, oldest first.

  Attributes:
    steps: what each was.
    saved_change: share of blocks an oracle can skip at the last step less
      that at the first, paired by tokens; None with one step.
  """

  steps: tuple[StepSuitability, ...]
  saved_change: Interval | None

  @property
  def depths(self) -> tuple[float, ...]:
    """Return the depths that were read."""
    return self.steps[0].score.depths

  def heat_map(self) -> list[list[float]]:
    """Return S_l, a list of depths for each step."""
    return [[s.value for s in step.score.similarity] for step in self.steps]


def dynamics(
  steps: Iterable[tuple[int, Params]],
  batches: Sequence[Batch],
  *,
  config: EarlyExitConfig,
  settings: ScoreSettings = DEFAULT_SETTINGS,
  dtype: str = 'float32',
  mesh: Mesh | None = None,
  bootstrap: Bootstrap = DEFAULT,
) -> Dynamics:
  """Read every step of a run over the same text.

  Args:
    steps: step number and parameters; one set of parameters stands in memory
      at a time.
    batches: the text, the same for all.
    config: the model; exits are not looked at.
    settings: of the score.
    dtype: compute dtype.
    mesh: the devices; None is the default one.
    bootstrap: how intervals are made.

  Raises:
    ArgumentError: there is no step or no text.
    EejaxError: a step returns numbers that are not finite.
  """
  backbone = config.with_exits(())
  how = CaptureConfig(kinds=(ReadoutKind.NATURAL,), fields=FIELDS, dtype=dtype)
  results = []
  for step, params in steps:
    read = {'backbone': params['backbone'], 'exits': {}}
    where = None if mesh is None else sharding.shardings(read, mesh=mesh)
    captured = capture(
      jax.device_put(read, where),
      batches,
      config=backbone,
      settings=how,
    )
    results.append(_one(step, captured, settings, bootstrap))
  if not results:
    raise ArgumentError('there is no step to read.')
  change = None
  if len(results) > 1:
    change = difference_interval(
      results[-1].skipped,
      results[0].skipped,
      results[0].counts,
      bootstrap=bootstrap,
    )
  return Dynamics(tuple(results), change)


def _one(
  step: int,
  captured: Captured,
  settings: ScoreSettings,
  bootstrap: Bootstrap,
) -> StepSuitability:
  depths = captured.facts.depths
  saved = 1 - depths[stable_depth(captured.top1)] / captured.num_layers
  skipped, counts = captured.by_row(saved)
  loss = np.average(captured.loss[-1], weights=captured.weight)
  return StepSuitability(
    step=step,
    score=score(captured, settings=settings, bootstrap=bootstrap),
    headroom=headroom(captured, bootstrap=bootstrap),
    loss=float(loss),
    skipped=skipped,
    counts=counts,
  )


def open_run(
  run: str | os.PathLike,
) -> tuple[Model, Iterator[tuple[int, Params]]]:
  """Return the model that a run made, and its steps.

  Raises:
    ArgumentError: it keeps no steps, has not ended, or trained exits alone.
    CheckpointError: a step cannot be read.
  """
  path = storage.as_path(run)
  run_steps.list_steps(path)
  if not (path / 'model').is_dir():
    raise ArgumentError(
      f'{path} has no model yet, so the run has not ended; let it end first.'
    )
  model = checkpoint_folder.load(path / 'model')
  steps = run_steps.read_steps(path)
  return model, _with_backbone(steps, path)


def _with_backbone(steps, path) -> Iterator[tuple[int, Params]]:
  for step, params in steps:
    if 'backbone' not in params:
      raise ArgumentError(
        f'{path} trained exits alone; its backbone stayed as it was, so there '
        'is nothing to compare between its steps.'
      )
    yield step, params
