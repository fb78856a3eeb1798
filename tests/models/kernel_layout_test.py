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
"""Tests of kernels that are matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.models.exits import ExitInput, apply_exit_head, init_exit
from eejax.models.kernel_layout import flatten_block, flatten_head
from eejax.ops import matmul
from eejax.ops.matmul import FlatKernel
from eejax.ops.quant import kernel_product, quantize
from eejax.testing import tiny


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def flat_kernels(tree):
  is_flat = lambda leaf: isinstance(leaf, FlatKernel)
  leaves = jax.tree.leaves(tree, is_leaf=is_flat)
  return [leaf for leaf in leaves if is_flat(leaf)]


@pytest.mark.parametrize('rows', [1, 5, 70])
@pytest.mark.parametrize('inputs, features', [((16,), (6, 4)), ((3, 8), (10,))])
def test_products_do_not_depend_on_the_layout(rows, inputs, features):
  kernel, x = normal(1, *inputs, *features), normal(0, 1, rows, *inputs)
  num_inputs = len(inputs)
  laid = matmul.flatten(kernel, num_inputs=num_inputs)
  assert laid.shape == (*inputs, *features) and laid.matrix.ndim == 2
  found = kernel_product(x, laid, num_inputs=num_inputs)
  expected = kernel_product(x, kernel, num_inputs=num_inputs)
  assert found.shape == (1, rows, *features)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_int8_kernels_are_multiplied_alike():
  kernel, x = quantize(normal(1, 3, 8, 10), axes=(0, 1)), normal(0, 2, 3, 8)
  output = {'attention': {'output': {'kernel': kernel}}}
  laid = flatten_block(output)['attention']['output']['kernel']
  assert laid.matrix.values.shape == (24, 10) and laid.shape == (3, 8, 10)
  np.testing.assert_allclose(
    kernel_product(x, laid, num_inputs=2),
    kernel_product(x, kernel, num_inputs=2),
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  'head, fields, matrices',
  [
    ('mlp', {}, 3),
    ('block', {}, 7),
    # Five experts and a shared one.
    ('mlp', tiny.KINDS_OF_BLOCK['experts'], 18),
  ],
  ids=['mlp', 'block', 'experts'],
)
def test_heads_read_matrices(head, fields, matrices):
  config = tiny.tiny_config(f'2:{head}', **fields)
  params = init_exit(
    jax.random.key(2), exit=config.exits[0], config=config.model
  )
  x = normal(3, 1, 4, 16)
  read = lambda params: (
    apply_exit_head(
      params,
      ExitInput(hidden=x, mlp_residual=x, mlp_input=x),
      exit=config.exits[0],
      config=config.model,
      positions=jnp.arange(4)[None],
    ).hidden
  )
  laid = flatten_head(params)
  assert len(flat_kernels(laid)) == matrices
  np.testing.assert_allclose(read(laid), read(params), rtol=1e-5, atol=1e-5)


def test_some_outputs_of_a_matrix():
  matrix, ids = normal(0, 8, 12), jnp.array([3, 1, 11])
  some = matmul.some_outputs(matmul.flatten(matrix), ids)
  assert some.shape == (8, 3)
  np.testing.assert_array_equal(some.matrix.T, matrix[:, ids])
