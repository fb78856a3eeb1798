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
"""Test the train step: what it computes, and what it does not."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.models.decoder import Rematerialization
from eejax.testing import tiny
from eejax.training import freeze, state
from eejax.training.freeze import Regime
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Forward, Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.step import (
  StepConfig,
  compile_train_step,
  gradients,
  layer_dropout_rates,
  make_train_step,
)

JOINT = Objective(regime=Regime.JOINT)
TUNE = Objective(regime=Regime.TUNE, gate_weight=0.0)


def make_batch(config, rows=4, length=6):
  tokens = tiny.tiny_tokens(config, batch_size=rows, length=length)
  shape = (rows, length)
  column, row = np.arange(length)[None], np.arange(rows)[:, None]
  counted = jnp.asarray(column < row + 2)
  return TokenBatch(
    tokens=tokens,
    targets=jnp.roll(tokens, -1, axis=1),
    weights=counted.astype(jnp.float32),
    positions=jnp.broadcast_to(jnp.arange(length), shape),
    segment_ids=jnp.ones(shape, jnp.int32),
  )


def make_step(config, objective, settings=None, optimizer=None):
  return compile_train_step(
    make_train_step(
      config,
      objective=objective,
      optimizer=optimizer or clipped_adamw(1e-2),
      settings=settings or StepConfig(),
    )
  )


def start(params, objective, optimizer=None):
  trainable, frozen = freeze.split(params, regime=objective.regime)
  trainable = jax.tree.map(jnp.copy, trainable)  # the step donates them
  optimizer = optimizer or clipped_adamw(1e-2)
  return state.create(trainable, optimizer=optimizer), frozen


def digest(tree):
  leaves = jax.tree.leaves(tree)
  return hashlib.sha256(b''.join(np.asarray(x).tobytes() for x in leaves))


def test_microbatches_add_up_to_the_batch(tiny_config, tiny_params):
  # The rows count 2, 3, 4 and 5 tokens: a mean of means would be off.
  batch = make_batch(tiny_config)
  found = {}
  for count in (1, 2, 4):
    found[count] = jax.jit(
      lambda batch, count=count: gradients(
        tiny_params,
        {},
        batch,
        step=jnp.zeros((), jnp.int32),
        config=tiny_config,
        objective=JOINT,
        settings=StepConfig(microbatches=count),
      )
    )(batch)
  for count in (2, 4):
    pairs = zip(
      jax.tree.leaves(found[count]), jax.tree.leaves(found[1]), strict=True
    )
    for got, want in pairs:
      np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-5)
  assert found[1][1].tokens == 14
  assert optax.global_norm(found[1][0]) > 0.1


def test_gradient_is_that_of_the_mean(tiny_config, tiny_params):
  batch = make_batch(tiny_config)
  grads, _ = gradients(
    tiny_params,
    {},
    batch,
    step=jnp.zeros((), jnp.int32),
    config=tiny_config,
    objective=Objective(regime=Regime.STANDARD),
    settings=StepConfig(),
  )

  def mean_loss(params):
    logits = decoder.logits(params, batch.tokens, config=tiny_config)['final']
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch.targets
    )
    return jnp.sum(losses * batch.weights) / jnp.sum(batch.weights)

  want = jax.jit(jax.grad(mean_loss))(tiny_params)
  jax.tree.map(
    lambda g, w: np.testing.assert_allclose(g, w, atol=2e-5),
    grads['backbone'],
    want['backbone'],
  )


def test_a_batch_that_cannot_be_cut(tiny_config, tiny_params):
  step = make_step(tiny_config, TUNE, StepConfig(microbatches=3))
  with pytest.raises(ArgumentError, match='4 rows cannot be cut into 3'):
    step(*start(tiny_params, TUNE), make_batch(tiny_config))


class TestTuning:
  def test_backbone_bytes_and_optimizer_state(self, tiny_config, tiny_params):
    before = digest(tiny_params['backbone'])
    now, frozen = start(tiny_params, TUNE)
    step = make_step(tiny_config, TUNE)
    losses = []
    for _ in range(3):
      now, metrics = step(now, frozen, make_batch(tiny_config))
      losses.append(float(metrics.sums.objective))
    assert digest(frozen['backbone']).digest() == before.digest()
    assert not jax.tree.leaves(now.trainable['backbone'])
    assert not jax.tree.leaves(frozen['exits'])
    assert losses[-1] < losses[0]
    assert now.step == 3

  def test_one_pass_over_the_blocks(self, tiny_config, tiny_params):
    def scans(objective):
      now, frozen = start(tiny_params, objective)
      step = make_train_step(
        tiny_config,
        objective=objective,
        optimizer=clipped_adamw(1e-2),
        settings=StepConfig(),
      )
      program = jax.make_jaxpr(step)(now, frozen, make_batch(tiny_config))
      return block_scans(program.jaxpr, tiny_config.model.num_layers)

    assert scans(TUNE) == 1  # no backward pass through the backbone
    assert scans(JOINT) == 2

  def test_gradients_are_of_exits_alone(self, tiny_config, tiny_params):
    trainable, frozen = freeze.split(tiny_params, regime=Regime.TUNE)
    shapes, _ = jax.eval_shape(
      lambda t, f, b: gradients(
        t,
        f,
        b,
        step=0,
        config=tiny_config,
        objective=TUNE,
        settings=StepConfig(microbatches=2),
      ),
      trainable,
      frozen,
      make_batch(tiny_config),
    )
    assert jax.tree.structure(shapes) == jax.tree.structure(trainable)

  def test_memory_does_not_grow_with_the_backbone(self):
    rows, length = 4, 64
    temp = {
      layers: temp_bytes(
        tiny.tiny_config(
          f'2:mlp,{layers}:norm',
          num_layers=layers,
          embed_dim=64,
          max_length=length,
        ),
        rows=rows,
        length=length,
      )
      for layers in (8, 16)
    }
    one_block = rows * length * 64 * 4
    assert temp[16] - temp[8] <= one_block, temp


def block_scans(jaxpr, num_layers):
  """Count the scans over the blocks; chunked losses scan, too."""
  count = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'scan':
      count += equation.params['length'] == num_layers
    for parameter in equation.params.values():
      for one in parameter if isinstance(parameter, tuple) else (parameter,):
        inner = getattr(one, 'jaxpr', one)
        if hasattr(inner, 'eqns'):
          count += block_scans(inner, num_layers)
  return count


def temp_bytes(config, *, rows, length, objective=TUNE):
  """Return what the compiler sets aside for one step."""
  optimizer = clipped_adamw(1e-3)
  step = compile_train_step(
    make_train_step(
      config, objective=objective, optimizer=optimizer, settings=StepConfig()
    )
  )
  shapes = jax.eval_shape(lambda k: decoder.init(config, k), jax.random.key(0))
  trainable, frozen = freeze.split(shapes, regime=objective.regime)
  now = jax.eval_shape(
    lambda t: state.create(t, optimizer=optimizer), trainable
  )
  batch = jax.eval_shape(lambda: make_batch(config, rows, length))
  compiled = step.lower(now, frozen, batch).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize('output', ('shared', 'untied'))
def test_many_exits_need_no_more_memory_than_one(output):
  def config(depths):
    exits = ','.join(f'{d}:norm:{output}' for d in depths)
    return tiny.tiny_config(
      exits, num_layers=8, vocab_size=128_000, max_length=512
    )

  one = temp_bytes(config([8]), rows=4, length=512)
  eight = temp_bytes(config(range(1, 9)), rows=4, length=512)
  logits_of_a_chunk = 1024 * 128_000 * 4
  assert one < 3.5 * logits_of_a_chunk
  assert eight <= 1.2 * one, (eight, one)


class TestPrecision:
  def test_masters_stay_float32(self, tiny_config, tiny_params):
    settings = StepConfig(forward=Forward(dtype='bfloat16'))
    now, frozen = start(tiny_params, JOINT)
    step = make_step(tiny_config, JOINT, settings)
    now, metrics = step(now, frozen, make_batch(tiny_config))
    kinds = {x.dtype for x in jax.tree.leaves(now.trainable)}
    assert kinds == {jnp.dtype('float32')}
    assert metrics.sums.objective.dtype == jnp.float32

  def test_bfloat16_gradients_are_near(self, tiny_config, tiny_params):
    def grads(dtype):
      found, _ = gradients(
        tiny_params,
        {},
        make_batch(tiny_config),
        step=jnp.zeros((), jnp.int32),
        config=tiny_config,
        objective=JOINT,
        settings=StepConfig(forward=Forward(dtype=dtype)),
      )
      return found

    exact, rough = grads('float32'), grads('bfloat16')
    difference = optax.global_norm(jax.tree.map(jnp.subtract, exact, rough))
    assert 0 < difference < 0.05 * optax.global_norm(exact)


@pytest.mark.parametrize('kind', list(Rematerialization))
def test_rematerialization_changes_no_gradient(tiny_config, tiny_params, kind):
  def grads(rematerialization):
    return jax.jit(
      lambda batch: gradients(
        tiny_params,
        {},
        batch,
        step=jnp.zeros((), jnp.int32),
        config=tiny_config,
        objective=JOINT,
        settings=StepConfig(
          forward=Forward(rematerialization=rematerialization)
        ),
      )[0]
    )(make_batch(tiny_config))

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    grads(kind),
    grads(Rematerialization.NONE),
  )


class TestLayerDropout:
  settings = StepConfig(layer_dropout=0.4)

  def test_rates_grow_exponentially_with_depth(self):
    got = layer_dropout_rates(0, settings=self.settings, num_layers=5)
    # 0.4 (2^(l / 4) - 1)
    want = [0.0, 0.07568284, 0.16568542, 0.27271713, 0.4]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)

  def test_rates_grow_with_time(self):
    settings = dataclasses.replace(self.settings, layer_dropout_steps=5)
    last = [
      float(layer_dropout_rates(t, settings=settings, num_layers=3)[-1])
      for t in (0, 2, 4, 100)
    ]
    np.testing.assert_allclose(
      last, [0.0, 0.16568542, 0.4, 0.4], rtol=1e-5, atol=1e-7
    )

  def test_a_model_of_one_block_is_never_skipped(self):
    got = layer_dropout_rates(0, settings=self.settings, num_layers=1)
    np.testing.assert_array_equal(got, [0.0])

  def test_masks_follow_the_step_and_the_seed(self, tiny_config, tiny_params):
    batch = make_batch(tiny_config)

    def loss(step, seed):
      settings = StepConfig(layer_dropout=0.9, seed=seed)
      now, frozen = start(tiny_params, JOINT)
      now = now.replace(step=jnp.asarray(step, jnp.int32))
      _, metrics = make_step(tiny_config, JOINT, settings)(now, frozen, batch)
      return float(metrics.sums.objective)

    assert loss(3, 0) == loss(3, 0)
    assert len({loss(3, 0), loss(4, 0), loss(3, 1)}) == 3

  @pytest.mark.parametrize('rate', (-0.1, 1.0))
  def test_bad_rates(self, rate):
    with pytest.raises(ArgumentError, match='layer_dropout must be in'):
      StepConfig(layer_dropout=rate)


def test_bad_microbatches():
  with pytest.raises(ArgumentError, match='microbatches must be at least 1'):
    StepConfig(microbatches=0)


def test_the_step_is_compiled_once(tiny_config, tiny_params):
  traces = []
  inner = make_train_step(
    tiny_config,
    objective=TUNE,
    optimizer=clipped_adamw(1e-2),
    settings=StepConfig(),
  )

  def counted(*args):
    traces.append(1)
    return inner(*args)

  step = compile_train_step(counted)
  now, frozen = start(tiny_params, TUNE)
  for _ in range(3):
    now, _ = step(now, frozen, make_batch(tiny_config))
  assert len(traces) == 1


def test_the_state_is_donated_and_the_backbone_is_not(tiny_config, tiny_params):
  now, frozen = start(tiny_params, TUNE)
  leaves = jax.tree.leaves(now.trainable)
  make_step(tiny_config, TUNE)(now, frozen, make_batch(tiny_config))
  assert all(x.is_deleted() for x in leaves)
  assert not any(x.is_deleted() for x in jax.tree.leaves(frozen))


def test_any_optax_optimizer_will_do(tiny_config, tiny_params):
  optimizer = optax.chain(optax.clip(0.1), optax.lion(1e-3))
  now, frozen = start(tiny_params, TUNE, optimizer)
  step = make_step(tiny_config, TUNE, optimizer=optimizer)
  now, metrics = step(now, frozen, make_batch(tiny_config))
  assert metrics.grad_norm > 0
