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
"""What tuning and pretraining have in common."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig
from eejax.data import batches as data_batches
from eejax.data.batch import Batch
from eejax.data.corpus import Split
from eejax.data.data_config import DataConfig
from eejax.data.memory_source import Passes
from eejax.data.sharded import ResumableBatches
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError, EejaxError
from eejax.models import decoder
from eejax.parallel import memory, sharding
from eejax.progress import SILENT, Progress
from eejax.recipes import run_identity
from eejax.recipes.text import Text, row_length
from eejax.storage import AnyPath
from eejax.training import freeze, loop, state
from eejax.training.loop import Ending, Task, TrainResult
from eejax.training.loop_config import LoopConfig
from eejax.training.objective import Forward, Objective
from eejax.training.open_run import MeshChoice
from eejax.training.optimizers import (
  Configured,
  clipped_adamw,
  configured,
  warmup_cosine,
)
from eejax.training.reporting import ProgressReporter
from eejax.training.step import StepConfig
from eejax.training.throughput import StepCost
from eejax.types import Params

# Held-out batches where the text has so many and nothing is said.
USUAL_HELD_OUT = 16


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """How a run trains.

  Attributes:
    objective: what is minimised.
    learning_rate: a schedule.
    optimizer: an optax transformation; it is given the learning rate where
      it has none.
    data: the corpus and the shape of a batch.
    loop: length and cadence.
    step: how a step is computed.
    held_out_batches: batches of the validation part that are measured; None
      is 16, or what a small text has.
    mesh: the devices: a MeshConfig, `data=2,model=4`, or a name in
      `configs/meshes`. None takes the default device, and of several
      processes all.
    frozen: patterns of paths that are not trained, as `freeze.train_mask`
      takes them.
  """

  objective: Objective
  learning_rate: Configured
  optimizer: Configured
  data: DataConfig
  loop: LoopConfig
  step: StepConfig
  held_out_batches: int | None = None
  mesh: MeshChoice = None
  frozen: tuple[str, ...] = ()

  def __post_init__(self):
    for name in ('learning_rate', 'optimizer'):
      if not isinstance(getattr(self, name), Configured):
        raise ArgumentError(
          f'{name} does not tell its values, so a run could not be told from '
          'another; give configured(optax.NAME, ...) of '
          'eejax.training.optimizers.'
        )

  def identity(
    self, verb: str, *, tokenizer: Tokenizer | None, **more: Any
  ) -> dict[str, Any]:
    """Return all that changes the numbers of a run, see `run_identity`.

    Args:
      verb: `tune` or `pretrain`.
      tokenizer: whose chat template writes conversations; None where there
        are none.
      **more: what else does, such as the model.

    Raises:
      ArgumentError: the optimizer or the schedule has no values, or
        conversations have no chat template.
    """
    return run_identity.described(
      verb=verb,
      objective=self.objective,
      learning_rate=self.learning_rate,
      optimizer=self.optimizer,
      steps=self.loop.steps,
      step=self.step,
      held_out_batches=self.held_out_batches,
      frozen=self.frozen,
      **more,
    ) | run_identity.of_data(self.data, tokenizer=tokenizer)

  def check(self, config: EarlyExitConfig) -> None:
    """Raise `ArgumentError` where a run does not fit its model."""
    length, context = self.data.sequence_length, config.model.max_length
    if length > context:
      raise ArgumentError(
        f"sequences of {length} tokens are longer than the model's context of "
        f'{context}.'
      )
    # On a mesh the rows of all hosts make one batch, and the mesh is checked.
    shards = self.data.num_shards if self.mesh is None else 1
    rows, parts = self.data.batch_size // shards, self.step.microbatches
    if rows % parts:
      raise ArgumentError(
        f'a batch of {rows} rows cannot be cut into {parts} microbatches.'
      )
    if config.exits:
      self.objective.exit_weights.check(len(config.exits))

  def task(
    self, config: EarlyExitConfig, params: Params, *, mesh: Mesh | None
  ) -> Task:
    """Return what the loop trains."""
    return Task(
      config=config,
      params=params,
      objective=self.objective,
      optimizer=self.make_optimizer(),
      settings=self.step,
      learning_rate=self.learning_rate.make(),
      mesh=mesh,
      frozen=self.frozen,
    )

  def make_optimizer(self) -> Any:
    """Return the optax transformation."""
    rate = {'learning_rate': self.learning_rate}
    return self.optimizer.with_defaults(**rate).make()


def make_settings(
  config: EarlyExitConfig,
  text: Text | DataConfig | str | os.PathLike,
  *,
  objective: Objective,
  learning_rate: float | Configured,
  warmup_steps: int,
  optimizer: Configured | None,
  weight_decay: float,
  loop: LoopConfig,
  step: StepConfig | None,
  dtype: str,
  microbatches: int,
  batch_size: int,
  sequence_length: int | None,
  seed: int,
  held_out_batches: int | None,
  mesh: MeshChoice,
  frozen: Sequence[str] = (),
) -> RunSettings:
  """Return the settings of a run from what `tune` and `pretrain` are given.

  Raises:
    ArgumentError: they do not fit the model.
  """
  if not isinstance(learning_rate, Configured):
    learning_rate = configured(
      warmup_cosine,
      peak=learning_rate,
      steps=loop.steps,
      warmup_steps=warmup_steps,
    )
  forward = Forward(dtype=dtype)
  settings = RunSettings(
    objective=objective,
    learning_rate=learning_rate,
    optimizer=optimizer or configured(clipped_adamw, weight_decay=weight_decay),
    data=_training_data(
      text,
      sequence_length=row_length(Model(config, {}), sequence_length),
      batch_size=batch_size,
      seed=seed,
    ),
    loop=loop,
    step=step
    or StepConfig(forward=forward, microbatches=microbatches, seed=seed),
    held_out_batches=held_out_batches,
    mesh=mesh,
    frozen=tuple(frozen),
  )
  settings.check(config)
  return settings


def _training_data(
  text: Text | DataConfig | str | os.PathLike,
  *,
  sequence_length: int,
  batch_size: int,
  seed: int,
) -> DataConfig:
  """Return how a text is read to train on it.

  Raises:
    ArgumentError: it is one part of a text.
  """
  if isinstance(text, DataConfig):
    return text
  if not isinstance(text, Text):
    text = Text(str(text))
  if text.split not in (None, Split.TRAIN) or text.portion is not None:
    raise ArgumentError(
      'training reads the train part of a text and measures on its validation '
      'part; give the whole text, without split.'
    )
  return text.data_config(
    sequence_length=sequence_length, batch_size=batch_size, seed=seed
  )


def check_room(
  config: EarlyExitConfig,
  settings: RunSettings,
  *,
  frozen: Callable[[Params], Params] = lambda params: params,
  mesh: Mesh | None,
) -> None:
  """Check that a run fits its devices, before anything is allocated there.

  Args:
    config: the model with its exits.
    settings: of the run.
    frozen: what is done with the parameters that stay as they are.
    mesh: the devices; None checks the frozen patterns alone.

  Raises:
    EejaxError: parameters and optimizer state do not fit.
    ArgumentError: a frozen pattern matches nothing.
  """
  objective = settings.objective

  def make():
    params = freeze.cut_to_depth(
      decoder.init(config, jax.random.key(0)),
      config=config,
      full_depth=objective.full_depth(config),
    )
    trainable, rest = freeze.split(
      params, regime=objective.regime, frozen=settings.frozen
    )
    made = settings.make_optimizer()
    return state.create(trainable, optimizer=made), frozen(rest)

  if mesh is None and not settings.frozen:
    return
  shapes = jax.eval_shape(make)
  if mesh is not None:
    memory.check_room(shapes, mesh=mesh, what='the model with its optimizer')


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """Batches of a run.

  Attributes:
    batches: to train on, this host's share.
    held_out: to measure, all of them.
  """

  batches: ResumableBatches
  held_out: Sequence[Batch]


def read_data(
  settings: RunSettings,
  tokenizer: Tokenizer,
  *,
  mesh: Mesh | None,
  progress: Progress = SILENT,
) -> TrainingData:
  """Return this host's training batches, and all held-out batches."""
  with progress.waiting('reading the corpus'):
    return TrainingData(
      _batches(settings.data, tokenizer, mesh, progress),
      _held_out(settings, tokenizer, progress),
    )


