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
"""What a recurrent block keeps of a text, instead of keys and values."""

import enum

import flax.struct
import jax
import jax.numpy as jnp

from eejax.types import Array, Float


class KeptStates(enum.Enum):
  """Which states a block returns.

  LAST: the one after the last token. EVERY: one after each token, so that any
  of them can be gone on from.
  """

  LAST = 'last'
  EVERY = 'every'


@flax.struct.dataclass
class RecurrentState:
  """State of a recurrent block: all that it keeps of the tokens before.

  Attributes:
    tail: the newest inputs of the convolution, oldest first.
    memory: state of the recurrence, float32.
  """

  tail: Float[Array, '...']
  memory: Float[Array, '...']


def empty_state(
  *batch: int,
  tail_shape: tuple[int, ...],
  memory_shape: tuple[int, ...],
  dtype: jax.typing.DTypeLike,
) -> RecurrentState:
  """Return the state of blocks that have seen nothing."""
  return RecurrentState(
    tail=jnp.zeros((*batch, *tail_shape), dtype),
    memory=jnp.zeros((*batch, *memory_shape), jnp.float32),
  )
