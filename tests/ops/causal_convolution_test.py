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
"""Tests of the causal convolution and of what it needs of earlier tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.ops.causal_convolution import causal_convolution, next_tails
from eejax.ops.recurrent_state import KeptStates

B, T, C, X = 2, 7, 3, 4


@pytest.fixture
def x():
  return jax.random.normal(jax.random.key(0), (B, T, C))


@pytest.fixture
def kernel():
  return jax.random.normal(jax.random.key(1), (X, C))


def oracle(x, kernel, segment_ids):
  y = np.zeros(x.shape)
  for row, t, back in np.ndindex(B, T, X):
    if t >= back and segment_ids[row, t - back] == segment_ids[row, t]:
      y[row, t] += np.asarray(x[row, t - back] * kernel[X - 1 - back])
  return y


@pytest.mark.parametrize('ids', [[0] * 7, [0, 0, 1, 1, 1, 2, 2]])
def test_it_sums_the_inputs_of_a_text(x, kernel, ids):
  segment_ids = jnp.array([ids, [0] * T])
  y = causal_convolution(x, kernel=kernel, segment_ids=segment_ids)
  wanted = oracle(x, kernel, np.asarray(segment_ids))
  np.testing.assert_allclose(y, wanted, atol=1e-5)


@pytest.mark.parametrize('cut', [1, 3, 6])
def test_it_goes_on_from_a_tail(x, kernel, cut):
  whole = causal_convolution(x, kernel=kernel)
  first, rest = x[:, :cut], x[:, cut:]
  kept = {'tail': None, 'width': X}
  tail = next_tails(first, kept=KeptStates.LAST, **kept)
  found = causal_convolution(rest, kernel=kernel, tail=tail)
  np.testing.assert_allclose(found, whole[:, cut:], atol=1e-6)
  every = next_tails(x, kept=KeptStates.EVERY, **kept)
  np.testing.assert_array_equal(every[:, cut - 1], tail)
  counted = next_tails(
    x, kept=KeptStates.LAST, count=jnp.full((B,), cut), **kept
  )
  np.testing.assert_array_equal(counted, tail)
