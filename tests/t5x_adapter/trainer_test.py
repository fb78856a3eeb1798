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
"""Test t5x's trainer with eejax's gradients against eejax's own step."""

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.t5x_adapter import features
from eejax.testing import tiny
from eejax.training import freeze, state
from eejax.training.optimizers import clipped_adamw
from eejax.training.step import StepConfig, make_train_step

pytestmark = pytest.mark.t5x


@pytest.fixture(scope='module')
def make_trainer(tiny_params):
  """Return a function that makes a trainer of t5x for a model."""
  from t5x import train_state

  from eejax.t5x_adapter.optimizers import frozen_tree
  from eejax.t5x_adapter.partitioner import (
    EarlyExitPartitioner,
    logical_axis_rules,
  )
  from eejax.t5x_adapter.trainer import EarlyExitTrainer

  def make(model, *, cls=EarlyExitTrainer, folder=None, microbatches=None):
    partitioner = EarlyExitPartitioner(
      num_partitions=1, logical_axis_rules=logical_axis_rules()
    )
    variables = flax.core.unfreeze(
      model.get_initial_variables(jax.random.key(0), {})
    )
    variables['params'] = flax.core.unfreeze(frozen_tree(tiny_params))
    created = train_state.FlaxOptimTrainState.create(
      model.optimizer_def, flax.core.freeze(variables)
    )
    axes = partitioner.get_mesh_axes(created)
    # Its step donates the state, and the parameters are others', too.
    placed = partitioner.partition(
      lambda s: jax.tree.map(lambda x: jnp.asarray(x) + 0, s),
      in_axis_resources=None,
      out_axis_resources=axes,
    )(created)
    return cls(
      model=model,
      train_state=placed,
      partitioner=partitioner,
      train_state_axes=axes,
      eval_names=(),
      summary_dir=None if folder is None else str(folder),
      rng=jax.random.PRNGKey(0),
      learning_rate_fn=lambda step: 1e-2,
      num_microbatches=microbatches,
    )

  return make


def own_step(config, params, batch, objective):
  """Return parameters after eejax's own step, and the step's sums."""
  trainable, frozen = freeze.split(params, regime=objective.regime)
  # As the adapter's default, for weights and moments are the same.
  optimizer = clipped_adamw(1e-2, clip_norm=1.0)
  start = state.create(trainable, optimizer=optimizer)
  step = make_train_step(
    config, objective=objective, optimizer=optimizer, settings=StepConfig()
  )
  tokens = features.token_batch(jax.tree.map(jnp.asarray, batch))
  new, metrics = jax.jit(step)(start, frozen, tokens)
  return freeze.merge(new.trainable, frozen), metrics.sums


def value(metrics, name):
  return float(metrics.result()[name].value)


def assert_close(found, expected, tolerance=1e-5):
  from eejax.t5x_adapter.optimizers import plain_tree

  found = plain_tree(found)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=0),
    {'backbone': found['backbone'], 'exits': found['exits']},
    expected,
  )


@pytest.mark.parametrize(
  'regime, microbatches',
  [('joint', None), ('joint', 2), ('standard', None), ('tune', None)],
)
def test_loss_and_first_update_are_those_of_eejax(
  regime,
  microbatches,
  make_model,
  make_trainer,
  t5x_batch,
  tiny_params,
  tiny_config,
):
  model = make_model(regime, exit_weights=[0.5, 1.0, 2.0])
  expected, sums = own_step(
    tiny_config, tiny_params, t5x_batch, model.objective
  )
  with make_trainer(model, microbatches=microbatches) as trainer:
    metrics = trainer.train(iter([t5x_batch]), 1)
    loss = float(sums.objective / sums.tokens)
    assert value(metrics, 'loss') == pytest.approx(loss, abs=1e-5)
    assert_close(trainer.train_state.params, expected)
    assert int(trainer.train_state.step) == 1


def test_the_stock_trainer_makes_the_same_update(
  make_model, make_trainer, t5x_batch, tiny_params, tiny_config
):
  from t5x import trainer as t5x_trainer

  model = make_model('joint', exit_weights=0.5)
  expected, sums = own_step(
    tiny_config, tiny_params, t5x_batch, model.objective
  )
  with make_trainer(model, cls=t5x_trainer.Trainer) as trainer:
    metrics = trainer.train(iter([t5x_batch]), 1)
    loss = float(sums.objective / sums.tokens)
    assert value(metrics, 'loss') == pytest.approx(loss, abs=1e-5)
    assert_close(trainer.train_state.params, expected)


