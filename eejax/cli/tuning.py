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
"""Training the exits of a checkpoint: what `eejax tune` runs.

gin calls `tune` with every value; nothing below the command line knows of
gin.
"""

import enum
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import streaming
from eejax.checkpoint.folder import Existing
from eejax.checkpoint.manifest import Manifest
from eejax.cli import run_hosts, training_runs, tuning_cache
from eejax.cli.run_hosts import MeshChoice
from eejax.cli.training_runs import PLAIN_STEP, OptimizerFactory
from eejax.config import EarlyExitConfig
from eejax.data.data_config import DataConfig
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError
from eejax.models.quantized import quantize_backbone
from eejax.training.freeze import Regime
from eejax.training.loop import LoopConfig, Task, TrainResult
from eejax.training.objective import Objective
from eejax.training.step import StepConfig
from eejax.types import Params


class FrozenBackbone(enum.Enum):
  """How a backbone is kept that nothing changes.

  COMPUTE: in the compute dtype.
  INT8: kernels of its blocks in int8, a scale for each output channel; the
    rest in the compute dtype.
  """

  COMPUTE = 'compute'
  INT8 = 'int8'


def tune(
  *,
  checkpoint: str,
  run_folder: str,
  objective: Objective,
  learning_rate: optax.ScalarOrSchedule,
  optimizer: OptimizerFactory,
  data: DataConfig,
  loop: LoopConfig,
  step: StepConfig = PLAIN_STEP,
  mesh: MeshChoice = None,
  backbone: FrozenBackbone = FrozenBackbone.COMPUTE,
  held_out_batches: int = 16,
  activation_cache: str | None = None,
  cached_batches: int = 0,
) -> dict[str, Any]:
  """Train the exits of a checkpoint; its backbone is not touched.

  Args:
    checkpoint: an eejax checkpoint with exits.
    run_folder: where everything goes; an earlier run there is continued.
    objective: of the regime `tune`.
    learning_rate: a number or a schedule.
    optimizer: takes `learning_rate` and returns an optax transformation.
    data: the corpus and the shape of a batch.
    loop: length and cadence.
    step: how a step is computed.
    mesh: the devices: a MeshConfig, `data=2,model=4`, or a name in
      `configs/meshes`. None takes the default device, and of several
      processes all.
    backbone: how the frozen backbone is kept while exits learn.
    held_out_batches: batches of the validation part that are measured.
    activation_cache: a folder for what exits read of the backbone: recorded
      if it is not there, and read in place of running the backbone. Variants
      of exits at the same depths share it.
    cached_batches: training batches that are recorded, read over and over;
      0 records one for each step.
  """
  _check_regime(objective)
  manifest = _with_exits(checkpoint)
  config = manifest.config
  training_runs.check(config, objective, data, step, mesh)
  task_optimizer = optimizer(learning_rate=learning_rate)
  depth = config.model.num_layers
  if not objective.full_depth(config):
    depth = config.deepest_exit
  dtype = step.forward.dtype
  with run_hosts.open_run(
    run_folder,
    mesh=mesh,
    extra={'backbone': manifest.backbone_hash},
    rows=data.batch_size,
    step=step,
    blocks=depth,
  ) as place:
    training_runs.check_room(
      config,
      objective=objective,
      optimizer=task_optimizer,
      frozen=lambda params: _frozen(params, dtype, backbone),
      mesh=place.mesh,
    )
    params, words, cached = tuning_cache.prepare(
      activation_cache,
      checkpoint=checkpoint,
      load=lambda: _load(checkpoint, depth, dtype, backbone, place.mesh),
      config=config,
      full_depth=objective.full_depth(config),
      step=step,
      data=data,
      count=cached_batches or loop.steps,
      held_out_batches=held_out_batches,
      mesh=place.mesh,
    )
    task = Task(
      config=config,
      params=params,
      objective=objective,
      optimizer=task_optimizer,
      settings=step,
      learning_rate=training_runs.schedule(learning_rate),
      mesh=place.mesh,
    )
    del params  # the run takes them over
    outcome = training_runs.train(
      task,
      folder=place.folder,
      settings=loop,
      data=data,
      tokenizer=words,
      held_out_batches=held_out_batches,
      cached=cached,
    )
    _save(place.folder, checkpoint, config, outcome)
    return training_runs.result(place.folder, outcome)


def _check_regime(objective: Objective) -> None:
  if objective.regime is not Regime.TUNE:
    raise ArgumentError(
      'tune freezes the backbone: its objective has Regime.TUNE.'
    )


def _with_exits(checkpoint: str) -> Manifest:
  manifest = checkpoint_folder.read_manifest(checkpoint)
  if not manifest.config.exits:
    raise ArgumentError(
      f'{checkpoint} has no exits to tune; add some with eejax add-exits.'
    )
  return manifest


def _save(
  folder: pathlib.Path,
  checkpoint: str,
  config: EarlyExitConfig,
  outcome: TrainResult,
) -> None:
  checkpoint_folder.replace_exits(
    folder / 'model',
    source=checkpoint,
    config=config,
    exits=outcome.trainable['exits'],
    provenance=training_runs.provenance('tune', outcome),
    existing=Existing.OVERWRITE,
  )


def _load(
  checkpoint: str,
  depth: int,
  dtype: str,
  kept: FrozenBackbone,
  mesh: Mesh | None,
) -> tuple[Params, Tokenizer]:
  """Return the first blocks with the exits there, and the tokenizer."""
  if mesh is None:
    loaded = checkpoint_folder.load(checkpoint, depth=depth)
    params = loaded.params
    backbone = {'backbone': params['backbone']}
    params = {**params, **_frozen(backbone, dtype, kept)}
  else:
    loaded = streaming.map_checkpoint(checkpoint, depth=depth)
    exits = loaded.params['exits']
    frozen = {**loaded.params, 'exits': {}}
    if kept is FrozenBackbone.INT8:
      placed = streaming.place_quantized(frozen, mesh=mesh, dtype=dtype)
    else:
      placed = streaming.place(frozen, mesh=mesh, dtype=dtype)
    params = {**placed, 'exits': exits}
  if loaded.tokenizer_folder is None:
    raise ArgumentError(f'{checkpoint} has no tokenizer, which tune needs.')
  return params, Tokenizer.load(loaded.tokenizer_folder)


def _frozen(params: Params, dtype: str, kept: FrozenBackbone) -> Params:
  """Return the frozen part as it is kept; no step need convert it."""
  params = jax.tree.map(lambda x: x.astype(jnp.dtype(dtype)), params)
  return quantize_backbone(params) if kept is FrozenBackbone.INT8 else params
