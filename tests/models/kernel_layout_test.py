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
"""Tests of kernels that lie by output."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.generate import generate
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.ops import matmul
from eejax.ops.matmul import KernelByOutput, KernelLayout, fastest_layout
from eejax.ops.quant import kernel_product
from eejax.testing import tiny

BY_OUTPUT = KernelLayout.BY_OUTPUT
PROMPTS = [[3, 17, 8, 25, 11], [7], [21, 4, 21, 4, 21, 4]]


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize('rows', [1, 5, 70])
@pytest.mark.parametrize('inputs, features', [((16,), (6, 4)), ((3, 8), (10,))])
def test_products_do_not_depend_on_the_layout(rows, inputs, features):
  kernel, x = normal(1, *inputs, *features), normal(0, 1, rows, *inputs)
  num_inputs = len(inputs)
  laid = matmul.by_output(kernel, num_inputs=num_inputs)
  assert laid.shape == (*inputs, *features)
  found = kernel_product(x, laid, num_inputs=num_inputs)
  expected = kernel_product(x, kernel, num_inputs=num_inputs)
  assert found.shape == (1, rows, *features)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'fields', [{}, {'tied_head': True, 'qkv_bias': True}], ids=['', 'tied']
)
def test_a_model_decodes_alike_in_both_layouts(fields):
  config = tiny.tiny_config('1:norm:gate,3:mlp', **fields)
  params = tiny.tiny_params(config)
  early = {'criterion': 'max_prob', 'thresholds': (0.04,)}
  policies = [
    Policy(),
    Policy(Mode.EARLY_EXIT, kv_strategy=KVStrategy.PROPAGATE, **early),
    Policy(Mode.SPECULATIVE, draft_length=2, prompt_lookup=2, **early),
  ]
  make = lambda layout: prepare(params, config=config, layout=layout)
  models = [make(layout) for layout in KernelLayout]
  for policy in policies:
    found, expected = (
      generate(
        model, config=config, prompts=PROMPTS, policy=policy, max_new_tokens=8
      ).rows
      for model in models
    )
    for ours, theirs in zip(found, expected, strict=True):
      assert ours.tokens == theirs.tokens
      assert ours.exit_depths == theirs.exit_depths
      np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-4)


def test_a_head_that_is_the_embedding_is_not_stored_twice():
  config = tiny.tiny_config('', tied_head=True)
  params = tiny.tiny_params(config)
  model = prepare(params, config=config, layout=BY_OUTPUT)
  assert model.kernels['final'].rows is model.table
  assert model.kernels['final'].shape == (16, 29)


def test_columns_of_a_matrix_lie_as_it_does():
  matrix, ids = normal(0, 8, 12), jnp.array([3, 1, 11])
  laid = matmul.by_output(matrix)
  some = matmul.columns(laid, ids)
  assert isinstance(some, KernelByOutput) and some.shape == (8, 3)
  np.testing.assert_array_equal(some.rows.T, matmul.columns(matrix, ids))
  np.testing.assert_array_equal(matmul.matrix_by_output(laid), matrix.T)
  np.testing.assert_array_equal(matmul.matrix_by_output(matrix), matrix.T)


@pytest.mark.parametrize(
  'platform, layout',
  [
    ('cpu', BY_OUTPUT),
    ('gpu', KernelLayout.BY_INPUT),
    ('tpu', KernelLayout.BY_INPUT),
  ],
)
def test_cpus_have_kernels_by_output(platform, layout):
  device = mock.Mock(spec=jax.Device, platform=platform)
  assert fastest_layout(device) is layout
  assert fastest_layout() is BY_OUTPUT
