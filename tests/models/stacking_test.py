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
"""Tests of the maps between stacked, per-block and fused parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.models import stacking
from eejax.models.block import Block, Projections
from eejax.testing import tiny


def test_unstacking_and_stacking_return_the_same(tiny_params):
  blocks = tiny_params['backbone']['blocks']
  parts = stacking.unstack(blocks)
  assert len(parts) == stacking.num_blocks(blocks) == 4
  jax.tree.map(np.testing.assert_array_equal, stacking.stack(parts), blocks)


def test_truncation_keeps_the_first_blocks(tiny_params):
  short = stacking.truncate(tiny_params, depth=2)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b[:2]),
    short['backbone']['blocks'],
    tiny_params['backbone']['blocks'],
  )
  assert stacking.num_blocks(tiny_params['backbone']['blocks']) == 4
  with pytest.raises(ArgumentError, match='cannot keep 5 of 4 blocks'):
    stacking.truncate(tiny_params, depth=5)


@pytest.mark.parametrize('biases', [False, True])
def test_fused_projections_compute_the_same(biases):
  config = tiny.tiny_config('', qkv_bias=biases, mlp_bias=biases)
  params = tiny.tiny_params(config)
  block = stacking.unstack(params['backbone']['blocks'])[1]
  x = jax.random.normal(jax.random.key(1), (2, 5, 16))
  positions = jnp.broadcast_to(jnp.arange(5), (2, 5))
  plain = Block(config.model).apply({'params': block}, x, positions=positions)
  fused = Block(config.model, projections=Projections.FUSED).apply(
    {'params': stacking.fuse(block)}, x, positions=positions
  )
  pairs = zip(jax.tree.leaves(plain), jax.tree.leaves(fused), strict=True)
  for a, b in pairs:
    np.testing.assert_allclose(a, b, atol=1e-5)
