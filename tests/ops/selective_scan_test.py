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
"""Tests of the recurrence of Mamba, in all of its forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.ops.recurrent_state import KeptStates
from eejax.ops.selective_scan import (
  scan_channel_blocks,
  scan_token_chunks,
  selective_scan,
)

B, T, CHANNELS, N = 2, 21, 70, 3


def draw(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.fixture(scope='module')
def arrays():
  return {
    'x': draw(0, B, T, CHANNELS),
    'step': jax.nn.softplus(draw(1, B, T, CHANNELS)),
    'rates': -jnp.exp(draw(2, N, CHANNELS)),
    'writes': draw(3, B, T, N),
    'reads': draw(4, B, T, N),
    'memory': draw(5, B, N, CHANNELS),
  }


STARTS = np.zeros((B, T), bool)
STARTS[0, [4, 17]] = STARTS[1, 16] = True


def oracle(arrays):
  """Run the recurrence number by number in float64."""
  a = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
  outputs, states = np.zeros((B, T, CHANNELS)), np.zeros((B, T, N, CHANNELS))
  for row in range(B):
    state = a['memory'][row]
    for t in range(T):
      if STARTS[row, t]:
        state = np.zeros_like(state)
      step = a['step'][row, t]
      added = np.outer(a['writes'][row, t], step * a['x'][row, t])
      state = np.exp(step * a['rates']) * state + added
      states[row, t] = state
      outputs[row, t] = a['reads'][row, t] @ state
  return outputs, states


def run(arrays, scan=selective_scan, **options):
  arrays = dict(arrays)
  return scan(arrays.pop('x'), starts=jnp.asarray(STARTS), **arrays, **options)


def through(scan, x, *, step, rates, writes, reads, memory, starts):
  keeps = (~starts).astype(jnp.float32)
  return scan((x, step, writes, reads, keeps), rates, memory)


FORMS = {
  'here': selective_scan,
  'blocks': functools.partial(through, scan_channel_blocks),
  'chunks': functools.partial(through, scan_token_chunks),
}


@pytest.mark.parametrize('form', FORMS)
def test_whole_texts_equal_the_recurrence(arrays, form):
  wanted, states = oracle(arrays)
  y, last = jax.jit(lambda a: run(a, FORMS[form]))(arrays)
  np.testing.assert_allclose(y, wanted, atol=2e-5)
  np.testing.assert_allclose(last, states[:, -1], atol=2e-5)


def test_every_state_equals_the_recurrence(arrays):
  wanted, states = oracle(arrays)
  y, found = run(arrays, kept=KeptStates.EVERY)
  np.testing.assert_allclose(y, wanted, atol=2e-5)
  np.testing.assert_allclose(found, states, atol=2e-5)


def test_gradients_are_alike_in_all_forms(arrays):
  def loss(arrays, scan):
    y, last = run(arrays, scan)
    return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last))

  grads = [
    jax.jit(jax.grad(functools.partial(loss, scan=scan)))(arrays)
    for scan in FORMS.values()
  ]
  every = lambda a: run(a, kept=KeptStates.EVERY)

  def sequential(arrays):
    y, states = every(arrays)
    return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(states[:, -1]))

  wanted = jax.jit(jax.grad(sequential))(arrays)
  for found in grads:
    for name, array in found.items():
      np.testing.assert_allclose(array, wanted[name], atol=1e-4, err_msg=name)


def test_tokens_without_a_step_change_nothing(arrays):
  padded = arrays | {'step': arrays['step'].at[:, 9:].set(0)}
  _, last = selective_scan(padded.pop('x'), **padded)
  short = {
    name: array if name in ('rates', 'memory') else array[:, :9]
    for name, array in arrays.items()
  }
  _, wanted = selective_scan(short.pop('x'), **short)
  np.testing.assert_allclose(last, wanted, atol=1e-6)
