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
"""Training of a whole decoder, with or without exits."""

import dataclasses
import enum
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from eejax import config as config_lib
from eejax import storage
from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import streaming, surgery
from eejax.checkpoint.folder import Existing
from eejax.checkpoint.model import Model
from eejax.checkpoint.tokenizer_files import find_tokenizer
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.data import batches as data_batches
from eejax.data.corpus import Split, TextUnit
from eejax.data.data_config import DataConfig
from eejax.data.tokenizer import Tokenizer, check_vocabulary, train_bpe
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.parallel import multihost, sharding
from eejax.progress import SILENT, Progress
from eejax.recipes import run_identity, run_result, training_runs
from eejax.recipes.run_result import RunResult
from eejax.recipes.step_cost import step_cost
from eejax.recipes.text import Text
from eejax.recipes.training_runs import RunSettings
from eejax.storage import AnyPath
from eejax.training import freeze, open_run, run_folder
from eejax.training.freeze import Regime
from eejax.training.loop import TrainResult
from eejax.training.loop_config import LoopConfig
from eejax.training.objective import Objective
from eejax.training.open_run import MeshChoice, OpenRun
from eejax.training.optimizers import Configured
from eejax.training.step import StepConfig
from eejax.training.weight_schedules import Curriculum, ExitWeights
from eejax.types import Params

TOKENIZER = 'tokenizer'


class KeptExits(enum.Enum):
  """Which exits of a pretrained model its checkpoint keeps."""

  ALL = 'all'
  NONE = 'none'


@dataclasses.dataclass(frozen=True)
class PretrainResult(RunResult):
  """A trained decoder; see `RunResult`."""

  title = 'Trained decoder'


def pretrain(
  model: ModelConfig | str | os.PathLike,
  text: Text | DataConfig | str | os.PathLike,
  *,
  folder: str | os.PathLike,
  exits: str = '',
  steps: int = 4000,
  learning_rate: float | Configured = 2e-3,
  warmup_steps: int = 200,
  weight_decay: float = 0.1,
  batch_size: int = 8,
  sequence_length: int | None = None,
  exit_weights: float | Sequence[float] = 0.3,
  curriculum: Curriculum = Curriculum.ROTATIONAL,
  distillation: float = 0.0,
  dtype: str = 'float32',
  microbatches: int = 1,
  seed: int = 0,
  held_out_batches: int | None = None,
  mesh: MeshChoice = None,
  frozen: Sequence[str] = (),
  kept_exits: KeptExits = KeptExits.ALL,
  tokenizer: str | os.PathLike | None = None,
  objective: Objective | None = None,
  optimizer: Configured | None = None,
  loop: LoopConfig | None = None,
  step: StepConfig | None = None,
  attachments: Mapping[str, str] | None = None,
  progress: Progress = SILENT,
) -> PretrainResult:
  """Train a whole decoder, from random parameters or from a checkpoint.

  A run that was stopped is continued by the same call, with the same numbers;
  a call with other settings is refused the folder.

  Args:
    model: a configuration, whose start and end tokens the tokenizer sets, for
      random parameters; or an eejax checkpoint to start from, with its
      tokenizer and a new optimizer.
    text: its train part is trained on, its validation part measured. A
      DataConfig says batch and sequence length itself.
    folder: of the run: metrics, checkpoints to go on from, and the result as
      the checkpoint `model`.
    exits: as `add_exits` takes them, trained beside the backbone; added to
      those of a checkpoint.
    steps: optimizer steps in all.
    learning_rate: peak of a warm-up and a cosine down to a tenth, or any
      schedule of optax that is `configured`.
    warmup_steps: until the peak.
    weight_decay: of all matrices.
    batch_size: sequences a step.
    sequence_length: tokens a sequence; None is 256, or the model's context
      where that is shorter.
    exit_weights: of the exits' losses beside the final one: one number, or
      one for each exit, shallowest first.
    curriculum: which exits take part in a step.
    distillation: share of an exit's loss that imitates the final head.
    dtype: of what is computed, `float32` or `bfloat16`.
    microbatches: parts that a batch is cut into, one after the other.
    seed: of everything random.
    held_out_batches: that are measured; None is 16, or what the text has.
    mesh: the devices: a MeshConfig, `data=2,model=4`, or a name in
      `configs/meshes`. None takes the default device, and of several
      processes all.
    frozen: regular expressions of paths that stay as they are, as
      `backbone/embedding/.*`, or `backbone/blocks/(?!11/).*` for all blocks
      but the last; see `eejax.training.freeze.train_mask`.
    kept_exits: which exits the resulting checkpoint keeps.
    tokenizer: a folder with a tokenizer.json; None trains a byte-level BPE of
      the model's vocabulary size on the text.
    objective: in place of `exit_weights`, `curriculum`, `distillation`.
    optimizer: `configured`, in place of AdamW with `weight_decay`; it is
      given the learning rate.
    loop: in place of `steps`: length and cadence.
    step: in place of `dtype`, `microbatches`.
    attachments: texts to be kept in the folder, by file name.
    progress: is told how far the run is.

  Returns:
    The run; its `model` is ready to decode.

  Raises:
    ArgumentError: a setting does not fit the model, or the folder is another
      run's; one sentence names what differs.
    EejaxError: the run was interrupted (all is saved), or the loss is no
      number.

  Example:
    >>> import eejax
    >>> run = eejax.pretrain(  # doctest: +SKIP
    ...   config, eejax.read_text('stdlib'), folder='runs/a', exits='2:norm'
    ... )
  """
  start = _Start(model, exits, tokenizer, seed)
  objective = objective or Objective(
    regime=Regime.JOINT if start.config.exits else Regime.STANDARD,
    exit_weights=ExitWeights(weights=exit_weights, curriculum=curriculum),
    distillation_weight=distillation,
  )
  _check_regime(objective.regime, start.config)
  settings = training_runs.make_settings(
    start.config,
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
    frozen=frozen,
  )
  with open_run.open_run(
    folder,
    mesh=mesh,
    identity=settings.identity(
      'pretrain',
      tokenizer=start.template_tokenizer(text),
      model=start.identity(),
    ),
    rows=settings.data.batch_size,
    step=settings.step,
    blocks=start.config.model.num_layers,
    check=lambda devices: training_runs.check_room(
      start.config, settings, mesh=devices
    ),
    attachments=attachments,
  ) as place:
    if not multihost.is_first():
      progress = SILENT
    return _train(start, settings, place, kept_exits, progress)


