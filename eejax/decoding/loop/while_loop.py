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
"""The token loop: one XLA `while_loop`, entered chunk by chunk.

It knows no model: whatever steps a state and emits something can be looped.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.types import Array, Bool, Int, PyTree

# A pytree with the attribute `live`, the rows [B] that still generate.
State = Any


@flax.struct.dataclass
class Chunk:
  """Emissions of all rows in one call of the loop.

  Attributes:
    emitted: leaves [C, ...], one entry a step.
    steps: how many of them were done.
  """

  emitted: PyTree
  steps: Int[Array, '']


@flax.struct.dataclass
class _Carry:
  """Carry of the loop.

  Attributes:
    state: what is stepped.
    chunk: what was emitted so far.
  """

  state: Any
  chunk: Chunk


def run_steps(
  step: Callable[[State], tuple[State, PyTree]],
  state: State,
  *,
  blank: PyTree,
  max_steps: Int[Array, ''],
  capacity: int,
) -> tuple[State, Chunk]:
  """Step until no row is live, at most `max_steps` times.

  Args:
    step: returns the next state, and what was emitted.
    state: where to start.
    blank: what a step emits, with any values.
    max_steps: data, so that any number of steps up to `capacity` shares one
      program.
    capacity: steps that there is room for.
  """
  room = lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype)
  first = Chunk(jax.tree.map(room, blank), steps=jnp.zeros((), jnp.int32))
  last = jnp.minimum(max_steps, capacity)

  def goes_on(carry: _Carry) -> Bool[Array, '']:
    return (carry.chunk.steps < last) & jnp.any(carry.state.live)

  def advance(carry: _Carry) -> _Carry:
    new_state, emission = step(carry.state)
    put = lambda buffer, value: lax.dynamic_update_index_in_dim(
      buffer, value, carry.chunk.steps, axis=0
    )
    emitted = jax.tree.map(put, carry.chunk.emitted, emission)
    return _Carry(new_state, Chunk(emitted, carry.chunk.steps + 1))

  carry = lax.while_loop(goes_on, advance, _Carry(state, first))
  return carry.state, carry.chunk
