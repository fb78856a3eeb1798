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
"""What `pretrain` and `tune` do once their configuration is known.

gin calls these functions with every value; nothing below the command line
knows of gin.
"""

import contextlib
import dataclasses
import enum
import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eejax import config as config_lib
from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import surgery
from eejax.checkpoint.folder import Checkpoint, Existing
from eejax.cli import output, run_identity
from eejax.cli.run_reporter import ProgressReporter
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.data import batches as data_batches
from eejax.data.batch import Batch
from eejax.data.corpus import Split
from eejax.data.data_config import DataConfig
from eejax.data.memory_source import Passes
from eejax.data.tokenizer import Tokenizer, check_vocabulary, train_bpe
from eejax.errors import ArgumentError, EejaxError
from eejax.models import decoder
from eejax.training import loop, run_folder
from eejax.training.freeze import Regime
from eejax.training.loop import Ending, LoopConfig, Outcome, Task
from eejax.training.losses import Objective
from eejax.training.step import StepConfig
from eejax.types import Params

TOKENIZER = 'tokenizer'

_PLAIN_STEP = StepConfig()

OptimizerFactory = Callable[..., optax.GradientTransformation]


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
  step: StepConfig = _PLAIN_STEP,
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
    exits: as `add-exits` takes them, for `joint`; added to the checkpoint's.
    kept_exits: which exits the resulting checkpoint keeps.
    checkpoint: an eejax checkpoint to start from, with its tokenizer; its
      optimizer is new. None starts from random parameters.
    tokenizer: a folder with a tokenizer.json; None trains a byte-level BPE of
      the model's vocabulary size on the corpus.
    held_out_batches: batches of the validation part that are measured.
    seed: of the parameters.
  """
  if objective.regime is Regime.TUNE:
    raise ArgumentError('pretrain cannot freeze the backbone; use eejax tune.')
  config = _planned(model, exits, checkpoint, tokenizer)
  if bool(config.exits) != (objective.regime is Regime.JOINT):
    raise ArgumentError(
      'the joint regime trains exits and the standard regime has none; give '
      'exits with Regime.JOINT alone.'
    )
  _check(config, objective, data, step)
  task_optimizer = optimizer(learning_rate=learning_rate)
  extra = {} if checkpoint is None else _origin(checkpoint)
  with _claimed(run_folder, extra=extra) as folder:
    key = jax.random.key(seed)
    if checkpoint is None:
      words = _tokenizer(folder, tokenizer, data, model.vocab_size)
      config = _with_special_tokens(config, words)
      params = jax.jit(lambda k: decoder.init(config, k))(key)
    else:
      params, words = _from_checkpoint(checkpoint, config, key)
      words.save(folder / TOKENIZER)
    task = Task(
      config=config,
      params=params,
      objective=objective,
      optimizer=task_optimizer,
      settings=step,
      learning_rate=_schedule(learning_rate),
    )
    outcome = _train(folder, task, loop, data, words, held_out_batches)
    _save_pretrained(folder, config, outcome, kept_exits)
    return _result(folder, outcome)


def tune(
  *,
  checkpoint: str,
  run_folder: str,
  objective: Objective,
  learning_rate: optax.ScalarOrSchedule,
  optimizer: OptimizerFactory,
  data: DataConfig,
  loop: LoopConfig,
  step: StepConfig = _PLAIN_STEP,
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
  manifest = checkpoint_folder.read_manifest(checkpoint)
  config = manifest.config
  if not config.exits:
    raise ArgumentError(
      f'{checkpoint} has no exits to tune; add some with eejax add-exits.'
    )
  _check(config, objective, data, step)
  task_optimizer = optimizer(learning_rate=learning_rate)
  backbone = {'backbone': manifest.backbone_hash}
  with _claimed(run_folder, extra=backbone) as folder:
    whole = objective.full_depth(config)
    loaded = checkpoint_folder.load(
      checkpoint, depth=None if whole else config.deepest_exit
    )
    if loaded.tokenizer_folder is None:
      raise ArgumentError(f'{checkpoint} has no tokenizer, which tune needs.')
    task = Task(
      config=config,
      params=_backbone_as(loaded.params, step.forward.dtype),
      objective=objective,
      optimizer=task_optimizer,
      settings=step,
      learning_rate=_schedule(learning_rate),
    )
    words = Tokenizer.load(loaded.tokenizer_folder)
    outcome = _train(folder, task, loop, data, words, held_out_batches)
    checkpoint_folder.replace_exits(
      folder / 'model',
      source=checkpoint,
      config=config,
      exits=outcome.trainable['exits'],
      provenance=_provenance('tune', outcome),
      existing=Existing.OVERWRITE,
    )
    return _result(folder, outcome)


# MARK: Parts of pretrain


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


def _origin(checkpoint: str) -> dict[str, str]:
  manifest = checkpoint_folder.read_manifest(checkpoint)
  return {'backbone': manifest.backbone_hash}


def _with_special_tokens(
  config: EarlyExitConfig, words: Tokenizer
) -> EarlyExitConfig:
  model = dataclasses.replace(
    config.model, bos_id=words.bos_id, eos_ids=words.eos_ids
  )
  return dataclasses.replace(config, model=model)


def _from_checkpoint(
  checkpoint: str, config: EarlyExitConfig, key: jax.Array
) -> tuple[Params, Tokenizer]:
  """Return its parameters in float32, new exits among them."""
  held = checkpoint_folder.load(checkpoint, dtype=jnp.float32)
  if held.tokenizer_folder is None:
    raise ArgumentError(f'{checkpoint} has no tokenizer, which pretrain needs.')
  added = [e for e in config.exits if e not in held.config.exits]
  params, _ = surgery.add_exits(held.params, held.config, added, key=key)
  return params, Tokenizer.load(held.tokenizer_folder)


def _save_pretrained(
  folder: pathlib.Path,
  config: EarlyExitConfig,
  outcome: Outcome,
  kept_exits: KeptExits,
) -> None:
  params = {'exits': {}, **outcome.trainable}
  if kept_exits is KeptExits.NONE:
    config, params = config.with_exits(()), {**params, 'exits': {}}
  checkpoint_folder.save(
    folder / 'model',
    Checkpoint(
      config=config,
      params=params,
      tokenizer_folder=folder / TOKENIZER,
      provenance=_provenance('pretrain', outcome),
    ),
    existing=Existing.OVERWRITE,
  )


# MARK: Parts of both


def _check(
  config: EarlyExitConfig,
  objective: Objective,
  data: DataConfig,
  step: StepConfig,
) -> None:
  """Raise what is wrong with a run before anything is written."""
  if data.sequence_length > config.model.max_length:
    raise ArgumentError(
      f'sequences of {data.sequence_length} tokens are longer than the '
      f"model's context of {config.model.max_length}."
    )
  rows = data.batch_size // data.num_shards
  if rows % step.microbatches:
    raise ArgumentError(
      f'a batch of {rows} rows cannot be cut into {step.microbatches} '
      'microbatches.'
    )
  if config.exits:
    objective.exit_weights.check(len(config.exits))


@contextlib.contextmanager
def _claimed(
  folder: str, *, extra: Mapping[str, Any]
) -> Iterator[pathlib.Path]:
  identity = {**run_identity.operative_values(), **extra}
  with run_folder.claim(folder, identity=identity) as claimed:
    run_identity.write_operative_config(claimed)
    yield claimed


def _tokenizer(
  folder: pathlib.Path, source: str | None, data: DataConfig, vocab_size: int
) -> Tokenizer:
  """Return the run's tokenizer, kept in the run folder from then on."""
  own = folder / TOKENIZER
  if (own / 'tokenizer.json').is_file():
    return Tokenizer.load(own)
  if source is not None:
    tokenizer = Tokenizer.load(source)
  else:
    with output.waiting('training a tokenizer'):
      texts = data_batches.read_texts(data, split=Split.TRAIN)
      tokenizer = train_bpe(texts, vocab_size=vocab_size)
  check_vocabulary(tokenizer, vocab_size)
  tokenizer.save(own)
  return tokenizer


