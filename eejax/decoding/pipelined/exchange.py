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
from jax.sharding import Mesh

from eejax.axes import MODEL, STAGE
from eejax.decoding.policy.criteria import Memory
from eejax.types import Array, Bool, DTypeLike, Float, Int, PyTree


@flax.struct.dataclass
class Packet:
  """The tokens that one stage sends to the next.

  Outside of a stage all arrays have a leading P.

  Attributes:
    hidden: their streams.
    base: position of each row's first token.
    count: how many tokens of each row there are; 0 is none.
    emitted: rows that have emitted after their newest token.
    memory: what the exits that it has passed saw of that token.
  """

  hidden: Float[Array, '*P B T D']
  base: Int[Array, '*P B']
  count: Int[Array, '*P B']
  emitted: Bool[Array, '*P B']
  memory: Memory


def no_packet(
  *,
  batch_size: int,
  width: int,
  embed_dim: int,
  dtype: DTypeLike,
  memory: Memory,
) -> Packet:
  """Return what a stage receives before anything was sent."""
  numbers = jnp.zeros((batch_size,), jnp.int32)
  return Packet(
    hidden=jnp.zeros((batch_size, width, embed_dim), dtype),
    base=numbers,
    count=numbers,
    emitted=numbers > 0,
    memory=memory,
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


def where_rows(rows: Bool[Array, 'B'], chosen: PyTree, other: PyTree) -> PyTree:
  """Return arrays [B, ...] of one tree for some rows, else of the other."""
  return jax.tree.map(
    lambda new, old: jnp.where(beside(rows, new), new, old), chosen, other
  )


def beside(rows: Bool[Array, '*rows'], value: Array) -> Array:
  """Return `rows` with as many axes as `value`."""
  return rows.reshape(rows.shape + (1,) * (value.ndim - rows.ndim))


def over_stages(run, mesh: Mesh, *, in_specs, out_specs):
  """Return `run` on every stage at once, other axes left to the compiler.

  What is the same on all stages comes of sums over them; JAX cannot see that
  through the loops that filter logits, so its check is off.
  """
  return jax.shard_map(
    run,
    mesh=mesh,
    axis_names={STAGE},
    in_specs=in_specs,
    out_specs=out_specs,
    check_vma=False,
  )


def of_stage(values: Sequence[int | float]) -> jax.Array:
  """Return this stage's one of static values, one a stage."""
  return jnp.asarray(values)[lax.axis_index(STAGE)]


def own(tree: PyTree) -> PyTree:
  """Drop the leading dimension that was split over stages."""
  return jax.tree.map(lambda leaf: leaf[0], tree)


def shared(tree: PyTree) -> PyTree:
  """Put that dimension back."""
  return jax.tree.map(lambda leaf: leaf[None], tree)
