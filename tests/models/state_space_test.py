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
"""Tests of blocks that keep a state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.models import decoder
from eejax.models.block import Block
from eejax.models.state_space import RecurrentContext
from eejax.ops.recurrent_state import KeptStates
from eejax.testing import tiny

KINDS = tiny.KINDS_OF_RECURRENT_BLOCK


@pytest.mark.parametrize('kind', KINDS)
def test_a_packed_text_sees_no_other(kind):
  config = tiny.tiny_config('', num_layers=2, **KINDS[kind])
  params = tiny.tiny_params(config)
  tokens = tiny.tiny_tokens(config, batch_size=1, length=9)
  run = jax.jit(
    lambda tokens, positions, ids: decoder.logits(
      params, tokens, config=config, positions=positions, segment_ids=ids
    )['final']
  )
  positions = jnp.array([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
  ids = jnp.array([[1] * 4 + [2] * 5])
  packed = run(tokens, positions, ids)
  ones = jnp.ones((1, 9), jnp.int32)
  alone = run(jnp.roll(tokens, -4, axis=1), jnp.arange(9)[None], ones)
  np.testing.assert_allclose(packed[:, 4:], alone[:, :5], atol=1e-5)


@pytest.mark.parametrize('kind', ['mamba', 'mamba2'])
def test_a_text_goes_on_from_any_state(kind):
  config = tiny.tiny_config('', num_layers=1, **KINDS[kind])
  params = tiny.tiny_params(config)['backbone']['blocks']
  block = jax.tree.map(lambda leaf: leaf[0], params)
  x = jax.random.normal(jax.random.key(0), (2, 8, config.model.embed_dim))

  @jax.jit
  def run(x, continuation):
    return Block(config.model).apply(
      {'params': block}, x, positions=None, continuation=continuation
    )

  whole = run(x, RecurrentContext())
  every = run(x, RecurrentContext(kept=KeptStates.EVERY)).state
  # Padding changes no state.
  counted = run(x, RecurrentContext(count=jnp.array([3, 3]))).state
  state = jax.tree.map(lambda leaf: leaf[:, 2], every)
  for found, wanted in zip(
    jax.tree.leaves(counted), jax.tree.leaves(state), strict=True
  ):
    np.testing.assert_allclose(found, wanted, atol=1e-6)
  rest = run(x[:, 3:], RecurrentContext(state))
  np.testing.assert_allclose(rest.hidden, whole.hidden[:, 3:], atol=1e-5)
