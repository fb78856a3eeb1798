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
"""What a pretraining and a tuning run have in common."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from eejax.cli import output
from eejax.cli.run_hosts import MeshChoice
from eejax.cli.run_reporter import ProgressReporter
from eejax.config import EarlyExitConfig
from eejax.data import batches as data_batches
from eejax.data.batch import Batch
from eejax.data.corpus import Split
from eejax.data.data_config import DataConfig
from eejax.data.memory_source import Passes
from eejax.data.sharded import ResumableBatches
from eejax.data.tokenizer import Tokenizer, check_vocabulary
from eejax.errors import ArgumentError, EejaxError
from eejax.models import decoder
from eejax.parallel import memory, multihost, sharding
from eejax.training import freeze, loop, state
from eejax.training.freeze import Regime
from eejax.training.loop import Ending, LoopConfig, Task, TrainResult
from eejax.training.objective import Objective
from eejax.training.reporting import Silence
from eejax.training.step import StepConfig
from eejax.types import Params

PLAIN_STEP = StepConfig()

OptimizerFactory = Callable[..., optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class CachedData:
  """Hold batches with what exits read of the backbone.

  Attributes:
    batches: to train on.
    held_out: to measure.
  """

  batches: ResumableBatches
  held_out: Sequence[Batch]


def check(
  config: EarlyExitConfig,
  objective: Objective,
  data: DataConfig,
  step: StepConfig,
  mesh: MeshChoice = None,
) -> None:
  """Raise what is wrong with a run before anything is written."""
  if data.sequence_length > config.model.max_length:
    raise ArgumentError(
      f'sequences of {data.sequence_length} tokens are longer than the '
      f"model's context of {config.model.max_length}."
    )
  # On a mesh the rows of all hosts make one batch, and the mesh is checked.
  rows = data.batch_size // (data.num_shards if mesh is None else 1)
  if rows % step.microbatches:
    raise ArgumentError(
      f'a batch of {rows} rows cannot be cut into {step.microbatches} '
      'microbatches.'
    )
  if config.exits:
    objective.exit_weights.check(len(config.exits))


def check_room(
  config: EarlyExitConfig,
  *,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  frozen: Callable[[Params], Params] = lambda params: params,
  mesh: Mesh | None,
) -> None:
  """Check that a run fits its devices, before anything is allocated there.

  Args:
    config: the model with its exits.
    objective: says what is trained and how deep.
    optimizer: of the trainable part.
    frozen: what is done with the parameters that stay as they are.
    mesh: the devices; None checks nothing.

  Raises:
    EejaxError: parameters and optimizer state do not fit.
  """
  if mesh is None:
    return

  def make():
    params = freeze.cut_to_depth(
      decoder.init(config, jax.random.key(0)),
      config=config,
      full_depth=objective.full_depth(config),
    )
    trainable, rest = freeze.split(params, regime=objective.regime)
    return state.create(trainable, optimizer=optimizer), frozen(rest)

  memory.check_room(
    jax.eval_shape(make), mesh=mesh, what='the model with its optimizer'
  )


def train(
  task: Task,
  *,
  folder: pathlib.Path,
  settings: LoopConfig,
  data: DataConfig,
  tokenizer: Tokenizer,
  held_out_batches: int,
  cached: CachedData | None = None,
) -> TrainResult:
  """Train to the end, with a person watching.

  Args:
    task: what is learned.
    folder: of the run.
    settings: length and cadence.
    data: the corpus and the shape of a batch.
    tokenizer: of the model.
    held_out_batches: batches of the validation part that are measured.
    cached: what to read in place of the corpus.

  Raises:
    EejaxError: the run was interrupted; all is saved.
  """
  check_vocabulary(tokenizer, task.config.model.vocab_size)
  if cached is not None:
    batches, held_out = cached.batches, cached.held_out
  else:
    batches, held_out = read_data(
      data, tokenizer, mesh=task.mesh, held_out_batches=held_out_batches
    )
  what = 'tuning' if task.objective.regime is Regime.TUNE else 'training'
  outcome = loop.train(
    task,
    folder=folder,
    settings=settings,
    batches=batches,
    held_out=held_out,
    reporter=ProgressReporter(what) if multihost.is_first() else Silence(),
  )
  if outcome.ending is Ending.INTERRUPTED:
    raise EejaxError(
      f'stopped at step {outcome.step} of {settings.steps} as asked; all is '
      'saved, so run the same command again to go on.'
    )
  return outcome


def read_data(
  data: DataConfig,
  tokenizer: Tokenizer,
  *,
  mesh: Mesh | None,
  held_out_batches: int,
) -> tuple[ResumableBatches, Sequence[Batch]]:
  """Return this host's training batches, and all held-out batches."""
  with output.waiting('reading the corpus'):
    return (
      _batches(data, tokenizer, mesh),
      _held_out(data, tokenizer, held_out_batches),
    )


def schedule(rate: optax.ScalarOrSchedule) -> optax.Schedule:
  """Return a learning rate as a schedule, also where it is one number."""
  return rate if callable(rate) else optax.constant_schedule(rate)


def provenance(verb: str, outcome: TrainResult) -> dict[str, Any]:
  """Return what a checkpoint says of the run that made it."""
  return {verb: {'steps': outcome.step, 'held_out': dict(outcome.held_out)}}


def result(folder: pathlib.Path, outcome: TrainResult) -> dict[str, Any]:
  """Return what `--json` prints of a run."""
  return {
    'run': str(folder),
    'model': str(folder / 'model'),
    'steps': outcome.step,
    'held_out': dict(outcome.held_out),
  }


def _batches(
  data: DataConfig, tokenizer: Tokenizer, mesh: Mesh | None
) -> ResumableBatches:
  if mesh is None:
    return data_batches.make_batches(data, tokenizer, Split.TRAIN)
  share = sharding.row_share(mesh)
  return data_batches.make_shared_batches(
    data, tokenizer, index=share.index, count=share.count
  )


def _held_out(
  data: DataConfig, tokenizer: Tokenizer, count: int
) -> list[Batch]:
  if not count:
    return []
  try:
    # Every host reads all of it and feeds its own rows.
    whole = dataclasses.replace(data, shard_index=0, num_shards=1)
    batches = data_batches.make_batches(
      whole, tokenizer, Split.VALIDATION, passes=Passes.ONCE
    )
  except ArgumentError as error:
    raise ArgumentError(
      f'{str(error).rstrip(".")}, or do without: held_out_batches = 0.'
    ) from error
  return list(itertools.islice(batches, count))
