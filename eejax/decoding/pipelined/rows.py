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
"""The state of rows and their tokens; the same on all devices."""

import typing
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.axes import STAGE
from eejax.ops.sampling import RowSampling
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class PipelineRequest:
  """Settings of a batch that stay the same while it is decoded.

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
  """Tokens that rows emitted; the same on all devices.

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
  """The state of every row; the same on all devices.

  Attributes:
    token: the newest token.
    position: where it stands in the row's text.
    enters: whether it enters the first stage in the coming step.
    live: rows that still generate.
    remaining: tokens each row may still emit.
  """

  token: Int[Array, 'B']
  position: Int[Array, 'B']
  enters: Bool[Array, 'B']
  live: Bool[Array, 'B']
  remaining: Int[Array, 'B']


@flax.struct.dataclass
class RecordedTokens:
  """Everything a batch emitted.

  Attributes:
    emitted: what each row emitted, in order.
    counts: how many tokens each row emitted.
    steps: how many steps it took.
  """

  emitted: Emitted
  counts: Int[Array, 'B']
  steps: Int[Array, '']


def first_rows(prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> Rows:
  """Return rows whose last prompt token is about to enter."""
  everyone = jnp.ones(len(prompts), bool)
  return Rows(
    token=jnp.array([p[-1] for p in prompts], jnp.int32),
    position=jnp.array([len(p) - 1 for p in prompts], jnp.int32),
    enters=everyone,
    live=everyone,
    remaining=jnp.array(limits, jnp.int32),
  )


def gather(
  leaves: Bool[Array, 'B'], candidate: Emitted
) -> tuple[Bool[Array, 'B'], Emitted]:
  """Return on all stages which rows emit, and what.

  A row emits at one stage at most, so a sum over stages takes its token.
  """
  take = lambda value: lax.psum(jnp.where(leaves, value, 0), STAGE)
  return take(leaves.astype(jnp.int32)) > 0, jax.tree.map(take, candidate)


def next_rows(
  rows: Rows,
  emits: Bool[Array, 'B'],
  emitted: Emitted,
  request: PipelineRequest,
) -> Rows:
  """Return where rows stand after a step."""
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


def empty_record(batch_size: int, capacity: int) -> RecordedTokens:
  """Return the record of rows that have emitted nothing."""
  number = jnp.zeros((batch_size, capacity), jnp.int32)
  real = jnp.zeros((batch_size, capacity), jnp.float32)
  return RecordedTokens(
    emitted=Emitted(token=number, stage=number, score=real, log_prob=real),
    counts=jnp.zeros((batch_size,), jnp.int32),
    steps=jnp.zeros((), jnp.int32),
  )


def recorded(
  record: RecordedTokens, emits: Bool[Array, 'B'], emitted: Emitted
) -> RecordedTokens:
  """Append to each row what it emits."""
  capacity = record.emitted.token.shape[1]
  is_next = jnp.arange(capacity)[None] == record.counts[:, None]  # [B, C]
  put = is_next & emits[:, None]
  append = lambda kept, new: jnp.where(put, new[:, None], kept)
  return RecordedTokens(
    emitted=jax.tree.map(append, record.emitted, emitted),
    counts=record.counts + emits,
    steps=record.steps + 1,
  )
