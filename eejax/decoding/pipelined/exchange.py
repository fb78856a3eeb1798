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
"""Communication between stages, and work that only some of them do.

All of this runs inside `shard_map`.
"""

from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.axes import MODEL, STAGE
from eejax.types import Array, Bool, DTypeLike, Float, Int, PyTree


@flax.struct.dataclass
class Packet:
  """The tokens that one stage sends to the next.

  Attributes:
    hidden: their streams.
    base: position of each row's first token.
    count: how many tokens of each row there are; 0 is none.
    emitted: rows that have emitted after their newest token.
  """

  hidden: Float[Array, 'B T D']
  base: Int[Array, 'B']
  count: Int[Array, 'B']
  emitted: Bool[Array, 'B']


def no_packet(
  *, batch_size: int, width: int, embed_dim: int, dtype: DTypeLike
) -> Packet:
  """Return what a stage receives before anything was sent."""
  numbers = jnp.zeros((batch_size,), jnp.int32)
  return Packet(
    hidden=jnp.zeros((batch_size, width, embed_dim), dtype),
    base=numbers,
    count=numbers,
    emitted=numbers > 0,
  )


def received(inbox: Packet, entering: Packet) -> Packet:
  """Return what a stage works on: the first takes what enters."""
  is_first = lax.axis_index(STAGE) == 0
  return jax.tree.map(
    lambda new, old: jnp.where(is_first, new, old), entering, inbox
  )


def sent(packet: Packet, *, num_stages: int) -> Packet:
  """Send packets on; return what this stage receives.

  What the last stage sends goes nowhere, and the first receives zeros.
  """
  pairs = [(i, i + 1) for i in range(num_stages - 1)]
  send = lambda x: lax.ppermute(x, STAGE, pairs)
  return jax.tree.map(send, packet)


def if_any(
  rows: Bool[Array, 'B'], run: Callable[..., PyTree], *operands: PyTree
) -> PyTree:
  """Return `run(*operands)`, or zeros on a stage where no row needs it.

  Caches are only read inside the conditional, which thereby orders the reads
  before the write that follows; without it the compiler copies every cache in
  every step. Where a stage's matrices are split, collectives over the axis
  `model` stand inside, so all stages run if one does: a collective that some
  devices never reach may wait for them.
  """
  is_needed = jnp.any(rows)
  if jax.sharding.get_abstract_mesh().shape.get(MODEL, 1) > 1:
    is_needed = lax.psum(is_needed.astype(jnp.int32), STAGE) > 0
  shapes = jax.eval_shape(run, *operands)
  nothing = lambda *_: jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes
  )
  return lax.cond(is_needed, run, nothing, *operands)


def of_stage(values: Sequence[int | float]) -> jax.Array:
  """Return this stage's one of static values, one a stage."""
  return jnp.asarray(values)[lax.axis_index(STAGE)]


def own(tree: PyTree) -> PyTree:
  """Drop the leading dimension that was split over stages."""
  return jax.tree.map(lambda leaf: leaf[0], tree)


def shared(tree: PyTree) -> PyTree:
  """Put that dimension back."""
  return jax.tree.map(lambda leaf: leaf[None], tree)