def train(
  task: Task,
  *,
  folder: AnyPath,
  settings: LoopConfig,
  data: TrainingData,
  cost: StepCost,
  progress: Progress,
  what: str,
) -> TrainResult:
  """Train to the end, or until somebody says stop.

  Args:
    task: what is learned.
    folder: of the run.
    settings: length and cadence.
    data: to train on and to measure.
    cost: of a step.
    progress: of this host.
    what: is being done, as in 'tuning'.

  Raises:
    EejaxError: the run was interrupted; all is saved.
  """
  result = loop.train(
    task,
    folder=folder,
    settings=settings,
    batches=data.batches,
    held_out=data.held_out,
    reporter=ProgressReporter(progress, what=what),
    cost=cost,
  )
  if result.ending is Ending.INTERRUPTED:
    raise EejaxError(
      f'stopped at step {result.step} of {settings.steps} as asked; all is '
      'saved, so run the same command again to go on.'
    )
  return result


def provenance(
  verb: str, result: TrainResult, data: DataConfig
) -> dict[str, Any]:
  """Return what a checkpoint says of the run that made it."""
  return {
    verb: {
      'steps': result.step,
      'held_out': dict(result.held_out),
      # Its train part was trained on; see `Text.unseen_by`.
      'text': {'source': data.corpus, 'unit': data.unit.value},
    }
  }


def _batches(
  data: DataConfig, tokenizer: Tokenizer, mesh: Mesh | None, progress: Progress
) -> ResumableBatches:
  if mesh is None:
    return data_batches.make_batches(
      data, tokenizer, Split.TRAIN, progress=progress
    )
  share = sharding.row_share(mesh)
  return data_batches.make_shared_batches(
    data, tokenizer, index=share.index, count=share.count, progress=progress
  )


def _held_out(
  settings: RunSettings, tokenizer: Tokenizer, progress: Progress
) -> list[Batch]:
  count = settings.held_out_batches
  if count == 0:
    return []
  try:
    # Every host reads all of it and feeds its own rows.
    whole = dataclasses.replace(settings.data, shard_index=0, num_shards=1)
    batches = data_batches.make_batches(
      whole,
      tokenizer,
      Split.VALIDATION,
      passes=Passes.ONCE,
      progress=progress,
    )
  except ArgumentError as error:
    sentence = str(error).rstrip('.')
    if count is None:
      progress.say(f'nothing is held out: {sentence}.')
      return []
    raise ArgumentError(
      f'{sentence}, or do without: held_out_batches = 0.'
    ) from error
  return list(itertools.islice(batches, count or USUAL_HELD_OUT))
