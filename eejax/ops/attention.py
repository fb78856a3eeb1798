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
"""Grouped-query attention: one function, several implementations.

Keys and values are head-major, `[B, K, S, H]`, because a cache laid out that
way is read without a transpose.
"""

import enum
import functools

import flax.struct
import jax
import jax.numpy as jnp

from eejax.errors import ArgumentError
from eejax.ops.quant import Quantized, cache_scores, mix_rows, row_scores
from eejax.ops.softcap import soft_cap
from eejax.types import Array, Bool, Float, Int

# Queries scored at once: above this many, attention goes chunk by chunk and
# its memory is linear in the sequence length.
QUERY_CHUNK = 512

_MASKED = -1e30  # finite, so that a row that sees nothing gives no NaN


class AttentionImplementation(enum.Enum):
  """Which kernel computes self-attention; `XLA` is the oracle of the tests."""

  XLA = 'xla'
  CUDNN = 'cudnn'


@flax.struct.dataclass
class Context:
  """Keys and values computed earlier, which new queries may read.

  Attributes:
    keys: `[B, K, S, H]`, rotary positions applied; int8 or not.
    values: `[B, K, S, H]`, likewise.
    mask: `[B, T, S]`, true where a query may see a slot.
  """

  keys: Float[Array, 'B K S H'] | Quantized
  values: Float[Array, 'B K S H'] | Quantized
  mask: Bool[Array, 'B T S']


def attention(
  query: Float[Array, 'B T N H'],
  *,
  keys: Float[Array, 'B K T H'],
  values: Float[Array, 'B K T H'],
  segment_ids: Int[Array, 'B T'] | None = None,
  window: int | Int[Array, ''] | None = None,
  context: Context | None = None,
  implementation: AttentionImplementation = AttentionImplementation.XLA,
  scale: float | None = None,
  softcap: float | None = None,
) -> Float[Array, 'B T N H']:
  """Attend causally to the tokens beside each query, and to a context.

  Args:
    query: queries, unscaled.
    keys: keys of the same tokens.
    values: values of the same tokens.
    segment_ids: tokens attend only within equal ids; None is one segment.
    window: keys a query sees among `keys`, itself included; None sees all.
    context: earlier keys and values; its mask alone says what is seen of
      them.
    implementation: kernel for self-attention without a context.
    scale: of scores; None is 1 / sqrt(H).
    softcap: c in c tanh(score / c), or None.

  Raises:
    ArgumentError: a kernel other than XLA is asked to read a context or to
      cap scores.
  """
  if scale is not None:
    # What follows divides by sqrt(H).
    query = query * jnp.asarray(scale * query.shape[-1] ** 0.5, query.dtype)
  if context is not None:
    if implementation is not AttentionImplementation.XLA:
      raise ArgumentError(
        f'{implementation.value} attention cannot read a cache; decode with '
        'xla.'
      )
    return _attend_with_context(
      query, keys, values, segment_ids, window, context, softcap
    )
  if implementation is AttentionImplementation.CUDNN:
    if softcap is not None:
      raise ArgumentError(
        'cudnn attention caps no scores, as this model does; use xla.'
      )
    return _cudnn_attention(query, keys, values, segment_ids, window)
  length = query.shape[1]
  if length <= QUERY_CHUNK:
    index = jnp.arange(length)
    mask = _self_mask(index, index, segment_ids, segment_ids, window)
    return _attend(query, keys, values, mask, softcap)
  return _attend_in_chunks(query, keys, values, segment_ids, window, softcap)


def _self_mask(
  query_index: Int[Array, 'T'],
  key_index: Int[Array, 'S'],
  query_segments: Int[Array, 'B T'] | None,
  key_segments: Int[Array, 'B S'] | None,
  window: int | Int[Array, ''] | None,
) -> Bool[Array, '#B T S']:
  """Return who sees whom among the tokens of one call."""
  distance = query_index[:, None] - key_index[None, :]
  mask = distance >= 0
  if window is not None:
    mask = mask & (distance < window)
  mask = mask[None]
  if query_segments is not None and key_segments is not None:
    mask = mask & (query_segments[:, :, None] == key_segments[:, None, :])
  return mask


