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
"""Tests of attention against a plain softmax over every pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.ops import attention as attention_module
from eejax.ops.attention import AttentionImplementation, Context, attention

B, T, N, K, H = 2, 7, 4, 2, 8


def _inputs(length=T):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return (
    draw(B, length, N, H),
    draw(B, K, length, H),
    draw(B, K, length, H),
  )


def _dense(query, keys, values, visible):
  """Compute attention head by head with numpy."""
  out = np.zeros(query.shape, np.float64)
  for b in range(query.shape[0]):
    for n in range(N):
      k, v = keys[b, n // (N // K)], values[b, n // (N // K)]
      scores = np.array(query[b, :, n] @ k.T, np.float64) / np.sqrt(H)
      scores[~visible[b]] = -np.inf
      weights = np.exp(scores - scores.max(-1, keepdims=True))
      out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ np.array(v)
  return out


def _visible(length=T, *, segments=None, window=None):
  i, j = np.arange(length)[:, None], np.arange(length)
  visible = np.broadcast_to(j <= i, (B, length, length)).copy()
  if window is not None:
    visible &= i - j < window
  if segments is not None:
    visible &= segments[:, :, None] == segments[:, None, :]
  return visible


@pytest.mark.parametrize('window', [None, 1, 3])
@pytest.mark.parametrize('packed', [False, True])
def test_equals_dense_softmax(window, packed):
  query, keys, values = _inputs()
  segments = np.array([[1, 1, 1, 2, 2, 2, 0], [1, 2, 2, 2, 3, 3, 3]])
  got = attention(
    query,
    keys=keys,
    values=values,
    segment_ids=jnp.asarray(segments) if packed else None,
    window=window,
  )
  visible = _visible(segments=segments if packed else None, window=window)
  np.testing.assert_allclose(
    got, _dense(query, keys, values, visible), atol=1e-5
  )


@pytest.mark.parametrize(
  'scale, softcap', [(None, None), (0.7, None), (None, 1.5), (0.7, 1.5)]
)
def test_gradients_equal_those_of_a_plain_softmax(scale, softcap):
  inputs = _inputs()
  mask = jnp.asarray(_visible(window=3))[:, None]

  def plain(q, k, v):
    heads = lambda a: jnp.repeat(a, N // K, axis=1)
    scores = jnp.einsum('BTNH,BNSH->BNTS', q, heads(k))
    scores = scores * (H**-0.5 if scale is None else scale)
    if softcap is not None:
      scores = softcap * jnp.tanh(scores / softcap)
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
    return jnp.einsum('BNTS,BNSH->BTNH', weights, heads(v))

  def gradients(run):
    loss = lambda *a: jnp.sum(jnp.sin(run(*a)))
    return jax.grad(loss, argnums=(0, 1, 2))(*inputs)

  ours = lambda q, k, v: attention(
    q, keys=k, values=v, window=3, scale=scale, softcap=softcap
  )
  np.testing.assert_allclose(ours(*inputs), plain(*inputs), atol=1e-5)
  got = gradients(ours)
  for a, b in zip(got, gradients(plain), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_chunks_equal_the_whole_with_gradients(monkeypatch):
  query, keys, values = _inputs()

  def loss(q, k, v):
    out = attention(q, keys=k, values=v, window=5)
    return jnp.sum(out * jnp.arange(out.size).reshape(out.shape))

  whole = jax.grad(loss, argnums=(0, 1, 2))(query, keys, values)
  monkeypatch.setattr(attention_module, 'QUERY_CHUNK', 3)
  chunked = jax.grad(loss, argnums=(0, 1, 2))(query, keys, values)
  for a, b in zip(whole, chunked, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4)


def test_long_sequences_hold_no_square_of_their_length():
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
  run = jax.jit(lambda q, k, v: attention(q, keys=k, values=v))
  memory = {}
  for length in (2048, 4096):
    compiled = run.lower(
      shape(1, length, 1, H), shape(1, 1, length, H), shape(1, 1, length, H)
    ).compile()
    memory[length] = compiled.memory_analysis().temp_size_in_bytes
  assert memory[4096] < 2.2 * memory[2048]


@pytest.mark.parametrize('window', [None, 2])
def test_context_continues_a_sequence(window):
  query, keys, values = _inputs()
  split = 4
  visible = np.broadcast_to(
    _visible(window=window)[:, split:, :split], (B, T - split, split)
  )
  got = attention(
    query[:, split:],
    keys=keys[:, :, split:],
    values=values[:, :, split:],
    window=window,
    context=Context(
      keys[:, :, :split], values[:, :, :split], jnp.asarray(visible)
    ),
  )
  whole = attention(query, keys=keys, values=values, window=window)
  np.testing.assert_allclose(got, whole[:, split:], atol=1e-6)


def test_masked_slots_of_a_context_are_never_read():
  query, keys, values = _inputs()
  poison = jnp.full((B, K, 3, H), 1e9)
  got = attention(
    query,
    keys=keys,
    values=values,
    context=Context(poison, poison, jnp.zeros((B, T, 3), bool)),
  )
  whole = attention(query, keys=keys, values=values)
  np.testing.assert_allclose(got, whole, atol=1e-6)


def test_only_xla_reads_a_context():
  query, keys, values = _inputs()
  context = Context(keys, values, jnp.ones((B, T, T), bool))
  with pytest.raises(ArgumentError, match='cudnn attention cannot read'):
    attention(
      query,
      keys=keys,
      values=values,
      context=context,
      implementation=AttentionImplementation.CUDNN,
    )
