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
"""Tests of prepared parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.loop.prepare import prepare
from eejax.models.exits import output_matrix_name
from eejax.models.stacking import unstack
from eejax.testing import tiny

EXITS = '1:norm,2:norm:tied_embedding,3:norm:untied:gate,4:norm:shared'


def test_blocks_may_be_stacked_or_not():
  config = tiny.tiny_config(EXITS)
  params = tiny.tiny_params(config)
  backbone = params['backbone']
  apart = {
    **params,
    'backbone': {**backbone, 'blocks': unstack(backbone['blocks'])},
  }
  one, other = prepare(params, config=config), prepare(apart, config=config)
  assert len(one.blocks) == 4
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
  'tied, names',
  [
    (False, ['final', 'embedding', 'exit_3', 'final']),
    (True, ['final', 'final', 'exit_3', 'final']),
  ],
)
def test_shared_matrices_stand_once(tied, names):
  config = tiny.tiny_config(EXITS, tied_head=tied)
  params = tiny.tiny_params(config)
  prepared = prepare(params, config=config)
  assert [
    output_matrix_name(e, config=config.model) for e in config.exits
  ] == names
  assert set(prepared.kernels) == {'final', *names}
  assert all(k.shape == (16, 29) for k in prepared.kernels.values())
  table = params['backbone']['embedding']['table']
  tied_name = output_matrix_name(config.exits[1], config=config.model)
  assert prepared.kernels[tied_name].matrix is prepared.table
  np.testing.assert_array_equal(prepared.table, table)


def test_gates_stay_exact():
  config = tiny.tiny_config(EXITS)
  prepared = prepare(
    tiny.tiny_params(config), config=config, dtype=jnp.bfloat16
  )
  assert prepared.dtype == jnp.bfloat16
  gate = prepared.exits['exit_3'].pop('gate')
  assert {x.dtype for x in jax.tree.leaves(gate)} == {jnp.dtype('float32')}
  assert {x.dtype for x in jax.tree.leaves(prepared)} == {jnp.dtype('bfloat16')}
  assert 'output' not in prepared.exits['exit_3']
