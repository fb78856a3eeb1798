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
"""The two compiled programs: prompts in chunks, and the loop of ticks.

Both are one `shard_map` over the stages; what is left to the compiler is
tensor parallelism inside a stage.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.decoding.pipelined.answers import answer
from eejax.decoding.pipelined.exchange import (
  Packet,
  if_any,
  no_packet,
  of_stage,
  own,
  received,
  sent,
  shared,
)
from eejax.decoding.pipelined.layout import STAGE_AXIS, Layout
from eejax.decoding.pipelined.parameters import StageParams, model_partition
from eejax.decoding.pipelined.rows import (
  Record,
  Request,
  Rows,
  empty_record,
  gather,
  next_rows,
  recorded,
)
from eejax.decoding.pipelined.stage import Caches, embed, run_stage, write_rows
from eejax.ops.sampling import SamplingMethod
from eejax.types import Array, DTypeLike, Int

_SPLIT, _WHOLE = PartitionSpec(STAGE_AXIS), PartitionSpec()


@flax.struct.dataclass
class _Carry:
  """Hold the loop's carry.

  Attributes:
    rows: where rows stand.
    record: what was emitted so far.
    inbox: what the stage before has sent.
    caches: of this stage.
  """

  rows: Rows
  record: Record
  inbox: Packet
  caches: Caches


def empty_caches(
  layout: Layout,
  *,
  mesh: Mesh,
  batch_size: int,
  size: int,
  dtype: DTypeLike,
) -> Caches:
  """Return caches of `size` slots, each stage's on its own devices."""
  c = layout.config
  shape = (
    layout.num_stages,
    batch_size,
    c.num_kv_heads,
    size,
    c.head_dim,
  )
  heads = model_partition(mesh, size=c.num_kv_heads)
  sharding = NamedSharding(mesh, PartitionSpec(STAGE_AXIS, None, heads))
  make = lambda: tuple(
    jnp.zeros(shape, dtype, device=sharding) for _ in range(layout.num_caches)
  )
  return Caches(make(), make())


@functools.partial(
  jax.jit,
  static_argnames=('layout', 'mesh', 'width'),
  donate_argnames='caches',
)
def prefill(
  params: StageParams,
  caches: Caches,
  tokens: Int[Array, 'B T'],
  lengths: Int[Array, 'B'],
  *,
  layout: Layout,
  mesh: Mesh,
  width: int,
) -> tuple[Caches, Int[Array, '']]:
  """Run prompts through all stages, a chunk of all rows after the other.

  Args:
    params: the model.
    caches: are consumed.
    tokens: prompts without their last token, padded on the right to a
      multiple of `width`; what is padding for all rows takes no time.
    lengths: how many tokens of each row are text.
    layout: the static shape of the program.
    mesh: where it runs.
    width: tokens of a chunk.

  Returns:
    The caches, filled, and how many ticks it took.
  """
  run = functools.partial(_prefill_on_stage, layout=layout, width=width)
  specs = (_SPLIT, _SPLIT, _WHOLE, _WHOLE)
  over_stages = _over_stages(
    run, mesh, in_specs=specs, out_specs=(_SPLIT, _WHOLE)
  )
  return over_stages(params, caches, tokens, lengths)


@functools.partial(
  jax.jit,
  static_argnames=('layout', 'mesh', 'method', 'capacity'),
  donate_argnames='caches',
)
def decode(
  params: StageParams,
  caches: Caches,
  request: Request,
  rows: Rows,
  *,
  layout: Layout,
  mesh: Mesh,
  method: SamplingMethod,
  capacity: int,
) -> tuple[Record, Caches]:
  """Generate until every row has ended.

  Args:
    params: the model.
    caches: are consumed.
    request: settings of the rows.
    rows: where they stand; all that are live enter the first stage.
    layout: the static shape of the program.
    mesh: where it runs.
    method: how tokens are chosen.
    capacity: the most tokens a row may emit.

  Returns:
    What was emitted, and the caches. Those of deeper stages lack the newest
    tokens, which were still on their way when the last row ended.
  """
  run = functools.partial(
    _decode_on_stage, layout=layout, method=method, capacity=capacity
  )
  specs = (_SPLIT, _SPLIT, _WHOLE, _WHOLE)
  over_stages = _over_stages(
    run, mesh, in_specs=specs, out_specs=(_WHOLE, _SPLIT)
  )
  return over_stages(params, caches, request, rows)


