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

from typing import Any

import jax
import jax.numpy as jnp
import optax

from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint.folder import Existing
from eejax.checkpoint.manifest import Manifest
from eejax.cli import training_runs
from eejax.cli.training_runs import PLAIN_STEP, OptimizerFactory
from eejax.data.data_config import DataConfig
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError
from eejax.training.freeze import Regime
from eejax.training.loop import LoopConfig, Task
from eejax.training.losses import Objective
from eejax.training.step import StepConfig
from eejax.types import Params


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
  held_out_batches: int = 16,
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
    held_out_batches: batches of the validation part that are measured.
  """
  if objective.regime is not Regime.TUNE:
    raise ArgumentError(
      'tune freezes the backbone: its objective has Regime.TUNE.'
    )
  manifest = _with_exits(checkpoint)
  config = manifest.config
  training_runs.check(config, objective, data, step)
  task_optimizer = optimizer(learning_rate=learning_rate)
  backbone = {'backbone': manifest.backbone_hash}
  with training_runs.claimed(run_folder, extra=backbone) as folder:
    whole = objective.full_depth(config)
    params, words = _blocks_and_tokenizer(
      checkpoint, depth=None if whole else config.deepest_exit
    )
    task = Task(
      config=config,
      params=_backbone_as(params, step.forward.dtype),
      objective=objective,
      optimizer=task_optimizer,
      settings=step,
      learning_rate=training_runs.schedule(learning_rate),
    )
    outcome = training_runs.train(
      task,
      folder=folder,
      settings=loop,
      data=data,
      tokenizer=words,
      held_out_batches=held_out_batches,
    )
    checkpoint_folder.replace_exits(
      folder / 'model',
      source=checkpoint,
      config=config,
      exits=outcome.trainable['exits'],
      provenance=training_runs.provenance('tune', outcome),
      existing=Existing.OVERWRITE,
    )
    return training_runs.result(folder, outcome)


def _with_exits(checkpoint: str) -> Manifest:
  manifest = checkpoint_folder.read_manifest(checkpoint)
  if not manifest.config.exits:
    raise ArgumentError(
      f'{checkpoint} has no exits to tune; add some with eejax add-exits.'
    )
  return manifest


def _blocks_and_tokenizer(
  checkpoint: str, *, depth: int | None
) -> tuple[Params, Tokenizer]:
  """Return the first blocks with the exits there, or all for None."""
  loaded = checkpoint_folder.load(checkpoint, depth=depth)
  if loaded.tokenizer_folder is None:
    raise ArgumentError(f'{checkpoint} has no tokenizer, which tune needs.')
  return loaded.params, Tokenizer.load(loaded.tokenizer_folder)


def _backbone_as(params: Params, dtype: str) -> Params:
  """Keep the frozen part in the compute dtype; no step need convert it."""
  backbone = jax.tree.map(
    lambda x: x.astype(jnp.dtype(dtype)), params['backbone']
  )
  return {**params, 'backbone': backbone}
