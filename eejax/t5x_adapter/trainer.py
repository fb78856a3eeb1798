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
"""t5x's trainer with eejax's gradients: of what is trained, and no other."""

import functools
import tempfile
import types
from typing import Any

import jax
from etils import epath
from t5x import trainer as t5x_trainer

from eejax import storage
from eejax.checkpoint import t5x_description
from eejax.data.seqio_vocabulary import HuggingFaceVocabulary
from eejax.errors import ArgumentError
from eejax.t5x_adapter import features
from eejax.t5x_adapter.model import EarlyExitModel
from eejax.t5x_adapter.optimizers import (
  TrainedPartOptimizer,
  frozen_tree,
  plain_tree,
)
from eejax.training import freeze, step
from eejax.training.freeze import Regime
from eejax.training.step import StepConfig
from eejax.types import Params


class EarlyExitTrainer(t5x_trainer.Trainer):
  """Train what the model's objective trains.

  Gradients are those of `eejax.training.step`: microbatches add up to exactly
  the batch's, weights and curricula follow t5x's step, and where a backbone is
  frozen no backward pass through it is compiled. Everything else (loop,
  metrics, checkpoints, evaluation) is t5x's.
  """

  def __init__(
    self,
    *args: Any,
    layer_dropout: float = 0.0,
    layer_dropout_steps: int = 0,
    **kwargs: Any,
  ):
    """Take t5x's arguments, and eejax's of a step.

    Args:
      *args: of `t5x.trainer.Trainer`.
      layer_dropout: as of `eejax.training.step.StepConfig`.
      layer_dropout_steps: likewise.
      **kwargs: of `t5x.trainer.Trainer`.
    """
    super().__init__(*args, **kwargs)
    model = self._model
    if not isinstance(model, EarlyExitModel):
      raise ArgumentError(
        "EarlyExitTrainer trains an EarlyExitModel; include eejax's "
        't5x/model.gin, or use t5x.trainer.Trainer.'
      )
    _check_optimizer(model)
    self._settings = StepConfig(
      forward=model.forward,
      microbatches=self._num_microbatches or 1,
      layer_dropout=layer_dropout,
      layer_dropout_steps=layer_dropout_steps,
    )
    self._describe()

  def _describe(self) -> None:
    """Say beside the checkpoints what model they hold."""
    metrics = self.train_metrics_manager.summary_dir
    if metrics is None or jax.process_index() != 0:
      return
    # t5x writes its metrics into a folder inside the run's.
    run = epath.Path(metrics).parent
    vocabulary = self._model.output_vocabulary
    with tempfile.TemporaryDirectory() as folder:
      if isinstance(vocabulary, HuggingFaceVocabulary):
        vocabulary.tokenizer.save(folder)
      t5x_description.write(
        run, self._model.config, tokenizer=storage.local_path(folder)
      )

  @functools.cached_property
  def _partitioned_train_step(self) -> Any:
    rows = self._partitioner.data_partition_spec
    return self._partitioner.partition(
      self._train_step,
      in_axis_resources=(self._train_state_axes, rows),
      out_axis_resources=(self._train_state_axes, None),
      donate_argnums=(0,),
    )

  def _train_step(self, train_state: Any, batch: Any) -> tuple[Any, Any]:
    """Return the state after a step, and its metrics."""
    model: EarlyExitModel = self._model
    objective, config = model.objective, model.config
    trainable, frozen = freeze.split(
      plain_tree(train_state.params), regime=objective.regime
    )
    if objective.regime is Regime.TUNE:
      frozen = _cut(frozen, model)
    grads, sums = step.gradients(
      trainable,
      frozen,
      features.token_batch(batch),
      step=train_state.step,
      config=config,
      objective=objective,
      settings=self._settings,
    )
    new_state, metrics = t5x_trainer.apply_grads(
      train_state,
      frozen_tree(grads),
      model.metrics(sums, batch),
      learning_rate=self._learning_rate_fn(train_state.step),
      weight_metrics_computer=None,
    )
    if self._weight_metrics_computer is not None:
      # t5x's own call would look at what is frozen, too.
      metrics |= self._weight_metrics_computer.compute_metrics(
        freeze.without_masked(grads),
        _trained(train_state, objective.regime),
        _trained(new_state, objective.regime),
      )
    return new_state, metrics


def _check_optimizer(model: EarlyExitModel) -> None:
  """Refuse an optimizer that trains something else than the objective."""
  regime, optimizer = model.objective.regime, model.optimizer_def
  if isinstance(optimizer, TrainedPartOptimizer):
    known = optimizer.regime
  else:
    known = Regime.JOINT
  # Where an evaluator is made there is nothing to train.
  if optimizer is not None and known is not regime:
    raise ArgumentError(
      f'the regime is {regime.value!r}, and the optimizer is for '
      f'{known.value!r}; set OPTIMIZER = @optimizers.trained_part() with the '
      'same regime.'
    )


def _trained(train_state: Any, regime: Regime) -> Any:
  """Return a state that has the trained parameters alone."""
  trainable, _ = freeze.split(plain_tree(train_state.params), regime=regime)
  return types.SimpleNamespace(params=freeze.without_masked(trainable))


def _cut(frozen: Params, model: EarlyExitModel) -> Params:
  """Drop the blocks that tuning does not run.

  A slice inside the program is a copy of the blocks that are left, and costs
  less than running those above them.
  """
  full_depth = model.objective.full_depth(model.config)
  return freeze.cut_to_depth(frozen, config=model.config, full_depth=full_depth)
