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
"""Test decoders with t5x's own names: what is read, and what is refused."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.checkpoint import t5x_decoder
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import decoder
from eejax.ops.rotary import rotate
from eejax.testing import tiny


def t5x_arrays(config, *, seed=0):
  """Return arrays as t5x's example of a decoder names and shapes them."""
  c, generator = config.model, np.random.default_rng(seed)
  draw = lambda *shape: generator.normal(0, 0.2, shape).astype(np.float32)
  d, f, heads, kv = c.embed_dim, c.mlp_dim, c.num_heads, c.num_kv_heads
  found = {
    ('token_embedder', 'embedding'): draw(c.vocab_size, d),
    ('decoder_norm', 'scale'): 1 + draw(d),
  }
  if not c.tied_head:
    found['logits_dense', 'kernel'] = draw(d, c.vocab_size)
  for i in range(c.num_layers):
    attention = (f'layers_{i}', 'self_attention')
    for name, width in (('query', heads), ('key', kv), ('value', kv)):
      found[*attention, name, 'kernel'] = draw(d, width * c.head_dim)
    found[*attention, 'out', 'kernel'] = draw(heads * c.head_dim, d)
    for name in ('pre_self_attention_layer_norm', 'pre_mlp_layer_norm'):
      found[f'layers_{i}', name, 'scale'] = 1 + draw(d)
    for name, shape in (('wi_0', (d, f)), ('wi_1', (d, f)), ('wo', (f, d))):
      found[f'layers_{i}', 'mlp', name, 'kernel'] = draw(*shape)
  return {('decoder', *at): leaf for at, leaf in found.items()}


def t5x_logits(leaves, tokens, config):
  """Run such arrays as t5x does, but with rotary positions and silu."""
  c = config.model
  at = lambda *path: leaves['decoder', *path]
  batch, length = tokens.shape

  def norm(x, *path):
    mean = np.mean(x**2, axis=-1, keepdims=True)
    return x / np.sqrt(mean + c.norm_epsilon) * at(*path, 'scale')

  def rotated(x):
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    return np.asarray(
      rotate(jnp.asarray(x), positions=positions, config=c.rotary)
    )

  x = at('token_embedder', 'embedding')[tokens]
  causal = np.tril(np.ones((length, length), bool))
  for i in range(c.num_layers):
    block = f'layers_{i}'
    y = norm(x, block, 'pre_self_attention_layer_norm')
    heads = lambda name, n, y=y, block=block: (
      y @ at(block, 'self_attention', name, 'kernel')
    ).reshape(batch, length, n, c.head_dim)
    query = rotated(heads('query', c.num_heads))
    key = rotated(heads('key', c.num_kv_heads))
    value = heads('value', c.num_kv_heads)
    shared = c.num_heads // c.num_kv_heads
    key, value = (np.repeat(a, shared, axis=2) for a in (key, value))
    # Not divided by the root of the head's width.
    scores = np.einsum('bqnh,bknh->bnqk', query, key)
    scores = np.where(causal, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum('bnqk,bknh->bqnh', weights, value)
    x = x + y.reshape(batch, length, -1) @ at(
      block, 'self_attention', 'out', 'kernel'
    )
    y = norm(x, block, 'pre_mlp_layer_norm')
    gate = y @ at(block, 'mlp', 'wi_0', 'kernel')
    up = y @ at(block, 'mlp', 'wi_1', 'kernel')
    x = x + gate / (1 + np.exp(-gate)) * up @ at(block, 'mlp', 'wo', 'kernel')
  x = norm(x, 'decoder_norm')
  if c.tied_head:
    table = at('token_embedder', 'embedding')
    return x @ table.T / math.sqrt(c.embed_dim)
  return x @ at('logits_dense', 'kernel')


@pytest.mark.parametrize('tied', [True, False])
def test_what_is_read_computes_what_t5x_computes(tied, tmp_path, tiny_tokens):
  config = tiny.tiny_config('', tied_head=tied, norm_epsilon=1e-6)
  leaves = t5x_arrays(config)
  found, _ = t5x_decoder.convert(leaves, config, source=tmp_path)
  params = {'backbone': {}, 'exits': {}}
  for path, leaf in found.items():
    node = params
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = jnp.asarray(leaf)
  logits = decoder.logits(params, tiny_tokens, config=config)['final']
  expected = t5x_logits(leaves, np.asarray(tiny_tokens), config)
  np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(
  'extra, why',
  [
    ('decoder/relpos_bias/rel_embedding', 'bias by relative position'),
    ('encoder/layers_0/mlp/wi_0/kernel', 'encoder-decoder'),
    (
      'decoder/layers_0/encoder_decoder_attention/query/kernel',
      'attends to an encoder',
    ),
    ('decoder/layers_0/mlp/wi/kernel', 'MLP is not gated'),
    ('decoder/layers_0/self_attention/query/bias', 'knows no array'),
    ('decoder/layers/mlp/wi_0/kernel', 'knows no array'),
  ],
)
def test_what_eejax_lacks_is_named_with_its_reason(extra, why, tmp_path):
  config = tiny.tiny_config('')
  leaves = t5x_arrays(config)
  leaves[tuple(extra.split('/'))] = np.zeros((2, 2), np.float32)
  with pytest.raises(CheckpointError, match=why) as caught:
    t5x_decoder.convert(leaves, config, source=tmp_path)
  assert extra in str(caught.value)


def test_another_activation_is_refused_where_the_run_says_it(tmp_path):
  config = tiny.tiny_config('')
  checkpoint = tmp_path / 'checkpoint_3'
  checkpoint.mkdir()
  gin = tmp_path / 'config.gin'
  gin.write_text("T.mlp_activations = ('swish', 'linear')\n")
  leaves = t5x_arrays(config)
  t5x_decoder.convert(leaves, config, source=checkpoint)
  gin.write_text("T.mlp_activations = ('gelu', 'linear')\n")
  with pytest.raises(CheckpointError, match='gated by silu alone'):
    t5x_decoder.convert(leaves, config, source=checkpoint)


def test_a_model_must_be_described_and_as_it_is(tmp_path):
  config = tiny.tiny_config('')
  leaves = t5x_arrays(config)
  with pytest.raises(ArgumentError, match='do not say its heads'):
    t5x_decoder.convert(leaves, None, source=tmp_path)
  other = tiny.tiny_config('', head_dim=8)
  with pytest.raises(CheckpointError, match='which is not 4 heads of 8'):
    t5x_decoder.convert(leaves, other, source=tmp_path)
  for layers, words in ((5, 'lacks .* of layers_4'), (3, 'has 4 layers')):
    other = tiny.tiny_config('', num_layers=layers)
    with pytest.raises(CheckpointError, match=words):
      t5x_decoder.convert(leaves, other, source=tmp_path)
