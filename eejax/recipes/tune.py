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
"""Tuning of exits: the backbone stays as it is, byte for byte."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from eejax.checkpoint.model import Model
from eejax.data.data_config import DataConfig
from eejax.errors import ArgumentError
from eejax.parallel import multihost
from eejax.progress import SILENT, Progress
from eejax.recipes import run_result, training_runs, tuning_cache
from eejax.recipes.run_result import RunResult
from eejax.recipes.step_cost import step_cost
from eejax.recipes.text import Text
from eejax.recipes.training_runs import RunSettings
from eejax.recipes.tuning_cache import CacheSettings
from eejax.recipes.tuning_source import (
  BackboneLayout,
  FrozenBackbone,
  TuningSource,
  open_source,
)
from eejax.training import open_run, run_folder
from eejax.training.freeze import Regime
from eejax.training.loop_config import LoopConfig
from eejax.training.objective import Objective
from eejax.training.open_run import MeshChoice, OpenRun
from eejax.training.optimizers import Configured
from eejax.training.step import StepConfig
from eejax.training.weight_schedules import ExitWeights


@dataclasses.dataclass(frozen=True)
class TuneResult(RunResult):
  """Tuned exits; see `RunResult`."""

  title = 'Tuned exits'


def tune(
  model: Model | str | os.PathLike,
  text: Text | DataConfig | str | os.PathLike,
  *,
  folder: str | os.PathLike,
  steps: int = 500,
  learning_rate: float | Configured = 1e-3,
  warmup_steps: int = 20,
  weight_decay: float = 0.01,
  batch_size: int = 8,
  sequence_length: int | None = None,
  exit_weights: float | Sequence[float] = 1.0,
  distillation: float = 0.0,
  temperature: float = 1.0,
  dtype: str = 'float32',
  microbatches: int = 1,
  seed: int = 0,
  held_out_batches: int | None = None,
  mesh: MeshChoice = None,
  backbone: FrozenBackbone = FrozenBackbone.COMPUTE,
  objective: Objective | None = None,
  optimizer: Configured | None = None,
  loop: LoopConfig | None = None,
  step: StepConfig | None = None,
  cache: CacheSettings | None = None,
  attachments: Mapping[str, str] | None = None,
  progress: Progress = SILENT,
) -> TuneResult:
  """Train the exits of a model; its backbone is not touched.

  A run that was stopped is continued by the same call, with the same numbers;
  a call with other settings is refused the folder.

  Args:
    model: with exits, in memory or an eejax checkpoint, of which no more is
      read than is needed.
    text: its train part is trained on, its validation part measured. A
      DataConfig says batch and sequence length itself.
    folder: of the run: metrics, checkpoints to go on from, and the result as
      the checkpoint `model`.
    steps: optimizer steps in all.
    learning_rate: peak of a warm-up and a cosine down to a tenth, or any
      schedule of optax that is `configured`.
    warmup_steps: until the peak.
    weight_decay: of the matrices of the exits.
    batch_size: sequences a step.
    sequence_length: tokens a sequence; None is 256, or the model's context
      where that is shorter.
    exit_weights: one number, or one for each exit, shallowest first; exits do
      not influence one another, so this only scales their gradients.
    distillation: share of the loss that imitates the final head, 0 to 1;
      above 0 the whole backbone is run.
    temperature: of the distillation, above 0.
    dtype: of what is computed, `float32` or `bfloat16`.
    microbatches: parts that a batch is cut into, one after the other.
    seed: of everything random.
    held_out_batches: that are measured; None is 16, or what the text has.
    mesh: the devices: a MeshConfig, `data=2,model=4`, or a name in
      `configs/meshes`. None takes the default device, and of several
      processes all.
    backbone: how the frozen backbone is kept while exits learn.
    objective: in place of `exit_weights`, `distillation`, `temperature`.
    optimizer: `configured`, in place of AdamW with `weight_decay`; it is
      given the learning rate.
    loop: in place of `steps`: length and cadence.
    step: in place of `dtype`, `microbatches`.
    cache: a folder for what exits read of the backbone: recorded if it is not
      there, and read in place of running the backbone. Variants of exits at
      the same depths share it.
    attachments: texts to be kept in the folder, by file name.
    progress: is told how far the run is.

  Returns:
    The run; its `model` is ready to decode.

  Raises:
    ArgumentError: the model has no exits or no tokenizer, a setting does not
      fit it, or the folder is another run's; one sentence names what differs.
    EejaxError: the run was interrupted (all is saved), or the loss is no
      number.

  Example:
    >>> import eejax
    >>> run = eejax.tune(model, text, folder='runs/tuned')  # doctest: +SKIP
    >>> run.losses['exit_6']  # doctest: +SKIP
    (5.12, 3.31)
  """
  source = open_source(model)
  if not source.config.exits:
    name = 'the model' if isinstance(model, Model) else model
    raise ArgumentError(
      f'{name} has no exits to tune; add some with eejax.add_exits, or with '
      'eejax add-exits.'
    )
  _ = source.tokenizer  # raises where there is none
  objective = objective or Objective(
    regime=Regime.TUNE,
    exit_weights=ExitWeights(weights=exit_weights),
    distillation_weight=distillation,
    temperature=temperature,
  )
  if objective.regime is not Regime.TUNE:
    raise ArgumentError(
      'tune freezes the backbone: its objective has Regime.TUNE.'
    )
  settings = training_runs.make_settings(
    source.config,
    text,
    objective=objective,
    learning_rate=learning_rate,
    warmup_steps=warmup_steps,
    optimizer=optimizer,
    weight_decay=weight_decay,
    loop=loop or LoopConfig(steps=steps),
    step=step,
    dtype=dtype,
    microbatches=microbatches,
    batch_size=batch_size,
    sequence_length=sequence_length,
    seed=seed,
    held_out_batches=held_out_batches,
    mesh=mesh,
  )
  return _run(
    source,
    settings,
    folder=folder,
    backbone=backbone,
    cache=cache,
    attachments=attachments,
    progress=progress,
  )


def _run(
  source: TuningSource,
  settings: RunSettings,
  *,
  folder: str | os.PathLike,
  backbone: FrozenBackbone,
  cache: CacheSettings | None,
  attachments: Mapping[str, str] | None,
  progress: Progress,
) -> TuneResult:
  config = source.config
  depth = config.model.num_layers
  if not settings.objective.full_depth(config):
    depth = config.deepest_exit
  layout = BackboneLayout(depth, settings.step.forward.dtype, backbone)
  with open_run.open_run(
    folder,
    mesh=settings.mesh,
    identity=settings.identity(
      'tune',
      tokenizer=source.tokenizer if settings.data.has_conversations else None,
      model=source.identity(),
      backbone=backbone,
    ),
    rows=settings.data.batch_size,
    step=settings.step,
    blocks=depth,
    check=lambda mesh: training_runs.check_room(
      config, settings, frozen=layout.converted, mesh=mesh
    ),
    attachments=attachments,
  ) as place:
    if not multihost.is_first():
      progress = SILENT
    layout = dataclasses.replace(layout, mesh=place.mesh)
    return _train(source, settings, layout, place, cache, progress)


def _train(
  source: TuningSource,
  settings: RunSettings,
  layout: BackboneLayout,
  place: OpenRun,
  cache: CacheSettings | None,
  progress: Progress,
) -> TuneResult:
  if cache is None:
    params = source.load(layout)
    data = training_runs.read_data(
      settings, source.tokenizer, mesh=place.mesh, progress=progress
    )
  else:
    params, data = tuning_cache.prepare(
      cache, source, settings=settings, layout=layout, progress=progress
    )
  task = settings.task(source.config, params, mesh=place.mesh)
  del params  # the run takes them over
  result = training_runs.train(
    task,
    folder=place.folder,
    settings=settings.loop,
    data=data,
    cost=step_cost(
      source.config, settings, mesh=place.mesh, has_cache=cache is not None
    ),
    progress=progress,
    what='tuning',
  )
  model = source.save(
    place.folder / run_folder.MODEL,
    exits=result.trainable['exits'],
    provenance=training_runs.provenance('tune', result, settings.data),
  )
  return TuneResult(
    folder=place.folder,
    steps=result.step,
    curve=run_result.read_curve(place.folder),
    in_memory=model,
  )
