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
import typing
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.decoding.pipelined.layout import (
  MODEL_AXIS,
  STAGE_AXIS,
  Layout,
)
from eejax.decoding.pipelined.parameters import StageParams, model_partition
from eejax.decoding.pipelined.stage import (
  Caches,
  Packet,
  StageOutput,
  embed,
  of_stage,
  run_stage,
  stage_logits,
  stage_score,
  write_rows,
)
from eejax.ops.sampling import (
  RowSampling,
  SamplingMethod,
  choose,
  log_probability,
)
from eejax.types import Array, Bool, DTypeLike, Float, Int, PyTree

_SPLIT, _WHOLE = PartitionSpec(STAGE_AXIS), PartitionSpec()


@flax.struct.dataclass
class Request:
  """Hold what stays the same while a batch is decoded.

  Attributes:
    eos: tokens that end a row.
    thresholds: one for each stage's exit; infinity where there is none.
    sampling: how each row's tokens are chosen.
  """

  eos: Int[Array, 'num_eos']
  thresholds: Float[Array, 'P']
  sampling: RowSampling


# Unchecked, for a conditional's shapes come as trees of what are no arrays.
@typing.no_type_check
@flax.struct.dataclass
class Emitted:
  """Hold what rows emitted; the same on all devices.

  Attributes:
    token: the token.
    stage: where it was emitted.
    score: score of the exit it came from; NaN from the final head.
    log_prob: its log-probability, untempered, under the head it came from.
  """

  token: Int[Array, '*rows']
  stage: Int[Array, '*rows']
  score: Float[Array, '*rows']
  log_prob: Float[Array, '*rows']


@flax.struct.dataclass
class Rows:
  """Hold where every row stands; the same on all devices.

  Attributes:
    token: the newest token.
    position: where it stands in the row's text.
    enters: whether it enters the first stage in the coming tick.
    live: rows that still generate.
    remaining: tokens each row may still emit.
  """

  token: Int[Array, 'B']
  position: Int[Array, 'B']
  enters: Bool[Array, 'B']
  live: Bool[Array, 'B']
  remaining: Int[Array, 'B']


@flax.struct.dataclass
class Record:
  """Hold what a generation left behind.

  Attributes:
    emitted: what each row emitted, in order.
    counts: how many tokens each row emitted.
    ticks: how many ticks it took.
  """

  emitted: Emitted
  counts: Int[Array, 'B']
  ticks: Int[Array, '']


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
  params = _own(params)
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
    packet = _received(inbox, packet)
    out = _if_any(packet.count > 0, run, packet, caches)
    caches = write_rows(caches, out.rows, packet)
    return caches, _sent(dataclasses.replace(packet, hidden=out.hidden), layout)

  num_chunks = -(-jnp.max(lengths) // width)
  num_ticks = num_chunks + layout.num_stages - 1
  inbox = _no_packet(params, batch_size=batch_size, width=width)
  caches, _ = lax.fori_loop(0, num_ticks, advance, (_own(caches), inbox))
  return _shared(caches), num_ticks


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
  params = _own(params)
  batch_size = rows.token.shape[0]

  run = functools.partial(run_stage, params, layout=layout)
  answer = functools.partial(
    _answer, params, request, layout=layout, method=method
  )
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
    packet = _received(carry.inbox, entering)
    out = _if_any(packet.count > 0, run, packet, carry.caches)
    asks = has_head & (packet.count > 0) & ~packet.emitted
    leaves, said = _if_any(asks, answer, packet, out, asks)
    inbox = _sent(
      dataclasses.replace(
        packet, hidden=out.hidden, emitted=packet.emitted | leaves
      ),
      layout,
    )
    emits, emitted = _gather(leaves, said)
    return _Carry(
      rows=_next_rows(rows, emits, emitted, request),
      record=_recorded(carry.record, emits, emitted),
      inbox=inbox,
      caches=write_rows(carry.caches, out.rows, packet),
    )

  carry = lax.while_loop(
    lambda carry: jnp.any(carry.rows.live),
    advance,
    _Carry(
      rows=rows,
      record=_empty_record(batch_size, capacity),
      inbox=_no_packet(params, batch_size=batch_size, width=1),
      caches=_own(caches),
    ),
  )
  return carry.record, _shared(carry.caches)


def _if_any(
  rows: Bool[Array, 'B'], run: Callable[..., PyTree], *operands: PyTree
) -> PyTree:
  """Return `run(*operands)`, or zeros on a stage where no row needs it.

  Caches are only read inside the conditional, which thereby orders the reads
  before the write that follows; without it the compiler copies every cache in
  every tick. Where a stage's matrices are split, collectives over the axis
  `model` stand inside, so all stages run if one does: a collective that some
  devices never reach may wait for them.
  """
  is_needed = jnp.any(rows)
  if jax.sharding.get_abstract_mesh().shape.get(MODEL_AXIS, 1) > 1:
    is_needed = lax.psum(is_needed.astype(jnp.int32), STAGE_AXIS) > 0
  shapes = jax.eval_shape(run, *operands)
  nothing = lambda *_: jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes
  )
  return lax.cond(is_needed, run, nothing, *operands)


