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
"""Tests of MLPs made of experts against a loop over tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.config import MLPKind
from eejax.config.config_json import from_json, to_json
from eejax.config.experts import ExpertsConfig
from eejax.errors import ArgumentError
from eejax.models.experts import RoutedMLP
from eejax.models.kernel_layout import flatten_block, for_modules
from eejax.models.layers import Projections
from eejax.models.quantized import quantize_block
from eejax.models.stacking import fuse, unstack
from eejax.ops.quant import dequantize
from eejax.testing import tiny

CONFIG = tiny.tiny_config('', **tiny.KINDS_OF_BLOCK['experts'])
EXPERTS = CONFIG.model.experts


@pytest.fixture(scope='module')
def block():
  """Return one block whose router is sure enough to send tokens apart."""
  params = tiny.tiny_params(CONFIG)
  block = unstack(params['backbone']['blocks'])[1]
  return jax.tree.map(lambda leaf: 16 * leaf, block)


def rows(num=6, length=9):
  return jax.random.normal(jax.random.key(3), (num, length, 16))


def run(mlp, x, *, projections=Projections.SEPARATE, config=CONFIG.model):
  mlp_of = RoutedMLP(config, projections).apply
  apply = jax.jit(lambda mlp, x: mlp_of({'params': for_modules(mlp)}, x)[0])
  return apply(mlp, x)


def decoding_form(block):
  return flatten_block(fuse(block))['mlp']


def by_loop(mlp, x, config=CONFIG.model):
  """Return a token's sum, expert by expert, in float64."""
  mlp = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), mlp)
  experts = config.experts
  y = np.zeros(x.shape)
  silu = lambda z: z / (1 + np.exp(-z))
  gated = lambda v, part, take: (
    (silu(v @ take(part['gate'])) * (v @ take(part['up']))) @ take(part['down'])
  )
  for at in np.ndindex(x.shape[:-1]):
    v = np.asarray(x[at], np.float64)
    score = np.exp(v @ mlp['router']['kernel'])
    share = score / score.sum()
    best = np.argsort(-share)[: experts.top_k]
    scale = share[best].sum() if experts.renormalized else 1
    for e in best:
      y[at] += (
        share[e]
        / scale
        * gated(v, mlp['experts'], lambda k, e=e: k['kernel'][e])
      )
    if experts.shared_dim is not None:
      gate = 1 / (1 + np.exp(-v @ mlp['shared_gate']['kernel']))
      y[at] += gate * gated(v, mlp['shared'], lambda k: k['kernel'])
  return y


@pytest.mark.parametrize('renormalized', [True, False])
def test_it_is_the_sum_over_a_tokens_experts(block, renormalized):
  experts = dataclasses.replace(EXPERTS, renormalized=renormalized)
  config = dataclasses.replace(CONFIG.model, experts=experts)
  found = run(block['mlp'], rows(), config=config)
  expected = by_loop(block['mlp'], rows(), config)
  assert expected.std() > 0.1
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize('shape', [(1, 1), (2, 4), (6, 9)])
def test_decoding_has_experts_apart_and_computes_the_same(block, shape):
  x = rows(*shape)
  found = run(decoding_form(block), x, projections=Projections.FUSED)
  np.testing.assert_allclose(found, by_loop(block['mlp'], x), atol=1e-4)


@pytest.mark.parametrize('form', [dict, decoding_form])
def test_no_token_depends_on_those_beside_it(block, form):
  if form is dict:
    mlp, projections = block['mlp'], Projections.SEPARATE
  else:
    mlp, projections = form(block), Projections.FUSED
  x = rows()
  whole = run(mlp, x, projections=projections)
  window = run(mlp, x[2:3, :8], projections=projections)
  one = run(mlp, x[2:3, 3:4], projections=projections)
  np.testing.assert_allclose(window, whole[2:3, :8], atol=1e-5)
  np.testing.assert_allclose(one, whole[2:3, 3:4], atol=1e-5)


def test_all_tokens_may_choose_one_expert(block):
  mlp = {**block['mlp']}
  router = jnp.zeros_like(mlp['router']['kernel'])
  mlp['router'] = {'kernel': router}  # all alike: the first two are taken
  np.testing.assert_allclose(run(mlp, rows()), by_loop(mlp, rows()), atol=1e-4)


@pytest.mark.parametrize('apart', [True, False])
def test_kernels_of_experts_may_be_int8(block, apart):
  quantized = quantize_block(block)
  kernels = {
    name: {'kernel': dequantize(part['kernel'], axes=(1,))}
    for name, part in quantized['mlp']['experts'].items()
  }
  shared = {
    name: {'kernel': dequantize(part['kernel'], axes=(0,))}
    for name, part in quantized['mlp']['shared'].items()
  }
  rounded = {**block['mlp'], 'experts': kernels, 'shared': shared}
  assert quantized['mlp']['router'] is block['mlp']['router']
  if apart:
    mlp, projections = decoding_form(quantized), Projections.FUSED
  else:
    mlp, projections = quantized['mlp'], Projections.SEPARATE
  np.testing.assert_allclose(
    run(mlp, rows(), projections=projections),
    by_loop(rounded, rows()),
    atol=1e-4,
  )


# MARK: Configurations


def test_experts_are_written_as_json_and_read():
  values = to_json(CONFIG)
  assert from_json(values) == CONFIG
  assert 'experts' not in to_json(tiny.tiny_config())['model']


@pytest.mark.parametrize(
  ('fields', 'named'),
  [
    ((2, 3, 8), 'cannot be sent to 3 of 2 experts'),
    ((2, 0, 8), 'at least one'),
    ((0, 0, 8), 'number of experts must be at least 1'),
    ((2, 1, 0), "expert's width"),
    ((2, 1, 8, True, 0), "shared expert's width"),
    ((2, 1, 8, True, None, -1.0), 'at least 0'),
    ((2, 1, 8, True, None, float('nan')), 'at least 0'),
  ],
)
def test_experts_that_cannot_be(fields, named):
  with pytest.raises(ArgumentError, match=named):
    ExpertsConfig(*fields)


@pytest.mark.parametrize('other', [{'mlp': MLPKind.PLAIN}, {'mlp_bias': True}])
def test_experts_are_gated_and_have_no_biases(other):
  with pytest.raises(ArgumentError, match='experts must be gated'):
    tiny.tiny_model_config(experts=EXPERTS, **other)


def test_experts_stand_beside_attention():
  with pytest.raises(ArgumentError, match='no experts'):
    tiny.tiny_model_config(
      **tiny.KINDS_OF_RECURRENT_BLOCK['mamba'], experts=EXPERTS
    )