@dataclasses.dataclass(frozen=True)
class _Start:
  """What a run starts from.

  Attributes:
    source: a configuration, or a checkpoint.
    exits: to be added.
    tokenizer: a folder; None with a configuration trains one.
    seed: of new parameters.
  """

  source: ModelConfig | str | os.PathLike
  exits: str
  tokenizer: str | os.PathLike | None
  seed: int
  config: EarlyExitConfig = dataclasses.field(init=False)

  def __post_init__(self):
    heads = config_lib.parse_exits(self.exits) if self.exits else ()
    if isinstance(self.source, ModelConfig):
      config = EarlyExitConfig(self.source, heads)
    elif self.tokenizer is not None:
      raise ArgumentError(
        f'{self.source} brings its own tokenizer; leave the other one out.'
      )
    else:
      config = surgery.planned(
        checkpoint_folder.read_config(self.source), add=heads
      )
      # Raises where there is none, before anything is written.
      source = storage.as_path(self.source)
      _ = Model(config, {}, find_tokenizer(source)).tokenizer
    object.__setattr__(self, 'config', config)

  def known_tokenizer(self) -> Tokenizer | None:
    """Return the tokenizer, None where the run trains one."""
    if not isinstance(self.source, ModelConfig):
      folder = find_tokenizer(storage.as_path(self.source))
      return Model(self.config, {}, folder).tokenizer
    if self.tokenizer is None:
      return None
    return Tokenizer.load(self.tokenizer)

  def template_tokenizer(self, text: Any) -> Tokenizer | None:
    """Return the tokenizer whose template a text is read by, if any.

    Raises:
      ArgumentError: there is none, and the text is conversations.
    """
    if getattr(text, 'unit', None) is not TextUnit.CONVERSATION:
      return None
    tokenizer = self.known_tokenizer()
    if tokenizer is None:
      raise ArgumentError(
        'conversations need a chat template, which a new tokenizer has not; '
        'start from a checkpoint, or name the folder of a tokenizer with one.'
      )
    return tokenizer

  def identity(self) -> dict[str, Any]:
    """Return plain values that identify the parameters and the tokenizer."""
    values = {'config': self.config, 'seed': self.seed}
    if isinstance(self.source, ModelConfig):
      source = self.tokenizer
      made = source and run_identity.tokenizer_hash(storage.as_path(source))
      return {**values, 'tokenizer': made}
    return {**values, 'source': run_identity.of_checkpoint(self.source)}

  def parameters(
    self,
    folder: AnyPath,
    *,
    data: DataConfig,
    mesh: Mesh | None,
    progress: Progress,
  ) -> tuple[EarlyExitConfig, Params, Tokenizer]:
    """Return the model with its special tokens, parameters and tokenizer."""
    if not isinstance(self.source, ModelConfig):
      params, tokenizer = _from_checkpoint(
        self.source, self.config, self.seed, mesh
      )
      multihost.from_first(lambda: tokenizer.save(folder / TOKENIZER))
      return self.config, params, tokenizer
    vocab_size = self.source.vocab_size
    tokenizer = _tokenizer(folder, self.tokenizer, data, vocab_size, progress)
    return *_random(self.config, tokenizer, self.seed, mesh), tokenizer


