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
"""The program that generates, a chunk of tokens a call.

It is one `shard_map` over the stages; what is left to the compiler is tensor
parallelism inside a stage.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any

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
  over_stages,
  own,
  received,
  sent,
  shared,
  where_rows,
)
from eejax.decoding.pipelined.heads import decide_exit
from eejax.decoding.pipelined.layout import PipelineLayout
from eejax.decoding.pipelined.parameters import PipelinedParams
from eejax.decoding.pipelined.rows import (
  Emitted,
  PipelineRequest,
  RecordedTokens,
  Rows,
  empty_record,
  gather,
  next_rows,
  recorded,
  without_rows,
)
from eejax.decoding.pipelined.stage import Caches, embed, run_stage, write_rows
from eejax.decoding.policy.criteria import Memory, blank_memory
from eejax.ops.sampling import SamplingMethod
from eejax.types import Array, Bool, DTypeLike, Int

# Of any type, for they stand in a tree in place of arrays.
_SPLIT: Any = PartitionSpec(STAGE)
_WHOLE: Any = PartitionSpec()


# Unchecked, for outside of a stage what is a stage's has a leading P.
@typing.no_type_check
@flax.struct.dataclass
class PipelineState:
  """The state of a batch between two calls of `decode_chunk`.

  Attributes:
    rows: where rows stand.
    inbox: what the stage before has sent.
    caches: of this stage.
  """

  rows: Rows
  inbox: Packet
  caches: Caches


@flax.struct.dataclass
class _Carry:
  """The carry of the decode loop.

  Attributes:
    state: of the batch, as one stage sees it.
    record: what was emitted so far.
  """

  state: PipelineState
  record: RecordedTokens


def first_state(
  rows: Rows,
  caches: Caches,
  *,
  layout: PipelineLayout,
  mesh: Mesh,
  dtype: DTypeLike,
) -> PipelineState:
  """Return the state of a batch whose rows are about to enter.

  Args:
    rows: where they stand, on all devices.
    caches: filled by `prefill`.
    layout: the static shape of the program.
    mesh: where it runs.
    dtype: of streams.
  """
  inbox = _empty_inbox(layout, len(rows.token), 1, dtype=dtype)
  stages = layout.num_stages
  inbox = jax.tree.map(lambda x: jnp.stack([x] * stages), inbox)
  inbox = jax.device_put(inbox, NamedSharding(mesh, _SPLIT))
  return PipelineState(rows, inbox, caches)


@functools.partial(
  jax.jit,
  static_argnames=('layout', 'mesh', 'method', 'capacity', 'top_logprobs'),
  donate_argnames='state',
)
def decode_chunk(
  params: PipelinedParams,
  request: PipelineRequest,
  state: PipelineState,
  ended: Bool[Array, 'B'],
  tokens: Int[Array, ''],
  *,
  layout: PipelineLayout,
  mesh: Mesh,
  method: SamplingMethod,
  capacity: int,
  top_logprobs: int = 0,
) -> tuple[RecordedTokens, PipelineState]:
  """Generate until a row has emitted so many tokens, or all have ended.

  Args:
    params: the model.
    request: settings of the rows.
    state: is consumed.
    ended: rows that the host wants nothing more of; tokens of theirs that are
      on their way emit nothing.
    tokens: how many, at most `capacity`.
    layout: the static shape of the program.
    mesh: where it runs.
    method: how tokens are chosen.
    capacity: the most tokens a row may emit in one call.
    top_logprobs: how many of the likeliest tokens are kept of each one.

  Returns:
    What was emitted, and the state. Caches of deeper stages lack the newest
    tokens, which are still on their way.
  """
  run = functools.partial(
    _decode_on_stage,
    layout=layout,
    method=method,
    capacity=capacity,
    top_logprobs=top_logprobs,
  )
  in_state = PipelineState(_WHOLE, _SPLIT, _SPLIT)
  on_stages = over_stages(
    run,
    mesh,
    in_specs=(_SPLIT, _WHOLE, in_state, _WHOLE, _WHOLE),
    out_specs=(_WHOLE, in_state),
  )
  return on_stages(params, request, state, ended, tokens)


def _decode_on_stage(
  params: PipelinedParams,
  request: PipelineRequest,
  state: PipelineState,
  ended: Bool[Array, 'B'],
  tokens: Int[Array, ''],
  *,
  layout: PipelineLayout,
  method: SamplingMethod,
  capacity: int,
  top_logprobs: int,
) -> tuple[RecordedTokens, PipelineState]:
  params = own(params)
  batch_size = ended.shape[0]
  decide = functools.partial(
    decide_exit,
    params,
    request,
    layout=layout,
    method=method,
    top_logprobs=top_logprobs,
  )
  inbox = own(state.inbox)
  first = PipelineState(
    rows=without_rows(state.rows, ended),
    inbox=dataclasses.replace(inbox, emitted=inbox.emitted | ended),
    caches=own(state.caches),
  )
  record = empty_record(batch_size, capacity, top_logprobs=top_logprobs)

  def goes_on(carry: _Carry) -> Bool[Array, '']:
    has_room = jnp.max(carry.record.counts) < tokens
    return jnp.any(carry.state.rows.live) & has_room

  def advance(carry: _Carry) -> _Carry:
    state, emits, emitted = _step(
      params, carry.state, request, decide=decide, layout=layout
    )
    return _Carry(state, recorded(carry.record, emits, emitted))

  carry = lax.while_loop(goes_on, advance, _Carry(first, record))
  last = carry.state
  return carry.record, PipelineState(
    last.rows, shared(last.inbox), shared(last.caches)
  )


def _step(
  params: PipelinedParams,
  state: PipelineState,
  request: PipelineRequest,
  *,
  decide: Callable[..., tuple[Bool[Array, 'B'], Emitted, Memory]],
  layout: PipelineLayout,
) -> tuple[PipelineState, Bool[Array, 'B'], Emitted]:
  """Run every stage once; return the state, which rows emit, and what."""
  rows = state.rows
  blank = _empty_inbox(layout, len(rows.token), 1, dtype=params.table.dtype)
  entering = dataclasses.replace(
    blank,
    hidden=embed(
      params,
      rows.token[:, None],
      rows.position[:, None],
      config=layout.config,
    ),
    base=rows.position,
    count=rows.enters.astype(jnp.int32),
  )
  packet = received(state.inbox, entering)
  run = functools.partial(run_stage, params, layout=layout)
  out = if_any(packet.count > 0, run, packet, state.caches)
  has_head = of_stage([s.has_head for s in layout.stages])
  asks = has_head & (packet.count > 0) & ~packet.emitted
  leaves, candidate, memory = if_any(asks, decide, packet, out, asks)
  packet = dataclasses.replace(
    packet,
    hidden=out.hidden,
    emitted=packet.emitted | leaves,
    memory=where_rows(asks, memory, packet.memory),
  )
  emits, emitted = gather(leaves, candidate)
  state = PipelineState(
    rows=next_rows(rows, emits, emitted, request),
    inbox=sent(packet, num_stages=layout.num_stages),
    caches=write_rows(state.caches, out.rows, packet),
  )
  return state, emits, emitted


def _empty_inbox(
  layout: PipelineLayout, batch_size: int, width: int, *, dtype: DTypeLike
) -> Packet:
  """Return no tokens, with room for what exits remember of one."""
  config = layout.config
  return no_packet(
    batch_size=batch_size,
    width=width,
    embed_dim=config.embed_dim,
    dtype=dtype,
    memory=blank_memory(
      layout.reads,
      batch_size=batch_size,
      num_scored=config.vocab_size,
      embed_dim=config.embed_dim,
      dtype=dtype,
    ),
  )
