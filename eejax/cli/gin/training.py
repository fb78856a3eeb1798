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
"""`tune` and `pretrain` by the names that gin files use."""

import types
from collections.abc import Callable, Mapping
from typing import Any

from eejax.axes import sharding_rules
from eejax.cli import output
from eejax.cli.gin import config as gin_config
from eejax.config import ModelConfig
from eejax.data.data_config import DataConfig
from eejax.recipes import pretrain as pretrain_recipe
from eejax.recipes import tune as tune_recipe
from eejax.recipes.pretrain import KeptExits, PretrainResult
from eejax.recipes.tune import TuneResult
from eejax.recipes.tuning_cache import CacheSettings
from eejax.recipes.tuning_source import FrozenBackbone
from eejax.training.loop_config import LoopConfig
from eejax.training.objective import Objective
from eejax.training.open_run import MeshChoice
from eejax.training.optimizers import Configured, constant
from eejax.training.step import StepConfig

PLAIN_STEP = StepConfig()
_NO_CHANGES: Mapping[str, tuple[str, ...]] = types.MappingProxyType({})

# Takes `learning_rate`.
OptimizerFactory = Callable[..., Configured]


def tune(
  *,
  checkpoint: str,
  run_folder: str,
  objective: Objective,
  learning_rate: float | Configured,
  optimizer: OptimizerFactory,
  data: DataConfig,
  loop: LoopConfig,
  step: StepConfig = PLAIN_STEP,
  mesh: MeshChoice = None,
  backbone: FrozenBackbone = FrozenBackbone.COMPUTE,
  held_out_batches: int = 16,
  activation_cache: str | None = None,
  cached_batches: int = 0,
  sharding: Mapping[str, tuple[str, ...]] = _NO_CHANGES,
) -> TuneResult:
  """Train the exits of a checkpoint, as `eejax.tune` does.

  Args:
    checkpoint: an eejax checkpoint with exits.
    run_folder: where everything goes; an earlier run there is continued.
    objective: of the regime `tune`.
    learning_rate: a number or a schedule.
    optimizer: takes `learning_rate`.
    data: the corpus and the shape of a batch.
    loop: length and cadence.
    step: how a step is computed.
    mesh: the devices: a MeshConfig, `data=2,model=4`, or a name in
      `configs/meshes`. None takes the default device, and of several
      processes all.
    backbone: how the frozen backbone is kept while exits learn.
    held_out_batches: batches of the validation part that are measured.
    activation_cache: a folder for what exits read of the backbone.
    cached_batches: training batches that are recorded, read over and over;
      0 records one for each step.
    sharding: mesh axes of parameters by letter, see `axes.sharding_rules`.
  """
  cache = None
  if activation_cache is not None:
    cache = CacheSettings(activation_cache, cached_batches)
  with sharding_rules(sharding):
    return tune_recipe.tune(
      checkpoint,
      data,
      folder=run_folder,
      objective=objective,
      **_optimized(learning_rate, optimizer),
      loop=loop,
      step=step,
      mesh=mesh,
      backbone=backbone,
      held_out_batches=held_out_batches,
      cache=cache,
      attachments=gin_config.operative_config(),
      progress=output.reporter(),
    )


def pretrain(
  *,
  run_folder: str,
  model: ModelConfig,
  objective: Objective,
  learning_rate: float | Configured,
  optimizer: OptimizerFactory,
  data: DataConfig,
  loop: LoopConfig,
  step: StepConfig = PLAIN_STEP,
  mesh: MeshChoice = None,
  exits: str = '',
  kept_exits: KeptExits = KeptExits.ALL,
  checkpoint: str | None = None,
  tokenizer: str | None = None,
  held_out_batches: int = 16,
  frozen: tuple[str, ...] = (),
  seed: int = 0,
  sharding: Mapping[str, tuple[str, ...]] = _NO_CHANGES,
) -> PretrainResult:
  """Train a whole decoder, as `eejax.pretrain` does.

  Args:
    run_folder: where everything goes; an earlier run there is continued.
    model: the backbone. A checkpoint brings its own, and this one is not
      looked at.
    objective: `standard` or `joint`.
    learning_rate: a number or a schedule.
    optimizer: takes `learning_rate`.
    data: the corpus and the shape of a batch.
    loop: length and cadence.
    step: how a step is computed.
    mesh: the devices: a MeshConfig, `data=2,model=4`, or a name in
      `configs/meshes`. None takes the default device, and of several
      processes all.
    exits: as `add-exits` takes them, for `joint`; added to the checkpoint's.
    kept_exits: which exits the resulting checkpoint keeps.
    checkpoint: an eejax checkpoint to start from; None starts from random
      parameters.
    tokenizer: a folder with a tokenizer.json; None trains one on the corpus.
    held_out_batches: batches of the validation part that are measured.
    frozen: patterns of paths that are not trained.
    seed: of the parameters.
    sharding: mesh axes of parameters by letter, see `axes.sharding_rules`.
  """
  with sharding_rules(sharding):
    return pretrain_recipe.pretrain(
      model if checkpoint is None else checkpoint,
      data,
      folder=run_folder,
      exits=exits,
      objective=objective,
      **_optimized(learning_rate, optimizer),
      loop=loop,
      step=step,
      mesh=mesh,
      kept_exits=kept_exits,
      tokenizer=tokenizer,
      held_out_batches=held_out_batches,
      frozen=frozen,
      seed=seed,
      attachments=gin_config.operative_config(),
      progress=output.reporter(),
    )


def _optimized(
  learning_rate: float | Configured, optimizer: OptimizerFactory
) -> dict[str, Any]:
  """Return the schedule and the optimizer with all that gin says of them."""
  rate = learning_rate
  if not isinstance(rate, Configured):
    rate = constant(rate)
  return {
    'learning_rate': rate,
    'optimizer': optimizer(learning_rate=learning_rate),
  }
