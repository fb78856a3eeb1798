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
"""Training a whole decoder: what `eejax pretrain` runs.

gin calls `pretrain` with every value; nothing below the command line knows of
gin.
"""

import dataclasses
import enum
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from eejax import config as config_lib
from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import streaming, surgery
from eejax.checkpoint.folder import Existing
from eejax.checkpoint.model import Model
from eejax.cli import output, run_hosts, training_runs
from eejax.cli.run_hosts import MeshChoice
from eejax.cli.training_runs import PLAIN_STEP, OptimizerFactory
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.data import batches as data_batches
from eejax.data.corpus import Split
from eejax.data.data_config import DataConfig
from eejax.data.tokenizer import Tokenizer, check_vocabulary, train_bpe
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.parallel import multihost, sharding
from eejax.training.freeze import Regime
from eejax.training.loop import LoopConfig, Task, TrainResult
from eejax.training.objective import Objective
from eejax.training.step import StepConfig
from eejax.types import Params

TOKENIZER = 'tokenizer'


class KeptExits(enum.Enum):
  """Which exits of a pretrained model its checkpoint keeps."""

  ALL = 'all'
  NONE = 'none'


def pretrain(
  *,
  run_folder: str,
  model: ModelConfig,
  objective: Objective,
  learning_rate: optax.ScalarOrSchedule,
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
  seed: int = 0,
) -> dict[str, Any]:
  """Train a whole decoder, from random parameters or from a checkpoint.

  Args:
    run_folder: where everything goes; an earlier run there is continued.
    model: the backbone; the tokenizer sets its start and end tokens. A
      checkpoint brings its own, and this one is not looked at.
    objective: `standard` or `joint`.
    learning_rate: a number or a schedule.
    optimizer: takes `learning_rate` and returns an optax transformation.
    data: the corpus and the shape of a batch.
    loop: length and cadence.
    step: how a step is computed.
    mesh: the devices: a MeshConfig, `data=2,model=4`, or a name in
      `configs/meshes`. None takes the default device, and of several
      processes all.
    exits: as `add-exits` takes them, for `joint`; added to the checkpoint's.
    kept_exits: which exits the resulting checkpoint keeps.
    checkpoint: an eejax checkpoint to start from, with its tokenizer; its
      optimizer is new. None starts from random parameters.
    tokenizer: a folder with a tokenizer.json; None trains a byte-level BPE of
      the model's vocabulary size on the corpus.
    held_out_batches: batches of the validation part that are measured.
    seed: of the parameters.
  """
  config = _planned(model, exits, checkpoint, tokenizer)
  _check_regime(objective.regime, config)
  training_runs.check(config, objective, data, step, mesh)
  task_optimizer = optimizer(learning_rate=learning_rate)
  extra = {} if checkpoint is None else _origin(checkpoint)
  with run_hosts.open_run(
    run_folder,
    mesh=mesh,
    extra=extra,
    rows=data.batch_size,
    step=step,
    blocks=config.model.num_layers,
  ) as place:
    folder = place.folder
    training_runs.check_room(
      config, objective=objective, optimizer=task_optimizer, mesh=place.mesh
    )
    if checkpoint is None:
      words = _tokenizer(folder, tokenizer, data, model.vocab_size)
      config, params = _random(config, words, seed, place.mesh)
    else:
      params, words = _from_checkpoint(checkpoint, config, seed, place.mesh)
      multihost.from_first(lambda: words.save(folder / TOKENIZER))
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
      folder=folder,
      settings=loop,
      data=data,
      tokenizer=words,
      held_out_batches=held_out_batches,
    )
    _save(folder, config, outcome, kept_exits)
    return training_runs.result(folder, outcome)


def _planned(
  model: ModelConfig, exits: str, checkpoint: str | None, tokenizer: str | None
) -> EarlyExitConfig:
  """Return the model with every exit that will be trained."""
  heads = config_lib.parse_exits(exits) if exits else ()
  if checkpoint is None:
    return EarlyExitConfig(model, heads)
  if tokenizer is not None:
    raise ArgumentError(
      f'{checkpoint} brings its own tokenizer; leave the other one out.'
    )
  return surgery.planned(checkpoint_folder.read_config(checkpoint), add=heads)


def _check_regime(regime: Regime, config: EarlyExitConfig) -> None:
  if regime is Regime.TUNE:
    raise ArgumentError('pretrain cannot freeze the backbone; use eejax tune.')
  if bool(config.exits) != (regime is Regime.JOINT):
    raise ArgumentError(
      'the joint regime trains exits and the standard regime has none; give '
      'exits with Regime.JOINT alone.'
    )


def _origin(checkpoint: str) -> dict[str, str]:
  manifest = checkpoint_folder.read_manifest(checkpoint)
  return {'backbone': manifest.backbone_hash}


def _random(
  config: EarlyExitConfig, words: Tokenizer, seed: int, mesh: Mesh | None
) -> tuple[EarlyExitConfig, Params]:
  """Return the model with the tokenizer's special tokens, and parameters."""
  model = dataclasses.replace(
    config.model, bos_id=words.bos_id, eos_ids=words.eos_ids
  )
  config = dataclasses.replace(config, model=model)
  make = lambda: decoder.init(config, jax.random.key(seed))
  if mesh is None:
    return config, jax.jit(make)()
  return config, sharding.initialise(make, mesh=mesh)


def _from_checkpoint(
  checkpoint: str, config: EarlyExitConfig, seed: int, mesh: Mesh | None
) -> tuple[Params, Tokenizer]:
  """Return its parameters in float32, new exits among them."""
  if mesh is None:
    held = checkpoint_folder.load(checkpoint, dtype=jnp.float32)
  else:
    held = streaming.load(checkpoint, mesh=mesh, dtype=jnp.float32)
  if held.tokenizer_folder is None:
    raise ArgumentError(f'{checkpoint} has no tokenizer, which pretrain needs.')
  added = [e for e in config.exits if e not in held.config.exits]
  params, _ = surgery.add_exits(
    held.params, held.config, added, key=jax.random.key(seed)
  )
  return params, Tokenizer.load(held.tokenizer_folder)


def _tokenizer(
  folder: pathlib.Path, source: str | None, data: DataConfig, vocab_size: int
) -> Tokenizer:
  """Return the run's tokenizer, kept in the run folder from then on."""
  own = folder / TOKENIZER

  def make() -> None:
    if not (own / 'tokenizer.json').is_file():
      _new_tokenizer(source, data, vocab_size).save(own)

  multihost.from_first(make)
  return Tokenizer.load(own)


def _new_tokenizer(
  source: str | None, data: DataConfig, vocab_size: int
) -> Tokenizer:
  if source is not None:
    tokenizer = Tokenizer.load(source)
  else:
    with output.waiting('training a tokenizer'):
      texts = data_batches.read_texts(data, split=Split.TRAIN)
      tokenizer = train_bpe(texts, vocab_size=vocab_size)
  check_vocabulary(tokenizer, vocab_size)
  return tokenizer


def _save(
  folder: pathlib.Path,
  config: EarlyExitConfig,
  outcome: TrainResult,
  kept_exits: KeptExits,
) -> None:
  params = {'exits': {}, **outcome.trainable}
  if kept_exits is KeptExits.NONE:
    config, params = config.with_exits(()), {**params, 'exits': {}}
  checkpoint_folder.save(
    folder / 'model',
    Model(
      config=config,
      params=params,
      tokenizer_folder=folder / TOKENIZER,
      provenance=training_runs.provenance('pretrain', outcome),
    ),
    existing=Existing.OVERWRITE,
  )
