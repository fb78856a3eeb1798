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
"""The recurrence of Mamba, over a whole text or a few tokens.

With h the state of one channel, [n], x its input, d > 0 its step, a < 0 its
decay rates, b and c the vectors that say what is written and read:

  h_t = exp(d_t a) h_{t-1} + d_t x_t b_t
  y_t = c_t . h_t

A token whose step is 0 changes nothing, which is how padding is passed over.

Reference:
  Gu and Dao (2023), Mamba, eq. 2 with the discretisation of section 3.2 and
  algorithm 2.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from eejax.axes import ambient
from eejax.ops.recurrent_state import KeptStates
from eejax.types import Array, Bool, Float

# Channels whose states stay in a core's first cache, and tokens of a chunk.
CHANNEL_BLOCK = 64
TOKEN_CHUNK = 16


def selective_scan(
  x: Float[Array, 'B T I'],
  *,
  step: Float[Array, 'B T I'],
  rates: Float[Array, 'N I'],
  writes: Float[Array, 'B T N'],
  reads: Float[Array, 'B T N'],
  memory: Float[Array, 'B N I'] | None = None,
  starts: Bool[Array, 'B T'] | None = None,
  kept: KeptStates = KeptStates.LAST,
) -> tuple[Float[Array, 'B T I'], Float[Array, 'B *T N I']]:
  """Return y and the states that are kept, in float32.

  Args:
    x: inputs.
    step: d, no less than 0.
    rates: a, below 0.
    writes: b.
    reads: c.
    memory: h before the first token; None is zeros.
    starts: tokens before which h is zero.
    kept: whether h after every token is returned or the last alone.
  """
  wide = lambda array: array.astype(jnp.float32)
  x, step, rates, writes, reads = map(wide, (x, step, rates, writes, reads))
  if memory is None:
    memory = jnp.zeros((x.shape[0], *rates.shape), jnp.float32)
  keeps = jnp.ones(x.shape[:2], jnp.float32)
  if starts is not None:
    keeps = wide(~starts)
  arguments = (x, step, writes, reads, keeps)
  if kept is KeptStates.EVERY:
    y, states, _ = sequential_scan(arguments, rates, memory)
    return y, states
  if x.shape[1] == 1:
    y, _, last = sequential_scan(arguments, rates, memory)
    return y, last
  if math.prod(ambient().values()) > 1:
    # Channels that devices share out are not cut once more.
    return scan_token_chunks(arguments, rates, memory)
  return lax.platform_dependent(
    arguments,
    rates,
    memory,
    cpu=scan_channel_blocks,
    default=scan_token_chunks,
  )


Arguments = tuple[jax.Array, ...]


def sequential_scan(
  arguments: Arguments,
  rates: Float[Array, 'N I'],
  memory: Float[Array, 'B N I'],
) -> tuple[Float[Array, 'B T I'], Float[Array, 'B T N I'], Array]:
  """Return y, h after every token and the last h, one token at a time."""

  def one(state, token):
    x, step, writes, reads, keeps = token
    decay = jnp.exp(step[:, None] * rates[None]) * keeps[:, None, None]
    state = decay * state + (step * x)[:, None] * writes[..., None]
    return state, (jnp.sum(state * reads[..., None], axis=1), state)

  first = lambda array: jnp.moveaxis(array, 1, 0)
  if arguments[0].shape[1] == 1:
    last, (y, _) = one(memory, tuple(a[:, 0] for a in arguments))
    return y[:, None], last[:, None], last
  last, (y, states) = lax.scan(one, memory, tuple(map(first, arguments)))
  return first(y), first(states), last


def scan_channel_blocks(
  arguments: Arguments,
  rates: Float[Array, 'N I'],
  memory: Float[Array, 'B N I'],
) -> tuple[Float[Array, 'B T I'], Float[Array, 'B N I']]:
  """Return y and the last h, a few channels of one row at a time.

  All tokens of a block of channels are scanned before the next block, for a
  state that small stays in a core's first cache and such a loop is one piece
  of code: on a CPU a third of the time of one scan over all channels.
  """
  x, step, writes, reads, keeps = arguments
  channels = x.shape[-1]
  room = -channels % CHANNEL_BLOCK

  def cut(array: jax.Array) -> jax.Array:
    padded = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, room)])
    blocks = padded.reshape(*array.shape[:-1], -1, CHANNEL_BLOCK)
    return jnp.moveaxis(blocks, -2, 0)

  def join(blocks: jax.Array) -> jax.Array:
    whole = jnp.moveaxis(blocks, 0, -2)
    return whole.reshape(*whole.shape[:-2], -1)[..., :channels]

  def scan_row(row):
    x, step, memory, *shared = row

    def scan_block(block):
      x, step, rates, memory = block
      tokens = tuple(a[None] for a in (x, step, *shared))
      y, last = _outputs_alone(tokens, rates, memory[None])
      return y[0], last[0]

    return lax.map(scan_block, (x, step, cut(rates), memory))

  rows = [jnp.moveaxis(cut(a), 1, 0) for a in (x, step, memory)]
  y, last = lax.map(scan_row, (*rows, writes, reads, keeps))
  both = (jnp.moveaxis(a, 1, 0) for a in (y, last))
  y, last = map(join, both)
  return y, last


def _outputs_alone(
  arguments: Arguments, rates: jax.Array, memory: jax.Array
) -> tuple[jax.Array, jax.Array]:
  y, _, last = sequential_scan(arguments, rates, memory)
  return y, last


def scan_token_chunks(
  arguments: Arguments,
  rates: Float[Array, 'N I'],
  memory: Float[Array, 'B N I'],
) -> tuple[Float[Array, 'B T I'], Float[Array, 'B N I']]:
  """Return y and the last h, by an associative scan over each few tokens.

  What a backward pass needs of a chunk is computed again, so that h of all
  tokens is never there at once.
  """
  length = arguments[0].shape[1]
  room = -length % TOKEN_CHUNK

  def cut(array: jax.Array) -> jax.Array:
    padding = ((0, 0), (0, room), *((0, 0),) * (array.ndim - 2))
    padded = jnp.pad(array, padding)
    chunks = padded.reshape(array.shape[0], -1, TOKEN_CHUNK, *array.shape[2:])
    return jnp.moveaxis(chunks, 1, 0)

  x, step, writes, reads, keeps = arguments
  chunks = [cut(a) for a in (x, step, writes, reads)]
  # Padding keeps the state: its step is 0 and it starts no text.
  starts = cut(1 - keeps)
  scan = functools.partial(_scan_chunk, rates)
  last, y = lax.scan(jax.checkpoint(scan), memory, (*chunks, 1 - starts))
  y = jnp.moveaxis(y, 0, 1).reshape(x.shape[0], -1, x.shape[-1])
  return y[:, :length], last


def _scan_chunk(
  rates: jax.Array, memory: jax.Array, tokens: Arguments
) -> tuple[jax.Array, jax.Array]:
  x, step, writes, reads, keeps = tokens
  decay = jnp.exp(step[:, :, None] * rates[None, None])
  decay = decay * keeps[..., None, None]
  added = (step * x)[:, :, None] * writes[..., None]
  decays, states = lax.associative_scan(_compose, (decay, added), axis=1)
  states = states + decays * memory[:, None]
  return states[:, -1], jnp.sum(states * reads[..., None], axis=2)


def _compose(
  left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """Return the step that does what one step and then another do."""
  return left[0] * right[0], right[0] * left[1] + right[1]
