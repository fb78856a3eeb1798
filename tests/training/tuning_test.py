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
"""Test what tuning is for: exits improve, and MLP exits improve more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.checkpoint import surgery
from eejax.config import Initialization, parse_exits
from eejax.models import decoder
from eejax.testing import tiny
from eejax.training import freeze, losses, state
from eejax.training.freeze import Regime
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Forward, Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.step import (
  StepConfig,
  compile_train_step,
  make_train_step,
)

ROWS, LENGTH = 8, 16


def make_batch(config, seed):
  """Return sequences in which a token is the sum of the two before it."""
  size = config.model.vocab_size
  random = np.random.default_rng(seed)
  rows = [list(random.integers(0, size, 2)) for _ in range(ROWS)]
  for row in rows:
    while len(row) <= LENGTH:
      row.append((row[-1] + row[-2]) % size)
  tokens = jnp.array(rows, jnp.int32)
  shape = (ROWS, LENGTH)
  return TokenBatch(
    tokens=tokens[:, :-1],
    targets=tokens[:, 1:],
    weights=jnp.ones(shape, jnp.float32),
    positions=jnp.broadcast_to(jnp.arange(LENGTH), shape),
    segment_ids=jnp.ones(shape, jnp.int32),
  )


def train(params, config, objective, steps):
  """Return the parameters after some steps."""
  trainable, frozen = freeze.split(params, regime=objective.regime)
  optimizer = clipped_adamw(1e-2, weight_decay=0.0)
  now = state.create(jax.tree.map(jnp.copy, trainable), optimizer=optimizer)
  step = compile_train_step(
    make_train_step(
      config, objective=objective, optimizer=optimizer, settings=StepConfig()
    )
  )
  for seed in range(steps):
    now, _ = step(now, frozen, make_batch(config, seed))
  return freeze.merge(now.trainable, frozen)


def held_out(params, config):
  sums = losses.evaluation_sums(
    params,
    make_batch(config, 10_000),
    config=config,
    forward=Forward(),
    full_depth=True,
  )
  return np.asarray(sums.exits.loss / sums.exits.tokens)


@pytest.fixture(scope='module')
def backbone():
  config = tiny.tiny_config('', vocab_size=11)
  params = decoder.init(config, jax.random.key(0))
  return train(params, config, Objective(regime=Regime.STANDARD), 60), config


@pytest.mark.parametrize('output', ('shared', 'untied'))
def test_exits_improve_and_mlps_improve_more(backbone, output):
  start, config = backbone
  tuned = {}
  for head in ('norm', 'mlp'):
    exits = parse_exits(','.join(f'{d}:{head}:{output}' for d in (1, 2, 3)))
    params, with_exits = surgery.add_exits(
      start,
      config,
      exits,
      initialization=Initialization.COPY,
      key=jax.random.key(1),
    )
    before = held_out(params, with_exits)
    after_params = train(params, with_exits, Objective(regime=Regime.TUNE), 60)
    tuned[head] = held_out(after_params, with_exits)
    assert np.all(tuned[head] < before), head
    jax.tree.map(
      np.testing.assert_array_equal,
      after_params['backbone'],
      params['backbone'],
    )
  assert np.all(tuned['mlp'] < tuned['norm'])