def _group(
  query: Float[Array, 'B T N H'], *, kv_heads: int
) -> Float[Array, 'B K GT H']:
  """Lay the queries that share a key beside one another, scaled.

  Moving the small queries here spares moving the large scores: with T and G
  apart, the CPU compiler transposes every [T, S] square (6 times slower).
  """
  batch, length, _, head_dim = query.shape
  grouped = query.reshape(batch, length, kv_heads, -1, head_dim)
  grouped = jnp.moveaxis(grouped, 1, 3) * head_dim**-0.5
  return grouped.reshape(batch, kv_heads, -1, head_dim)


def _ungroup(
  mixed: Float[Array, 'B K GT H'], *, length: int
) -> Float[Array, 'B T N H']:
  """Undo `_group` on what the queries gathered."""
  batch, kv_heads, _, head_dim = mixed.shape
  apart = mixed.reshape(batch, kv_heads, -1, length, head_dim)
  return jnp.moveaxis(apart, 3, 1).reshape(batch, length, -1, head_dim)


def _masked_scores(
  grouped: Float[Array, 'B K GT H'],
  keys: Float[Array, 'B K S H'],
  mask: Bool[Array, '#B T S'],
  softcap: float | None,
) -> Float[Array, 'B K GT S']:
  return _masked(soft_cap(row_scores(grouped, keys), softcap), mask)


def _masked(
  scores: Float[Array, 'B K GT S'], mask: Bool[Array, '#B T S']
) -> Float[Array, 'B K GT S']:
  groups = scores.shape[2] // mask.shape[1]
  wide = jnp.tile(mask, (1, groups, 1))[:, None]  # [#B, 1, GT, S]
  return jnp.where(wide, scores, _MASKED)


