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
"""Tests of the recurrence of Mamba 2 against itself, number by number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.ops.recurrent_state import KeptStates
from eejax.ops.state_space_dual import state_space_dual

B, T, HEADS, P, GROUPS, N = 2, 21, 4, 3, 2, 5
STARTS = np.zeros((B, T), bool)
STARTS[0, [4, 17]] = STARTS[1, 16] = True


@pytest.fixture(scope='module')
def arrays():
  draw = lambda seed, *s: jax.random.normal(jax.random.key(seed), s)
  return {
    'x': draw(0, B, T, HEADS, P),
    'step': jax.nn.softplus(draw(1, B, T, HEADS)),
    'rates': -jnp.exp(draw(2, HEADS)),
    'writes': draw(3, B, T, GROUPS, N),
    'reads': draw(4, B, T, GROUPS, N),
    'memory': draw(5, B, HEADS, P, N),
  }


def oracle(arrays):
  a = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
  outputs, states = np.zeros((B, T, HEADS, P)), []
  state = a['memory'].copy()
  for t in range(T):
    state[STARTS[:, t]] = 0
    for head in range(HEADS):
      group = head // (HEADS // GROUPS)
      for row in range(B):
        step = a['step'][row, t, head]
        scaled = step * a['x'][row, t, head]
        state[row, head] *= np.exp(step * a['rates'][head])
        state[row, head] += np.outer(scaled, a['writes'][row, t, group])
        read = a['reads'][row, t, group]
        outputs[row, t, head] = state[row, head] @ read
    states.append(state.copy())
  return outputs, np.stack(states, 1)


def run(arrays, **options):
  arrays = dict(arrays)
  return state_space_dual(
    arrays.pop('x'), starts=jnp.asarray(STARTS), **arrays, **options
  )


@pytest.mark.parametrize('chunk', [4, 256])
def test_chunks_equal_the_recurrence(arrays, chunk):
  wanted, states = oracle(arrays)
  y, last = jax.jit(lambda a: run(a, chunk=chunk))(arrays)
  np.testing.assert_allclose(y, wanted, atol=2e-5)
  np.testing.assert_allclose(last, states[:, -1], atol=2e-5)


def test_every_state_equals_the_recurrence(arrays):
  wanted, states = oracle(arrays)
  y, found = run(arrays, kept=KeptStates.EVERY)
  np.testing.assert_allclose(y, wanted, atol=2e-5)
  np.testing.assert_allclose(found, states, atol=2e-5)


def test_gradients_equal_those_of_the_recurrence(arrays):
  def loss(arrays, **options):
    y, kept = run(arrays, **options)
    last = kept[:, -1] if kept.ndim == 5 else kept
    return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last))

  chunks = jax.jit(jax.grad(lambda a: loss(a, chunk=4)))(arrays)
  every = jax.jit(jax.grad(lambda a: loss(a, kept=KeptStates.EVERY)))(arrays)
  for name, array in chunks.items():
    np.testing.assert_allclose(
      array, every[name], rtol=1e-3, atol=1e-4, err_msg=name
    )
