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
"""Tests of products and of the way that each platform is given."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.ops.matmul import FEW_ROWS, multiply, multiply_few_rows

ROWS = [1, 2, 3, 8, FEW_ROWS]


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize('rows', ROWS)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_products_are_those_of_numpy(rows, dtype):
  x, kernel = normal(0, rows, 24).astype(dtype), normal(1, 40, 24).astype(dtype)
  exact = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64).T
  found = multiply(x, kernel, dtype=jnp.float32)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
  rounded = multiply(x, kernel, dtype=dtype)
  assert rounded.dtype == dtype
  step = 1e-5 if dtype == jnp.float32 else 2.0**-8
  np.testing.assert_allclose(
    rounded.astype(jnp.float32), exact, rtol=step, atol=step
  )


@pytest.mark.parametrize('rows', [1, 5])
def test_derivatives_are_those_of_the_plain_product(rows):
  x, kernel, g = normal(0, rows, 24), normal(1, 40, 24), normal(2, rows, 40)
  x, kernel, g = (a.astype(jnp.bfloat16) for a in (x, kernel, g))
  ours = jax.vjp(lambda *a: multiply(*a, dtype=jnp.bfloat16), x, kernel)[1](g)
  theirs = jax.vjp(lambda x, k: x @ k.T, x, kernel)[1](g)
  for found, expected in zip(ours, theirs, strict=True):
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(
      found.astype(jnp.float32),
      expected.astype(jnp.float32),
      rtol=2.0**-7,
      atol=2.0**-7,
    )


# MARK: Compiled form


def products_of(rows, dtype, result):
  """Return the result of every product in the program for a CPU."""
  x, kernel = jnp.zeros((rows, 256), dtype), jnp.zeros((512, 256), dtype)
  program = jax.jit(lambda x, kernel: multiply(x, kernel, dtype=result))
  text = program.lower(x, kernel).compile().as_text()
  return re.findall(r'= (\w+\[[\d,]+\])\S* dot\(', text)


@pytest.mark.parametrize(
  'rows, dtype, result, expected',
  [
    (1, jnp.bfloat16, jnp.bfloat16, 'f32[2,512]'),
    (1, jnp.bfloat16, jnp.float32, 'f32[2,512]'),
    (8, jnp.bfloat16, jnp.bfloat16, 'f32[8,512]'),
    (1, jnp.float32, jnp.float32, 'f32[1,512]'),
  ],
)
def test_cpus_sum_two_rows_at_least(rows, dtype, result, expected):
  assert expected in products_of(rows, dtype, result)


def test_cpus_multiply_two_rows_apart():
  assert products_of(2, jnp.float32, jnp.float32) == ['f32[1,512]'] * 2
  assert products_of(4, jnp.float32, jnp.float32) == ['f32[4,512]']


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_accelerators_get_the_plain_product(platform):
  dtype = jnp.bfloat16
  program = jax.jit(lambda x, kernel: multiply(x, kernel, dtype=dtype))
  x, kernel = jnp.zeros((1, 256), dtype), jnp.zeros((512, 256), dtype)
  text = (
    program.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
  )
  assert 'stablehlo.dot_general' in text and 'stablehlo.pad' not in text
  assert 'tensor<2x' not in text


def test_no_row_of_zeros_is_seen_outside():
  x = normal(0, 1, 24).astype(jnp.bfloat16)
  kernel = jnp.full((8, 24), jnp.inf, jnp.bfloat16)
  found = multiply_few_rows(x, kernel, dtype=jnp.float32)
  assert found.shape == (1, 8)
