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
"""Tests of products by groups against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.ops import grouped_matmul
from eejax.ops.grouped_matmul import grouped_product

NUM, INPUTS, OUTPUTS = 4, 6, 5
# Empty groups, a row beyond all groups, one group that is many tiles.
SIZES = {
  'even': (5, 5, 5, 5),
  'empty': (0, 19, 0, 0),
  'beyond': (3, 0, 1, 7),
  'tiles': (1, 2, 300, 9),
}


def loop(x, kernels, sizes):
  y, at = np.zeros((len(x), OUTPUTS)), 0
  for kernel, size in zip(kernels, sizes, strict=True):
    y[at : at + size] = x[at : at + size] @ kernel
    at += size
  return y


def operands(sizes):
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (sum(sizes) + 2, INPUTS))
  return x, jax.random.normal(keys[1], (NUM, INPUTS, OUTPUTS))


@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
def test_products_equal_those_of_a_loop(sizes):
  x, kernels = operands(sizes)
  y = grouped_product(x, kernels, jnp.array(sizes))
  np.testing.assert_allclose(
    y, loop(np.asarray(x), np.asarray(kernels), sizes), atol=1e-5
  )


def squares(x, kernels, sizes, product):
  return jnp.sum(jnp.sin(product(x, kernels, jnp.array(sizes))) ** 2)


@pytest.mark.parametrize('sizes', SIZES.values(), ids=SIZES)
def test_derivatives_are_those_of_the_product_at_once(sizes):
  x, kernels = operands(sizes)
  slopes = lambda product: jax.jit(
    jax.grad(lambda x, k: squares(x, k, sizes, product), (0, 1))
  )(x, kernels)
  found, expected = slopes(grouped_product), slopes(jax.lax.ragged_dot)
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_accelerators_have_the_same_derivatives(monkeypatch):
  # Their branch, run here.
  monkeypatch.setattr(
    grouped_matmul.lax,
    'platform_dependent',
    lambda *operands, cpu, default: default(*operands),
  )
  test_derivatives_are_those_of_the_product_at_once(SIZES['beyond'])


def test_integers_are_multiplied_and_have_no_derivative():
  x, _ = operands(SIZES['even'])
  kernels = jnp.arange(NUM * INPUTS * OUTPUTS, dtype=jnp.int8)
  kernels = kernels.reshape(NUM, INPUTS, OUTPUTS)
  sizes = SIZES['even']
  found = jax.grad(squares)(x, kernels, sizes, grouped_product)
  expected = jax.grad(squares)(
    x, kernels.astype(jnp.float32), sizes, grouped_product
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)
