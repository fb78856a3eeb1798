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
"""Where rows stand, and what they have emitted; the same on all devices."""

import typing

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.decoding.pipelined.layout import STAGE_AXIS
from eejax.ops.sampling import RowSampling
from eejax.types import Array, Bool, Float, Int


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


def gather(
  leaves: Bool[Array, 'B'], said: Emitted
) -> tuple[Bool[Array, 'B'], Emitted]:
  """Return on all stages which rows emit, and what.

  At most one stage answers a row, so a sum over stages takes its answer.
  """
  take = lambda value: lax.psum(jnp.where(leaves, value, 0), STAGE_AXIS)
  return take(leaves.astype(jnp.int32)) > 0, jax.tree.map(take, said)


def next_rows(
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


def empty_record(batch_size: int, capacity: int) -> Record:
  """Return the record of rows that have emitted nothing."""
  number = jnp.zeros((batch_size, capacity), jnp.int32)
  real = jnp.zeros((batch_size, capacity), jnp.float32)
  return Record(
    emitted=Emitted(token=number, stage=number, score=real, log_prob=real),
    counts=jnp.zeros((batch_size,), jnp.int32),
    ticks=jnp.zeros((), jnp.int32),
  )


def recorded(
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