def _check_regime(regime: Regime, config: EarlyExitConfig) -> None:
  if regime is Regime.TUNE:
    raise ArgumentError('pretrain cannot freeze the backbone; use eejax tune.')
  if bool(config.exits) != (regime is Regime.JOINT):
    raise ArgumentError(
      'the joint regime trains exits and the standard regime has none; give '
      'exits with Regime.JOINT alone.'
    )


def _train(
  start: _Start,
  settings: RunSettings,
  place: OpenRun,
  kept_exits: KeptExits,
  progress: Progress,
) -> PretrainResult:
  config, params, tokenizer = start.parameters(
    place.folder, data=settings.data, mesh=place.mesh, progress=progress
  )
  check_vocabulary(tokenizer, config.model.vocab_size)
  task = settings.task(config, params, mesh=place.mesh)
  del params  # the run takes them over
  result = training_runs.train(
    task,
    folder=place.folder,
    settings=settings.loop,
    data=training_runs.read_data(
      settings, tokenizer, mesh=place.mesh, progress=progress
    ),
    cost=step_cost(config, settings, mesh=place.mesh),
    progress=progress,
    what='training',
  )
  origin = training_runs.provenance('pretrain', result, settings.data)
  _save(place.folder, config, result, kept_exits, origin)
  return PretrainResult(
    folder=place.folder,
    steps=result.step,
    curve=run_result.read_curve(place.folder),
  )


def _random(
  config: EarlyExitConfig, tokenizer: Tokenizer, seed: int, mesh: Mesh | None
) -> tuple[EarlyExitConfig, Params]:
  """Return the model with the tokenizer's special tokens, and parameters."""
  model = dataclasses.replace(
    config.model, bos_id=tokenizer.bos_id, eos_ids=tokenizer.eos_ids
  )
  config = dataclasses.replace(config, model=model)
  make = lambda: decoder.init(config, jax.random.key(seed))
  if mesh is None:
    return config, jax.jit(make)()
  return config, sharding.initialise(make, mesh=mesh)


def _from_checkpoint(
  checkpoint: str | os.PathLike,
  config: EarlyExitConfig,
  seed: int,
  mesh: Mesh | None,
) -> tuple[Params, Tokenizer]:
  """Return its parameters in float32, new exits among them."""
  if mesh is None:
    loaded = checkpoint_folder.load(checkpoint, dtype=jnp.float32)
  else:
    loaded = streaming.load(checkpoint, mesh=mesh, dtype=jnp.float32)
  added = [e for e in config.exits if e not in loaded.config.exits]
  params, _ = surgery.add_exits(
    loaded.params, loaded.config, added, key=jax.random.key(seed)
  )
  return params, loaded.tokenizer


def _tokenizer(
  folder: AnyPath,
  source: str | os.PathLike | None,
  data: DataConfig,
  vocab_size: int,
  progress: Progress,
) -> Tokenizer:
  """Return the run's tokenizer, kept in the run folder from then on."""
  own = folder / TOKENIZER

  def make() -> None:
    if not (own / 'tokenizer.json').is_file():
      _new_tokenizer(source, data, vocab_size, progress).save(own)

  multihost.from_first(make)
  return Tokenizer.load(own)


def _new_tokenizer(
  source: str | os.PathLike | None,
  data: DataConfig,
  vocab_size: int,
  progress: Progress,
) -> Tokenizer:
  if source is not None:
    tokenizer = Tokenizer.load(source)
  else:
    with progress.waiting('training a tokenizer'):
      texts = data_batches.read_texts(data, split=Split.TRAIN)
      tokenizer = train_bpe(texts, vocab_size=vocab_size)
  check_vocabulary(tokenizer, vocab_size)
  return tokenizer


def _save(
  folder: AnyPath,
  config: EarlyExitConfig,
  result: TrainResult,
  kept_exits: KeptExits,
  provenance: dict[str, Any],
) -> None:
  params = freeze.merge(result.trainable, result.frozen)
  if kept_exits is KeptExits.NONE:
    config, params = config.with_exits(()), {**params, 'exits': {}}
  checkpoint_folder.save(
    folder / run_folder.MODEL,
    Model(
      config=config,
      params=params,
      tokenizer_folder=find_tokenizer(folder / TOKENIZER),
      provenance=provenance,
    ),
    existing=Existing.OVERWRITE,
  )