def _train(
  folder: pathlib.Path,
  task: Task,
  settings: LoopConfig,
  data: DataConfig,
  tokenizer: Tokenizer,
  held_out_batches: int,
) -> Outcome:
  check_vocabulary(tokenizer, task.config.model.vocab_size)
  with output.waiting('reading the corpus'):
    batches = data_batches.make_batches(data, tokenizer, Split.TRAIN)
    held_out = _held_out(data, tokenizer, held_out_batches)
  what = 'tuning' if task.objective.regime is Regime.TUNE else 'training'
  outcome = loop.train(
    task,
    folder=folder,
    settings=settings,
    batches=batches,
    held_out=held_out,
    reporter=ProgressReporter(what),
  )
  if outcome.ending is Ending.INTERRUPTED:
    raise EejaxError(
      f'stopped at step {outcome.step} of {settings.steps} as asked; all is '
      'saved, so run the same command again to go on.'
    )
  return outcome


def _held_out(
  data: DataConfig, tokenizer: Tokenizer, count: int
) -> list[Batch]:
  if not count:
    return []
  try:
    batches = data_batches.make_batches(
      data, tokenizer, Split.VALIDATION, passes=Passes.ONCE
    )
  except ArgumentError as error:
    raise ArgumentError(
      f'{str(error).rstrip(".")}, or do without: held_out_batches = 0.'
    ) from error
  return list(itertools.islice(batches, count))


def _schedule(rate: optax.ScalarOrSchedule) -> optax.Schedule:
  return rate if callable(rate) else optax.constant_schedule(rate)


def _backbone_as(params: Params, dtype: str) -> Params:
  """Keep the frozen part in the compute dtype; no step need convert it."""
  backbone = jax.tree.map(
    lambda x: x.astype(jnp.dtype(dtype)), params['backbone']
  )
  return {**params, 'backbone': backbone}


def _provenance(verb: str, outcome: Outcome) -> dict[str, Any]:
  return {verb: {'steps': outcome.step, 'held_out': dict(outcome.held_out)}}


def _result(folder: pathlib.Path, outcome: Outcome) -> dict[str, Any]:
  return {
    'run': str(folder),
    'model': str(folder / 'model'),
    'steps': outcome.step,
    'held_out': dict(outcome.held_out),
  }