def _over_stages(run, mesh: Mesh, *, in_specs, out_specs):
  """Return `run` on every stage at once, other axes left to the compiler.

  What is the same on all stages comes of sums over them; JAX cannot see that
  through the loops that filter logits, so its check is off.
  """
  return jax.shard_map(
    run,
    mesh=mesh,
    axis_names={STAGE_AXIS},
    in_specs=in_specs,
    out_specs=out_specs,
    check_vma=False,
  )


def _prefill_on_stage(
  params: StageParams,
  caches: Caches,
  tokens: Int[Array, 'B T'],
  lengths: Int[Array, 'B'],
  *,
  layout: Layout,
  width: int,
) -> tuple[Caches, Int[Array, '']]:
  params = own(params)
  batch_size = tokens.shape[0]
  answered = jnp.ones((batch_size,), bool)
  run = functools.partial(run_stage, params, layout=layout)

  def advance(
    tick: Int[Array, ''], carry: tuple[Caches, Packet]
  ) -> tuple[Caches, Packet]:
    caches, inbox = carry
    start = tick * width
    # Past the last chunk nothing is left of any row.
    count = jnp.clip(lengths - start, 0, width)
    chunk = lax.dynamic_slice_in_dim(tokens, start, width, axis=1)
    base = jnp.full((batch_size,), start)
    packet = Packet(embed(params, chunk), base, count, answered)
    packet = received(inbox, packet)
    out = if_any(packet.count > 0, run, packet, caches)
    caches = write_rows(caches, out.rows, packet)
    packet = dataclasses.replace(packet, hidden=out.hidden)
    return caches, sent(packet, num_stages=layout.num_stages)

  num_chunks = -(-jnp.max(lengths) // width)
  num_ticks = num_chunks + layout.num_stages - 1
  inbox = _empty_inbox(params, layout, batch_size=batch_size, width=width)
  caches, _ = lax.fori_loop(0, num_ticks, advance, (own(caches), inbox))
  return shared(caches), num_ticks


def _decode_on_stage(
  params: StageParams,
  caches: Caches,
  request: Request,
  rows: Rows,
  *,
  layout: Layout,
  method: SamplingMethod,
  capacity: int,
) -> tuple[Record, Caches]:
  params = own(params)
  batch_size = rows.token.shape[0]

  run = functools.partial(run_stage, params, layout=layout)
  say = functools.partial(answer, params, request, layout=layout, method=method)
  has_head = of_stage([s.has_head for s in layout.stages])

  def advance(carry: _Carry) -> _Carry:
    """Take one tick."""
    rows = carry.rows
    entering = Packet(
      hidden=embed(params, rows.token[:, None]),
      base=rows.position,
      count=rows.enters.astype(jnp.int32),
      emitted=jnp.zeros_like(rows.enters),
    )
    packet = received(carry.inbox, entering)
    out = if_any(packet.count > 0, run, packet, carry.caches)
    asks = has_head & (packet.count > 0) & ~packet.emitted
    leaves, said = if_any(asks, say, packet, out, asks)
    packet = dataclasses.replace(
      packet, hidden=out.hidden, emitted=packet.emitted | leaves
    )
    emits, emitted = gather(leaves, said)
    return _Carry(
      rows=next_rows(rows, emits, emitted, request),
      record=recorded(carry.record, emits, emitted),
      inbox=sent(packet, num_stages=layout.num_stages),
      caches=write_rows(carry.caches, out.rows, packet),
    )

  carry = lax.while_loop(
    lambda carry: jnp.any(carry.rows.live),
    advance,
    _Carry(
      rows=rows,
      record=empty_record(batch_size, capacity),
      inbox=_empty_inbox(params, layout, batch_size=batch_size, width=1),
      caches=own(caches),
    ),
  )
  return carry.record, shared(carry.caches)


def _empty_inbox(
  params: StageParams, layout: Layout, *, batch_size: int, width: int
) -> Packet:
  return no_packet(
    batch_size=batch_size,
    width=width,
    embed_dim=layout.config.embed_dim,
    dtype=params.table.dtype,
  )
