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
"""Tests of rows that are taken of a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.ops.lookup import take_rows

IDS = jnp.array([[3, 0, 3], [-1, 4, 1]])


def table(dtype):
  values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
  if dtype != 'int8':
    values[4] = [np.nan, np.inf, -0.0, 1e-40]
  return jnp.asarray(values, dtype)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8'])
def test_the_bits_are_those_of_the_table(dtype):
  rows = jax.jit(take_rows)(table(dtype), IDS)
  assert rows.dtype == dtype
  expected = np.asarray(table(dtype))[np.asarray(IDS)]
  assert np.asarray(rows).tobytes() == expected.tobytes()


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_gradients_sum_over_equal_ids(dtype):
  weights = jnp.arange(24, dtype=dtype).reshape(2, 3, 4)
  loss = lambda t: (take_rows(t, IDS) * weights).sum()
  got = jax.jit(jax.grad(loss))(jnp.ones((5, 4), dtype))
  expected = np.zeros((5, 4))
  np.add.at(expected, np.asarray(IDS), np.asarray(weights, np.float32))
  np.testing.assert_array_equal(np.asarray(got, np.float32), expected)


def test_a_loop_converts_no_table():
  """XLA's own gather would put a float32 copy of it before the loop."""
  shape = (4096, 64)

  def last_of_a_walk(table, token):
    step = lambda _, row: take_rows(table, token[0] + row[..., 0].astype(int))
    return jax.lax.fori_loop(0, 3, step, take_rows(table, token))

  compiled = (
    jax.jit(last_of_a_walk)
    .lower(
      jax.ShapeDtypeStruct(shape, jnp.bfloat16),
      jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    .compile()
  )
  whole = 4 * shape[0] * shape[1]
  assert compiled.memory_analysis().temp_size_in_bytes < whole / 8