def test_there_is_a_metric_an_exit(make_model, make_trainer, t5x_batch):
  with make_trainer(make_model('joint')) as trainer:
    found = trainer.train(iter([t5x_batch]), 1).result()
  for name in ('final/loss', 'exit_1/loss', 'exit_2/accuracy', 'exit_3/loss'):
    assert np.isfinite(found[name].value), name
  assert np.isfinite(found['exit_3/gate_loss'].value)
  assert 'exit_1/gate_loss' not in found


def test_tuning_leaves_every_byte_of_the_backbone(
  make_model, make_trainer, t5x_batch, tiny_params
):
  with make_trainer(make_model('tune')) as trainer:
    before = jax.tree.map(np.array, trainer.train_state.params)
    trainer.train(iter([t5x_batch] * 3), 3).result()
    after = jax.tree.map(np.array, trainer.train_state.params)
  pairs = jax.tree.leaves(
    jax.tree.map(
      lambda a, b: a.tobytes() == b.tobytes(),
      before['backbone'],
      after['backbone'],
    )
  )
  assert all(pairs)
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), before['exits'], after['exits']
  )
  assert all(jax.tree.leaves(moved))


def test_weights_that_are_trained_have_metrics(
  make_model, make_trainer, t5x_batch
):
  from t5x import trainer as t5x_trainer

  with make_trainer(make_model('tune')) as trainer:
    trainer._weight_metrics_computer = t5x_trainer.WeightMetricsComputer()
    found = trainer.train(iter([t5x_batch]), 1).result()
  names = [name for name in found if name.startswith('weight_update_rms/')]
  assert names
  assert all(name.startswith('weight_update_rms/exits/') for name in names)


def test_what_is_frozen_has_no_state(make_model, make_trainer, tiny_params):
  with make_trainer(make_model('tune')) as trainer:
    kept = jax.tree.leaves(trainer.train_state.param_states)
  exits = jax.tree.leaves(tiny_params['exits'])
  moments = [leaf for leaf in kept if leaf.ndim]
  assert sum(m.size for m in moments) == 2 * sum(e.size for e in exits)


def test_weights_follow_the_step(make_model, make_trainer, t5x_batch):
  model = make_model('joint', curriculum='rotational')
  with make_trainer(model) as trainer:
    seen = [
      {
        name
        for name, v in trainer.train(iter([t5x_batch]), 1).result().items()
        if name.endswith('/loss') and np.isfinite(v.value)
      }
      for _ in range(3)
    ]
  assert seen == [{'final/loss', f'exit_{d}/loss'} for d in (1, 2, 3)]


def test_a_run_says_what_model_it_holds(make_model, make_trainer, tmp_path):
  from eejax.checkpoint import t5x_description

  model = make_model('tune')
  with make_trainer(model, folder=tmp_path / 'run'):
    pass
  found = t5x_description.read(tmp_path / 'run')
  assert found.config == model.config


class TestRefusals:
  def test_the_stock_trainer_cannot_tune(
    self, make_model, make_trainer, t5x_batch
  ):
    from t5x import trainer as t5x_trainer

    from eejax.errors import ArgumentError

    for objective in ({'regime': 'tune'}, {'curriculum': 'rotational'}):
      model = make_model(**objective)
      with make_trainer(model, cls=t5x_trainer.Trainer) as trainer:
        with pytest.raises(ArgumentError, match='EarlyExitTrainer'):
          trainer.train(iter([t5x_batch]), 1)

  def test_an_optimizer_that_knows_nothing_of_what_is_frozen(
    self, make_model, make_trainer
  ):
    from t5x import optimizers as t5x_optimizers

    from eejax.errors import ArgumentError

    model = make_model('tune')
    model.optimizer_def = t5x_optimizers.adamw(1e-2)
    with pytest.raises(ArgumentError, match="the optimizer is for 'joint'"):
      make_trainer(model)
    model.optimizer_def = make_model('standard').optimizer_def
    with pytest.raises(ArgumentError, match="the optimizer is for 'standard'"):
      make_trainer(model)


def test_adafactor_knows_every_name(make_model, make_trainer, t5x_batch):
  from t5x import adafactor

  from eejax.t5x_adapter.optimizers import logical_factor_rules

  config = tiny.tiny_config('1:norm:gate,2:bottleneck_mlp(5),4:block')
  model = make_model('joint', config=config)
  model.optimizer_def = adafactor.Adafactor(
    1e-2, logical_factor_rules=logical_factor_rules()
  )
  variables = model.get_initial_variables(jax.random.key(0), {})
  from t5x import train_state

  # A name that it does not know is an error.
  state = train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)
  assert jax.tree.leaves(state.param_states)