def _answer(
  params: StageParams,
  request: Request,
  packet: Packet,
  out: StageOutput,
  asks: Bool[Array, 'B'],
  *,
  layout: Layout,
  method: SamplingMethod,
) -> tuple[Bool[Array, 'B'], Emitted]:
  """Return which rows are answered at this stage, and what it would say.

  A row's newest token is answered once: by the first exit whose score
  reaches its threshold, or by the final head.
  """
  logits = stage_logits(params, out.ready[:, 0])
  score = stage_score(
    params, out.hidden[:, 0], logits, packet.base, layout=layout
  )
  threshold = request.thresholds[lax.axis_index(STAGE_AXIS)]
  is_final = of_stage([s.is_final for s in layout.stages])
  token = choose(
    logits,
    method=method,
    sampling=request.sampling,
    positions=packet.base + 1,
  )
  said = Emitted(
    token=token,
    stage=jnp.full_like(token, lax.axis_index(STAGE_AXIS)),
    score=score,
    log_prob=log_probability(logits, token),
  )
  return asks & (is_final | (score >= threshold)), said


def _gather(
  leaves: Bool[Array, 'B'], said: Emitted
) -> tuple[Bool[Array, 'B'], Emitted]:
  """Return on all stages which rows emit, and what.

  At most one stage answers a row, so a sum over stages takes its answer.
  """
  take = lambda value: lax.psum(jnp.where(leaves, value, 0), STAGE_AXIS)
  return take(leaves.astype(jnp.int32)) > 0, jax.tree.map(take, said)


def _next_rows(
  rows: Rows,
  emits: Bool[Array, 'B'],
  emitted: Emitted,
  request: Request,
) -> Rows:
  """Return where rows stand after a tick."""
  ended = jnp.isin(emitted.token, request.eos)
  remaining = rows.remaining - emits
  live = rows.live & ~(emits & (ended | (remaining <= 0)))
  return Rows(
    token=jnp.where(emits, emitted.token, rows.token),
    position=rows.position + emits,
    enters=emits & live,
    live=live,
    remaining=remaining,
  )


def _empty_record(batch_size: int, capacity: int) -> Record:
  number = jnp.zeros((batch_size, capacity), jnp.int32)
  real = jnp.zeros((batch_size, capacity), jnp.float32)
  return Record(
    emitted=Emitted(token=number, stage=number, score=real, log_prob=real),
    counts=jnp.zeros((batch_size,), jnp.int32),
    ticks=jnp.zeros((), jnp.int32),
  )


def _recorded(
  record: Record, emits: Bool[Array, 'B'], emitted: Emitted
) -> Record:
  """Append to each row what it emits."""
  capacity = record.emitted.token.shape[1]
  is_next = jnp.arange(capacity)[None] == record.counts[:, None]  # [B, C]
  put = is_next & emits[:, None]
  append = lambda kept, new: jnp.where(put, new[:, None], kept)
  return Record(
    emitted=jax.tree.map(append, record.emitted, emitted),
    counts=record.counts + emits,
    ticks=record.ticks + 1,
  )


def _no_packet(params: StageParams, *, batch_size: int, width: int) -> Packet:
  """Return what a stage receives before anything was sent."""
  shape = (batch_size, width, params.table.shape[-1])
  numbers = jnp.zeros((batch_size,), jnp.int32)
  return Packet(
    hidden=jnp.zeros(shape, params.table.dtype),
    base=numbers,
    count=numbers,
    emitted=numbers > 0,
  )


def _received(inbox: Packet, entering: Packet) -> Packet:
  """Return what a stage works on: the first takes what enters."""
  is_first = lax.axis_index(STAGE_AXIS) == 0
  return jax.tree.map(
    lambda new, old: jnp.where(is_first, new, old), entering, inbox
  )


def _sent(packet: Packet, layout: Layout) -> Packet:
  """Hand packets on; return what this stage receives.

  What the last stage sends goes nowhere, and the first receives zeros.
  """
  pairs = [(i, i + 1) for i in range(layout.num_stages - 1)]
  send = lambda x: lax.ppermute(x, STAGE_AXIS, pairs)
  return jax.tree.map(send, packet)


def _own(tree):
  """Drop the leading dimension that was split over stages."""
  return jax.tree.map(lambda leaf: leaf[0], tree)


def _shared(tree):
  """Put that dimension back."""
  return jax.tree.map(lambda leaf: leaf[None], tree)
