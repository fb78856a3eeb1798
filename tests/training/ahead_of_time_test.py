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
"""Test that a step can be compiled from shapes, and what is read off it."""

import jax
import jax.numpy as jnp
import pytest

from eejax.models.stacking import num_blocks
from eejax.parallel import sharding
from eejax.parallel.mesh import MeshConfig, make_mesh
from eejax.testing import tiny
from eejax.training import ahead_of_time, state
from eejax.training.freeze import Regime
from eejax.training.objective import Forward, Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.step import StepConfig


def test_shapes_are_those_of_the_regime():
  config = tiny.tiny_config('1:norm,2:mlp', num_layers=4)
  shapes = lambda regime: ahead_of_time.abstract_params(
    config, objective=Objective(regime=regime), dtype='bfloat16'
  )
  trained, frozen = shapes(Regime.TUNE)
  assert not jax.tree.leaves([trained['backbone'], frozen['exits']])
  assert num_blocks(frozen['backbone']['blocks']) == 2
  kinds = lambda tree: {leaf.dtype for leaf in jax.tree.leaves(tree)}
  assert kinds(frozen) == {jnp.dtype('bfloat16')}
  assert kinds(trained) == {jnp.dtype('float32')}
  trained, frozen = shapes(Regime.JOINT)
  assert set(trained) == {'exits', 'backbone'}
  assert not jax.tree.leaves(frozen)
  assert num_blocks(trained['backbone']['blocks']) == 4


@pytest.mark.parametrize('fsdp', [1, 4])
def test_compiled_arguments_are_state_and_batch(fsdp):
  config = tiny.tiny_config('2:norm:untied', num_layers=2)
  mesh = make_mesh(MeshConfig(data=1, fsdp=fsdp), devices=jax.devices()[:fsdp])
  objective, optimizer = Objective(regime=Regime.JOINT), clipped_adamw(1e-3)
  compiled = ahead_of_time.compile_ahead(
    config,
    objective=objective,
    optimizer=optimizer,
    settings=StepConfig(forward=Forward()),
    mesh=mesh,
    rows=8,
    length=6,
  )
  found = ahead_of_time.step_memory(compiled)
  trained, _ = ahead_of_time.abstract_params(
    config, objective=objective, dtype='float32'
  )
  like = jax.eval_shape(
    lambda tree: state.create(tree, optimizer=optimizer), trained
  )
  held = sharding.bytes_on_device(
    like, places=sharding.shardings(like, mesh=mesh)
  )
  assert found.arguments == held + 5 * 4 * 6 * 8 // fsdp
  # The new state takes the place of the old one: only metrics are left.
  assert 0 < found.results < 2000
  assert found.temporary > 0
  assert found.peak == found.arguments + found.temporary + found.results
