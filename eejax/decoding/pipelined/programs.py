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
"""The two compiled programs: prompts in chunks, and the loop of steps.

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

from eejax.axes import STAGE
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
from eejax.decoding.pipelined.heads import decide_exit
from eejax.decoding.pipelined.layout import PipelineLayout
from eejax.decoding.pipelined.parameters import PipelinedParams, model_partition
from eejax.decoding.pipelined.rows import (
  PipelineRequest,
  RecordedTokens,
  Rows,
  empty_record,
  gather,
  next_rows,
  recorded,
)
from eejax.decoding.pipelined.stage import Caches, embed, run_stage, write_rows
from eejax.ops.sampling import SamplingMethod
from eejax.types import Array, DTypeLike, Int

_SPLIT, _WHOLE = PartitionSpec(STAGE), PartitionSpec()


@flax.struct.dataclass
class _Carry:
  """The carry of the decode loop.

  Attributes:
    rows: where rows stand.
    record: what was emitted so far.
    inbox: what the stage before has sent.
    caches: of this stage.
  """

  rows: Rows
  record: RecordedTokens
  inbox: Packet
  caches: Caches


def empty_caches(
  layout: PipelineLayout,
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
  sharding = NamedSharding(mesh, PartitionSpec(STAGE, None, heads))
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
  params: PipelinedParams,
  caches: Caches,
  tokens: Int[Array, 'B T'],
  lengths: Int[Array, 'B'],
  *,
  layout: PipelineLayout,
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
    The caches, filled, and how many steps it took.
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
  params: PipelinedParams,
  caches: Caches,
  request: PipelineRequest,
  rows: Rows,
  *,
  layout: PipelineLayout,
  mesh: Mesh,
  method: SamplingMethod,
  capacity: int,
) -> tuple[RecordedTokens, Caches]:
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
    axis_names={STAGE},
    in_specs=in_specs,
    out_specs=out_specs,
    check_vma=False,
  )


def _prefill_on_stage(
  params: PipelinedParams,
  caches: Caches,
  tokens: Int[Array, 'B T'],
  lengths: Int[Array, 'B'],
  *,
  layout: PipelineLayout,
  width: int,
) -> tuple[Caches, Int[Array, '']]:
  params = own(params)
  batch_size = tokens.shape[0]
  answered = jnp.ones((batch_size,), bool)
  run = functools.partial(run_stage, params, layout=layout)

  def advance(
    step: Int[Array, ''], carry: tuple[Caches, Packet]
  ) -> tuple[Caches, Packet]:
    caches, inbox = carry
    start = step * width
    # Past the last chunk nothing is left of any row.
    count = jnp.clip(lengths - start, 0, width)
    chunk = lax.dynamic_slice_in_dim(tokens, start, width, axis=1)
    base = jnp.full((batch_size,), start)
    positions = base[:, None] + jnp.arange(width)[None]
    hidden = embed(params, chunk, positions, config=layout.config)
    packet = Packet(hidden, base, count, answered)
    packet = received(inbox, packet)
    out = if_any(packet.count > 0, run, packet, caches)
    caches = write_rows(caches, out.rows, packet)
    packet = dataclasses.replace(packet, hidden=out.hidden)
    return caches, sent(packet, num_stages=layout.num_stages)

  num_chunks = -(-jnp.max(lengths) // width)
  num_steps = num_chunks + layout.num_stages - 1
  inbox = _empty_inbox(params, layout, batch_size=batch_size, width=width)
  caches, _ = lax.fori_loop(0, num_steps, advance, (own(caches), inbox))
  return shared(caches), num_steps


def _decode_on_stage(
  params: PipelinedParams,
  caches: Caches,
  request: PipelineRequest,
  rows: Rows,
  *,
  layout: PipelineLayout,
  method: SamplingMethod,
  capacity: int,
) -> tuple[RecordedTokens, Caches]:
  params = own(params)
  batch_size = rows.token.shape[0]

  run = functools.partial(run_stage, params, layout=layout)
  decide = functools.partial(
    decide_exit, params, request, layout=layout, method=method
  )
  has_head = of_stage([s.has_head for s in layout.stages])

  def advance(carry: _Carry) -> _Carry:
    """Return the carry after one step."""
    rows = carry.rows
    entering = Packet(
      hidden=embed(
        params,
        rows.token[:, None],
        rows.position[:, None],
        config=layout.config,
      ),
      base=rows.position,
      count=rows.enters.astype(jnp.int32),
      emitted=jnp.zeros_like(rows.enters),
    )
    packet = received(carry.inbox, entering)
    out = if_any(packet.count > 0, run, packet, carry.caches)
    asks = has_head & (packet.count > 0) & ~packet.emitted
    leaves, candidate = if_any(asks, decide, packet, out, asks)
    packet = dataclasses.replace(
      packet, hidden=out.hidden, emitted=packet.emitted | leaves
    )
    emits, emitted = gather(leaves, candidate)
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
  params: PipelinedParams,
  layout: PipelineLayout,
  *,
  batch_size: int,
  width: int,
) -> Packet:
  return no_packet(
    batch_size=batch_size,
    width=width,
    embed_dim=layout.config.embed_dim,
    dtype=params.table.dtype,
  )
