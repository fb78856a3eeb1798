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
"""Test that a pull-back can be taken apart and put together again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.pipeline.residuals import pull_back_of, residuals_of
from eejax.pipeline.stage import StageParams


def through_sines(weights, x):
  return jnp.sin(x @ weights.own['a']) @ weights.shared['b']


def linear(weights, x):
  return (x + 1.0) @ weights.own['a'] @ weights.shared['b']


@pytest.mark.parametrize('function', [through_sines, linear])
def test_gradients_are_the_same_and_weights_are_not_kept(function):
  keys = jax.random.split(jax.random.key(0), 4)
  weights = StageParams(
    {'a': jax.random.normal(keys[0], (5, 7))},
    {'b': jax.random.normal(keys[1], (7, 7))},
  )
  x = jax.random.normal(keys[2], (3, 5))
  gradient = jax.random.normal(keys[3], (3, 7))

  @jax.jit
  def kept(weights, x):
    _, pull = jax.vjp(function, weights, x)
    return residuals_of(pull)

  @jax.jit
  def gradients(weights, residuals, gradient):
    _, like = jax.eval_shape(lambda w, x: jax.vjp(function, w, x), weights, x)
    return pull_back_of(residuals, weights=weights, like=like)(gradient)

  residuals = kept(weights, x)
  shapes = {leaf.shape for leaf in jax.tree.leaves(residuals)}
  assert not shapes & {(5, 7), (7, 7)}
  got = gradients(weights, residuals, gradient)
  _, pull = jax.vjp(function, weights, x)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    got,
    pull(gradient),
  )