def _attend(
  query: Float[Array, 'B T N H'],
  keys: Float[Array, 'B K S H'],
  values: Float[Array, 'B K S H'],
  mask: Bool[Array, '#B T S'],
  softcap: float | None,
) -> Float[Array, 'B T N H']:
  grouped = _group(query, kv_heads=keys.shape[1])
  mixed = _mix(softcap, grouped, keys, values, mask)
  return _ungroup(mixed, length=query.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mix(
  softcap: float | None,
  grouped: Float[Array, 'B K GT H'],
  keys: Float[Array, 'B K S H'],
  values: Float[Array, 'B K S H'],
  mask: Bool[Array, '#B T S'],
) -> Float[Array, 'B K GT H']:
  """Mix values by the softmax of masked scores.

  The backward pass is written out: it scores again instead of keeping a
  [T, S] square a head, and what autodiff makes of the same formula is four
  times slower on CPU (jaxlib 0.10.2).
  """
  scores = _masked_scores(grouped, keys, mask, softcap)
  weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
  return jnp.einsum('BKTS,BKSH->BKTH', weights, values)


def _mix_forward(softcap, grouped, keys, values, mask):
  mixed = _mix(softcap, grouped, keys, values, mask)
  return mixed, (grouped, keys, values, mask)


def _mix_backward(softcap, saved, gradient):
  """Return the gradients of grouped queries, keys and values.

  With P the weights, O = P V and g = dL/dO:  dV = P^T g,  dP = g V^T,
  dS = P * (dP - sum_s dP * P),  dQ = dS K,  dK = dS^T Q.
  """
  grouped, keys, values, mask = saved
  scores = soft_cap(row_scores(grouped, keys), softcap)
  weights = jax.nn.softmax(_masked(scores, mask), axis=-1)
  d_weights = jnp.einsum(
    'BKTH,BKSH->BKTS', gradient, values, preferred_element_type=jnp.float32
  )
  shared = jnp.sum(d_weights * weights, axis=-1, keepdims=True)
  d_scores = weights * (d_weights - shared)
  if softcap is not None:  # d tanh(s) = (1 - tanh(s)^2) ds
    d_scores = d_scores * (1 - jnp.square(scores / softcap))
  d_scores = d_scores.astype(keys.dtype)
  return (
    jnp.einsum('BKTS,BKSH->BKTH', d_scores, keys),
    jnp.einsum('BKTS,BKTH->BKSH', d_scores, grouped),
    jnp.einsum('BKTS,BKTH->BKSH', weights.astype(values.dtype), gradient),
    None,
  )


_mix.defvjp(_mix_forward, _mix_backward)


def _attend_in_chunks(
  query: Float[Array, 'B T N H'],
  keys: Float[Array, 'B K T H'],
  values: Float[Array, 'B K T H'],
  segment_ids: Int[Array, 'B T'] | None,
  window: int | Int[Array, ''] | None,
  softcap: float | None,
) -> Float[Array, 'B T N H']:
  """Score `QUERY_CHUNK` queries at a time; recompute them backward."""
  batch, length, heads, head_dim = query.shape
  padding = -length % QUERY_CHUNK
  count = (length + padding) // QUERY_CHUNK
  padded = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
  chunks = padded.reshape(batch, count, QUERY_CHUNK, heads, head_dim)
  segments = segment_ids
  if segments is None:
    segments = jnp.zeros((batch, length), jnp.int32)
  segment_chunks = jnp.pad(segments, ((0, 0), (0, padding))).reshape(
    batch, count, QUERY_CHUNK
  )

  @jax.checkpoint
  def one_chunk(step):
    chunk, chunk_segments, number = step
    index = number * QUERY_CHUNK + jnp.arange(QUERY_CHUNK)
    mask = _self_mask(
      index, jnp.arange(length), chunk_segments, segments, window
    )
    return _attend(chunk, keys, values, mask, softcap)

  mixed = jax.lax.map(
    one_chunk,
    (
      jnp.moveaxis(chunks, 1, 0),
      jnp.moveaxis(segment_chunks, 1, 0),
      jnp.arange(count),
    ),
  )
  joined = jnp.moveaxis(mixed, 0, 1).reshape(batch, -1, heads, head_dim)
  return joined[:, :length]


def _attend_with_context(
  query: Float[Array, 'B T N H'],
  keys: Float[Array, 'B K T H'],
  values: Float[Array, 'B K T H'],
  segment_ids: Int[Array, 'B T'] | None,
  window: int | Int[Array, ''] | None,
  context: Context,
  softcap: float | None,
) -> Float[Array, 'B T N H']:
  """Join two softmaxes, so that the cache is read where it lies."""
  length = query.shape[1]
  index = jnp.arange(length)
  mask = _self_mask(index, index, segment_ids, segment_ids, window)
  grouped = _group(query, kv_heads=keys.shape[1])
  near = _masked_scores(grouped, keys, mask, softcap)
  far = soft_cap(cache_scores(grouped, context.keys), softcap)
  far = _masked(far, context.mask)
  peak = jnp.maximum(
    far.max(axis=-1, keepdims=True), near.max(axis=-1, keepdims=True)
  )
  far, near = jnp.exp(far - peak), jnp.exp(near - peak)
  total = far.sum(axis=-1) + near.sum(axis=-1)  # [B, K, GT]
  mixed = mix_rows(far, context.values, dtype=values.dtype)
  mixed = mixed + mix_rows(near, values, dtype=values.dtype)
  mixed = mixed / total[..., None].astype(values.dtype)
  return _ungroup(mixed, length=length)


def _cudnn_attention(
  query: Float[Array, 'B T N H'],
  keys: Float[Array, 'B K T H'],
  values: Float[Array, 'B K T H'],
  segment_ids: Int[Array, 'B T'] | None,
  window: int | Int[Array, ''] | None,
) -> Float[Array, 'B T N H']:
  mask = None
  if segment_ids is not None or window is not None:
    index = jnp.arange(query.shape[1])
    mask = _self_mask(index, index, segment_ids, segment_ids, window)[:, None]
  return jax.nn.dot_product_attention(
    query,
    jnp.moveaxis(keys, 1, 2),
    jnp.moveaxis(values, 1, 2),
    mask=mask,
    is_causal=True,
    implementation='cudnn',
  )
