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
"""Caches and rings of states as the blocks of a segment read and write them."""

import jax
import jax.numpy as jnp
from jax import lax

from eejax.decoding.loop import backbone
from eejax.models.block import Context, RecurrentContext
from eejax.ops.quant import Quantized
from eejax.ops.recurrent_state import KeptStates, RecurrentState
from eejax.types import Array, Bool, Float, Int

# One a block of a segment.
Caches = tuple[Float[Array, 'B K S H'] | Quantized, ...]


class CachedContexts(backbone.Contexts):
  """Show each block its cache, behind one mask for each sliding window."""

  def __init__(
    self,
    caches: tuple[Caches, Caches],
    base: Int[Array, 'B'],
    visible: Bool[Array, 'B S'] | None,
    *,
    width: int,
    states: tuple[RecurrentState, ...] = (),
  ):
    """Show caches to a window of tokens.

    Args:
      caches: keys and values of a segment's blocks.
      base: slot of each row's first token; slots before are valid.
      visible: slots that may be seen, or None for all below the base.
      width: tokens of the window.
      states: rings of a segment's recurrent blocks.
    """
    super().__init__()
    self._base, self._visible = base, visible
    self._index = base[:, None] + jnp.arange(width)[None]  # [B, W]
    self._keys, self._values = caches
    self._states = states_before(states, base)
    self._masks: dict[int | None, jax.Array] = {}

  def get(self, cache: int, *, window: int | None) -> Context | None:
    """Return a block's cache, of which slots below the base are valid."""
    if not self._keys:
      return None
    if window not in self._masks:
      self._masks[window] = self._mask(window)
    keys, values = self._keys[cache], self._values[cache]
    return Context(keys, values, self._masks[window])

  def continuation(self, cache: int) -> RecurrentContext:
    """Return a block's state before the base; it keeps that of every token."""
    return RecurrentContext(self._states[cache], kept=KeptStates.EVERY)

  def _mask(self, window: int | None) -> Bool[Array, 'B W S']:
    num_slots = jax.tree.leaves(self._keys)[0].shape[2]
    slots = jnp.arange(num_slots)[None]
    valid = slots < self._base[:, None]  # [B, S]
    if self._visible is not None:
      valid = valid & self._visible
    if window is None:
      shape = (*self._index.shape, slots.shape[1])
      return jnp.broadcast_to(valid[:, None], shape)
    near = slots[None] > self._index[..., None] - window
    return valid[:, None] & near


def states_before(
  rings: tuple[RecurrentState, ...], base: Int[Array, 'B']
) -> tuple[RecurrentState, ...]:
  """Return the states that tokens at `base` go on from.

  Args:
    rings: states by position, modulo their number.
    base: position of each row's next token; from 0 it goes on from zeros.
  """

  def take(ring: jax.Array) -> jax.Array:
    slot = (base - 1) % ring.shape[1]
    if ring.shape[0] == 1:
      state = lax.dynamic_index_in_dim(ring, slot[0], axis=1, keepdims=False)
    else:
      index = slot.reshape(-1, *(1,) * (ring.ndim - 1))
      state = jnp.take_along_axis(ring, index, axis=1)[:, 0]
    is_first = (base == 0).reshape(-1, *(1,) * (state.ndim - 1))
    return jnp.where(is_first, 0, state)

  return jax.tree.map(take, rings)


def write_at(
  target: jax.Array,
  update: jax.Array,
  start: Int[Array, 'B'],
  *,
  axis: int,
) -> jax.Array:
  """Write `update` into each row of `target` from the row's own `start` on.

  Args:
    target: leading dimension B.
    update: shorter along one dimension.
    start: where each row's begins.
    axis: that dimension, not counting the leading one.
  """

  def write_row(row, new, at):
    return lax.dynamic_update_slice_in_dim(row, new, at, axis=axis)

  if target.shape[0] == 1:
    # Mapped over rows it is a scatter, which costs a loop even for one.
    return write_row(target[0], update[0], start[0])[None]
  return jax.vmap(write_row)(target, update, start)
