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
"""The recurrence of Mamba 2, over a whole text or a few tokens.

With h the state of a head, [p, n], x its input, [p], d > 0 its step, a < 0
its decay rate, b and c the vectors of its group, [n]:

  h_t = exp(d_t a) h_{t-1} + d_t x_t b_t^T
  y_t = h_t c_t

Since a head has one decay, the outputs within a chunk are products of
matrices: y = (L * (c b^T)) (d x) with L_ts = exp(a (d_{s+1} + ... + d_t)), and
each chunk adds to them what its first state still weighs at each token.

Reference:
  Dao and Gu (2024), Transformers are SSMs, section 6 and listing 1.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from eejax.ops.recurrent_state import KeptStates
from eejax.types import Array, Bool, Float


def state_space_dual(
  x: Float[Array, 'B T N P'],
  *,
  step: Float[Array, 'B T N'],
  rates: Float[Array, 'N'],
  writes: Float[Array, 'B T G S'],
  reads: Float[Array, 'B T G S'],
  memory: Float[Array, 'B N P S'] | None = None,
  starts: Bool[Array, 'B T'] | None = None,
  kept: KeptStates = KeptStates.LAST,
  chunk: int = 256,
) -> tuple[Float[Array, 'B T N P'], Float[Array, 'B *T N P S']]:
  """Return y and the states that are kept, in float32.

  Args:
    x: inputs, N heads of P channels.
    step: d, no less than 0; a token whose step is 0 changes nothing.
    rates: a, below 0.
    writes: b, for each of G groups of heads.
    reads: c, likewise.
    memory: h before the first token; None is zeros.
    starts: tokens before which h is zero.
    kept: whether h after every token is returned or the last alone.
    chunk: tokens that are multiplied at once.
  """
  wide = lambda array: array.astype(jnp.float32)
  x, step, rates = wide(x), wide(step), wide(rates)
  repeats = x.shape[2] // writes.shape[2]
  spread = lambda array: jnp.repeat(wide(array), repeats, axis=2)
  writes, reads = spread(writes), spread(reads)
  if memory is None:
    shape = (x.shape[0], *x.shape[2:], writes.shape[-1])
    memory = jnp.zeros(shape, jnp.float32)
  begins = jnp.zeros(x.shape[:2], bool) if starts is None else starts
  tokens = (x, step, writes, reads, begins)
  if kept is KeptStates.EVERY or x.shape[1] == 1:
    y, states, last = _sequential(tokens, rates, memory)
    return y, states if kept is KeptStates.EVERY else last
  return _chunked(tokens, rates, memory, size=min(chunk, x.shape[1]))


Tokens = tuple[jax.Array, ...]


def _sequential(
  tokens: Tokens, rates: jax.Array, memory: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Return y, h after every token and the last h, one token at a time."""

  def one(state, token):
    x, step, writes, reads, begins = token
    decay = jnp.exp(step * rates[None])
    decay = jnp.where(begins[:, None], 0, decay)
    added = (step[..., None] * x)[..., None] * writes[:, :, None]
    state = decay[..., None, None] * state + added
    return state, (jnp.sum(state * reads[:, :, None], axis=-1), state)

  first = lambda array: jnp.moveaxis(array, 1, 0)
  if tokens[0].shape[1] == 1:
    last, (y, _) = one(memory, tuple(a[:, 0] for a in tokens))
    return y[:, None], last[:, None], last
  last, (y, states) = lax.scan(one, memory, tuple(map(first, tokens)))
  return first(y), first(states), last


def _chunked(
  tokens: Tokens, rates: jax.Array, memory: jax.Array, *, size: int
) -> tuple[jax.Array, jax.Array]:
  batch, length = tokens[0].shape[:2]

  def cut(array: jax.Array) -> jax.Array:
    room = -length % size
    padding = ((0, 0), (0, room), *((0, 0),) * (array.ndim - 2))
    chunks = jnp.pad(array, padding).reshape(batch, -1, size, *array.shape[2:])
    return jnp.moveaxis(chunks, 1, 0)

  last, y = lax.scan(
    jax.checkpoint(functools.partial(_chunk, rates)),
    memory,
    tuple(map(cut, tokens)),
  )
  y = jnp.moveaxis(y, 0, 1).reshape(batch, -1, *tokens[0].shape[2:])
  return y[:, :length], last


def _chunk(
  rates: jax.Array, memory: jax.Array, tokens: Tokens
) -> tuple[Array, Array]:
  """Return the state after a chunk, and its outputs."""
  x, step, writes, reads, begins = tokens
  total = jnp.cumsum(step, axis=1) * rates[None, None]  # [B, T, N]
  number = jnp.cumsum(begins, axis=1)  # of the text that a token is in
  decay = _decays(total, number)
  scores = jnp.einsum('btns,buns->bntu', reads, writes) * decay
  scaled = step[..., None] * x
  within = jnp.einsum('bntu,bunp->btnp', scores, scaled)
  first = jnp.where((number == 0)[..., None], jnp.exp(total), 0)
  before = jnp.einsum('btns,bnps->btnp', reads, memory) * first[..., None]
  remains = jnp.exp(total[:, -1:] - total)
  remains = jnp.where((number[:, -1:] == number)[..., None], remains, 0)
  added = jnp.einsum('btnp,btns->bnps', remains[..., None] * scaled, writes)
  return first[:, -1, :, None, None] * memory + added, within + before


def _decays(total: jax.Array, number: jax.Array) -> jax.Array:
  """Return what an input still weighs at a later token, [B, N, T, T].

  Args:
    total: logarithm of the decay from the chunk's beginning, [B, T, N].
    number: of the text that each token is in, [B, T].
  """
  size = total.shape[1]
  seen = jnp.tril(jnp.ones((size, size), bool))
  seen = seen[None] & (number[:, :, None] == number[:, None, :])
  along = jnp.moveaxis(total, 2, 1)  # [B, N, T]
  gap = along[..., :, None] - along[..., None, :]
  # Masked before the exponential: above the diagonal it would overflow.
  return jnp.exp(jnp.where(seen[:, None], gap, -jnp.inf))
