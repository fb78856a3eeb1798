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
"""Tests of int8 numbers and of products with them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.ops import quant
from eejax.ops.quant import Quantization


def normal(seed, *shape, scale=1.0):
  return scale * jax.random.normal(jax.random.key(seed), shape)


def test_numbers_by_hand():
  found = quant.quantize(jnp.array([[1.27, -4.0], [-0.634, 2.0]]), axes=(0,))
  assert found.values.dtype == jnp.int8
  assert found.values.tolist() == [[127, -127], [-63, 64]]
  np.testing.assert_allclose(found.scale, [0.01, 4 / 127], rtol=1e-6)
  back = quant.dequantize(found, axes=(0,))
  np.testing.assert_allclose(
    back, [[1.27, -4.0], [-0.63, 64 * 4 / 127]], rtol=1e-6
  )


@pytest.mark.parametrize('axes', [(0,), (0, 1), (-1,), (1, 2)])
@pytest.mark.parametrize('scale', [1e-20, 1.0, 1e20])
def test_errors_are_at_most_half_a_step(axes, scale):
  x = normal(0, 7, 5, 11, scale=scale)
  found = quant.quantize(x, axes=axes)
  step = np.expand_dims(np.asarray(found.scale, np.float64), axes)
  error = np.abs(np.asarray(x, np.float64) - found.values * step)
  assert (error <= step / 2 * (1 + 1e-4)).all()
  # As large as it may be, and every group uses its whole range.
  assert (error > step * 0.45).any()
  peaks = np.abs(np.asarray(found.values)).max(axis=axes)
  assert (peaks == 127).all()


def test_zeros_stay_zeros():
  x = normal(0, 6, 3).at[:, 1].set(0.0)
  found = quant.quantize(x, axes=(0,))
  assert not found.values[:, 1].any() and found.scale[1] == 0
  y = quant.kernel_product(normal(1, 2, 6), found)
  assert jnp.isfinite(y).all() and not y[:, 1].any() and y[:, 0].all()


@pytest.mark.parametrize('bad', [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_is_not_hidden(bad):
  x = normal(0, 6, 3).at[2, 1].set(bad)
  y = quant.kernel_product(jnp.ones((1, 6)), quant.quantize(x, axes=(0,)))
  assert jnp.isfinite(y).tolist() == [[True, False, True]]


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  'inputs, features', [((16,), (6, 4)), ((3, 8), (10,)), ((16,), (2, 20))]
)
def test_product_is_that_of_dequantised_kernels(dtype, inputs, features):
  kernel = normal(1, *inputs, *features)
  x = normal(0, 2, 5, *inputs).astype(dtype)
  axes = tuple(range(len(inputs)))
  small = quant.quantize(kernel, axes=axes)
  assert small.scale.shape == features
  found = quant.kernel_product(x, small, num_inputs=len(inputs))
  assert found.dtype == dtype and found.shape == (2, 5, *features)
  exact = np.tensordot(
    np.asarray(x, np.float64),
    np.asarray(quant.dequantize(small, axes=axes), np.float64),
    axes=len(inputs),
  )
  # The integers are exact in bfloat16: rounded is the result alone.
  tolerance = 2e-6 if dtype == jnp.float32 else 2.0**-8
  np.testing.assert_allclose(
    found.astype(jnp.float32), exact, rtol=tolerance, atol=1e-5
  )


def test_error_of_a_product_is_bounded():
  kernel, x = normal(1, 16, 9), normal(0, 4, 16)
  small = quant.quantize(kernel, axes=(0,))
  error = jnp.abs(quant.kernel_product(x, small) - x @ kernel)
  # |x (w - q s)| <= sum |x| s / 2
  bound = jnp.abs(x).sum(axis=1)[:, None] * small.scale[None] / 2
  assert (error <= bound + 1e-6).all() and (error > bound / 100).any()


def test_kernels_that_are_not_quantised_are_multiplied_as_they_are():
  x, kernel = normal(0, 2, 3, 4), normal(1, 3, 4, 5)
  found = quant.kernel_product(x, kernel, num_inputs=2)
  np.testing.assert_array_equal(found, jnp.tensordot(x, kernel, axes=2))


# MARK: Slices


@pytest.mark.parametrize(
  'length, width, expected',
  [
    (256, 128, 1),
    (256, 129, 2),
    (257, 257, 257),
    (768, 4096, 6),
    (1, 10**6, 1),
  ],
)
def test_slices_are_equal_and_small(length, width, expected):
  assert quant.num_slices(length, width) == expected


@pytest.fixture
def small_slices(monkeypatch):
  monkeypatch.setattr(quant, 'WHOLE_SIZE', 40)
  monkeypatch.setattr(quant, 'SLICE_SIZE', 30)


def test_products_by_slices_are_the_same(small_slices):
  x, kernel = normal(0, 3, 12), quant.quantize(normal(1, 12, 10), axes=(0,))
  assert quant.num_slices(12, 10) == 4
  np.testing.assert_allclose(
    quant.multiply_by_slices(x, kernel.values),
    quant.multiply_at_once(x, kernel.values),
    rtol=1e-5,
    atol=1e-4,
  )


def test_large_kernels_are_never_dequantised_whole():
  # Four products that could all be prepared at once, in a loop.
  size = 512
  kernels = [quant.quantize(normal(i, size, size), axes=(0,)) for i in range(4)]

  def loop(kernels, x):
    def body(carry):
      for kernel in kernels:
        carry = jnp.tanh(quant.kernel_product(carry, kernel))
      return carry

    return jax.lax.fori_loop(0, 3, lambda _, carry: body(carry), x)

  program = jax.jit(loop).lower(kernels, jnp.ones((1, size))).compile()
  temp = program.memory_analysis().temp_size_in_bytes
  assert temp < size * size * 4  # of one kernel in float32


# MARK: Keys and values


def test_rows_that_were_rounded_stay_as_they_are():
  rows = normal(0, 2, 3, 50, 7) * jnp.exp(3 * normal(1, 2, 3, 50, 1))
  once = quant.round_rows(rows, Quantization.INT8)
  first, again = quant.quantize_rows(rows), quant.quantize_rows(once)
  assert first.scale.dtype == jnp.bfloat16 and first.scale.shape == (2, 3, 50)
  np.testing.assert_array_equal(first.values, again.values)
  np.testing.assert_array_equal(first.scale, again.scale)
  # Scales of few bits cost nothing beyond what rounding does.
  error = jnp.abs(rows - once)
  step = first.scale.astype(jnp.float32)[..., None]
  assert (error <= step / 2 * (1 + 1e-5)).all() and (error > step * 0.45).any()
  assert quant.round_rows(rows, Quantization.NONE) is rows


def test_zero_rows_are_those_of_zeros():
  found, made = quant.zero_rows((2, 3)), quant.quantize_rows(jnp.zeros((2, 3)))
  for x, y in zip(
    (found.values, found.scale), (made.values, made.scale), strict=True
  ):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_attention_products_are_those_of_dequantised_rows(dtype, small_slices):
  rows = quant.quantize_rows(normal(0, 2, 3, 12, 5))
  exact = quant.dequantize(rows, axes=(-1,))
  assert quant.num_slices(12, 2 * 3 * 5) == 12
  query = normal(1, 2, 3, 4, 5).astype(dtype)
  weights = jax.nn.softmax(normal(2, 2, 3, 4, 12))
  tolerance = 1e-5 if dtype == jnp.float32 else 3e-2
  scores = quant.row_scores(query, rows)
  assert scores.dtype == jnp.float32
  np.testing.assert_allclose(
    scores,
    jnp.einsum('BKTH,BKSH->BKTS', query.astype(jnp.float32), exact),
    atol=1e-5,
  )
  mixed = quant.mix_rows(weights, rows, dtype=dtype)
  assert mixed.dtype == dtype
  np.testing.assert_allclose(
    mixed.astype(jnp.float32),
    jnp.einsum('BKTS,BKSH->BKTH', weights, exact),
    atol=tolerance,
  )
  # In one piece, as other compilers are given it.
  np.testing.assert_allclose(
    quant.score_by_slices(query, rows.values),
    quant._score(query, rows.values),
    rtol=1e-5,
    atol=1e-3,
  )


@pytest.mark.parametrize('num_queries', [1, 2, 32, 33])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_scores_of_few_queries_are_those_of_many(num_queries, dtype):
  query = normal(1, 2, 3, num_queries, 16).astype(dtype)
  keys = normal(2, 2, 3, 64, 16).astype(dtype)
  scores = jax.jit(quant.cache_scores)(query, keys)
  assert scores.dtype == jnp.float32
  exact = jnp.einsum(
    'BKTH,BKSH->BKTS', *(x.astype(jnp.float32) for x in (query, keys))
  )
  np.testing.assert_allclose(scores, exact, atol=1e-4)


def test_keys_are_not_turned_round_for_a_window():
  query, keys = normal(1, 2, 3, 4, 16), normal(2, 2, 3, 64, 16)
  text = jax.jit(quant.cache_scores).lower(query, keys).compile().as_text()
  # The compiled product has a line a key, as the cache has.
  products = re.findall(r'f32(\[[\d,]+\])\S* dot\(', text)
  assert products == ['[2,3,64,4]']


@pytest.mark.parametrize('count', [1, 3])
def test_a_lone_query_has_one_of_zeros_beside_it(count):
  query, rows = normal(1, 2, 3, count, 16), normal(2, 2, 3, 64, 16)
  weights = normal(3, 2, 3, count, 64)
  scores = quant.score_two_or_more(query, rows)
  exact = jnp.einsum('BKTH,BKSH->BKTS', query, rows)
  np.testing.assert_allclose(scores, exact, atol=1e-4)
  mixed = quant.mix_two_or_more(weights, rows)
  exact = jnp.einsum('BKTS,BKSH->BKTH', weights, rows)
  np.testing.assert_allclose(mixed, exact, atol=1e-4)


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
def test_accelerators_have_no_product_of_one_query(platform):
  query, keys = normal(1, 2, 3, 1, 16), normal(2, 2, 3, 64, 16)

  def attend(query, keys):
    scores = quant.cache_scores(query, keys)
    return quant.mix_rows(scores, keys, dtype=jnp.float32)

  lowered = (
    jax.jit(attend).trace(query, keys).lower(lowering_platforms=(platform,))
  )
  products = re.findall(
    r'dot_general.*-> tensor<([\dx]+)xf32>', lowered.as_text()
  )
  assert products == ['2x3x2x64', '2x3x2x16']
