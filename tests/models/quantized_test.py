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
"""Tests of int8 backbones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.models import decoder
from eejax.models.quantized import quantize_backbone, quantize_block
from eejax.models.stacking import fuse, unstack
from eejax.ops.quant import Quantized, dequantize
from eejax.testing import tiny

EXITS = '1:norm,2:mlp:gate,3:norm:untied,4:block'


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config(EXITS, qkv_bias=True, mlp_bias=True, qk_norm=True)
  return config, tiny.tiny_params(config)


def is_quantized(leaf):
  return isinstance(leaf, Quantized)


def without_int8(params):
  """Return what int8 kernels stand for; blocks are stacked."""

  def restore(path, leaf):
    if not is_quantized(leaf):
      return leaf
    inputs = 2 if path[-2].key == 'output' else 1
    return dequantize(leaf, axes=tuple(range(1, 1 + inputs)))

  return jax.tree_util.tree_map_with_path(restore, params, is_leaf=is_quantized)


def test_projections_alone_are_quantised(model):
  _, params = model
  found = quantize_backbone(params)
  leaves = jax.tree_util.tree_leaves_with_path(found, is_leaf=is_quantized)
  names = {
    '/'.join(p.key for p in path) for path, x in leaves if is_quantized(x)
  }
  attention = {f'attention/{n}' for n in ('query', 'key', 'value', 'output')}
  mlp = {f'mlp/{n}' for n in ('gate', 'up', 'down')}
  assert names == {f'backbone/blocks/{n}/kernel' for n in attention | mlp}
  jax.tree.map(np.testing.assert_array_equal, found['exits'], params['exits'])
  restored = without_int8(found)
  for x, y in zip(
    jax.tree.leaves(restored), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_allclose(x, y, atol=float(jnp.abs(y).max()) / 250)


def test_every_head_sees_the_dequantised_model(model):
  config, params = model
  quantized = quantize_backbone(params)
  tokens = jnp.arange(12).reshape(2, 6)
  found = decoder.logits(quantized, tokens, config=config)
  wanted = decoder.logits(without_int8(quantized), tokens, config=config)
  exact = decoder.logits(params, tokens, config=config)
  for name, logits in found.items():
    np.testing.assert_allclose(logits, wanted[name], atol=1e-6)
    assert jnp.abs(logits - exact[name]).max() > 1e-5


def test_stacks_sequences_and_fused_blocks_are_quantised_alike(model):
  _, params = model
  blocks = params['backbone']['blocks']
  whole = quantize_backbone(params)['backbone']['blocks']
  apart = unstack(blocks)
  sequence = quantize_backbone({'backbone': {'blocks': apart}})
  for index, block in enumerate(unstack(whole)):
    same = lambda x, y: jax.tree.map(np.testing.assert_array_equal, x, y)
    same(sequence['backbone']['blocks'][index], block)
    same(quantize_block(fuse(apart[index])), fuse(block))
    # Once is enough.
    same(quantize_block(block), block)
