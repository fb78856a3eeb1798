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

import dataclasses
import typing
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.axes import STAGE
from eejax.decoding.pipelined.exchange import beside
from eejax.ops.sampling import RowBias, RowSampling
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class PipelineRequest:
  """Settings of a batch that stay the same while it is decoded.

  Attributes:
    end_ids: tokens that end each row, `NO_TOKEN` where there are fewer.
    thresholds: one for each stage's exit; infinity where there is none.
    sampling: how each row's tokens are chosen.
    bias: what changes the logits first; None where nothing does.
  """

  end_ids: Int[Array, 'B num_end']
  thresholds: Float[Array, 'P']
  sampling: RowSampling
  bias: RowBias | None = None


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
    top_ids: the likeliest tokens of that head, best first; None where none
      are wanted.
    top_log_probs: their log-probabilities.
  """

  token: Int[Array, '*rows']
  stage: Int[Array, '*rows']
  score: Float[Array, '*rows']
  log_prob: Float[Array, '*rows']
  top_ids: Int[Array, '*rows K'] | None = None
  top_log_probs: Float[Array, '*rows K'] | None = None


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
  # Arrays of their own, for each is given up to the next state.
  everyone = lambda: jnp.ones(len(prompts), bool)
  return Rows(
    token=jnp.array([p[-1] for p in prompts], jnp.int32),
    position=jnp.array([len(p) - 1 for p in prompts], jnp.int32),
    enters=everyone(),
    live=everyone(),
    remaining=jnp.array(limits, jnp.int32),
  )


def gather(
  leaves: Bool[Array, 'B'], candidate: Emitted
) -> tuple[Bool[Array, 'B'], Emitted]:
  """Return on all stages which rows emit, and what.

  A row emits at one stage at most, so a sum over stages takes its token.
  """

  def take(value: Array) -> Array:
    return lax.psum(jnp.where(beside(leaves, value), value, 0), STAGE)

  return take(leaves.astype(jnp.int32)) > 0, jax.tree.map(take, candidate)


def next_rows(
  rows: Rows,
  emits: Bool[Array, 'B'],
  emitted: Emitted,
  request: PipelineRequest,
) -> Rows:
  """Return where rows stand after a step."""
  ended = jnp.any(emitted.token[:, None] == request.end_ids, axis=-1)
  remaining = rows.remaining - emits
  live = rows.live & ~(emits & (ended | (remaining <= 0)))
  return Rows(
    token=jnp.where(emits, emitted.token, rows.token),
    position=rows.position + emits,
    enters=emits & live,
    live=live,
    remaining=remaining,
  )


def without_rows(rows: Rows, ended: Bool[Array, 'B']) -> Rows:
  """Return where rows stand once some of them generate no more."""
  return dataclasses.replace(
    rows, enters=rows.enters & ~ended, live=rows.live & ~ended
  )


def empty_record(
  batch_size: int, capacity: int, *, top_logprobs: int
) -> RecordedTokens:
  """Return the record of rows that have emitted nothing.

  Args:
    batch_size: rows.
    capacity: the most tokens a row may emit.
    top_logprobs: how many of the likeliest tokens are kept of each.
  """
  number = jnp.zeros((batch_size, capacity), jnp.int32)
  real = jnp.zeros((batch_size, capacity), jnp.float32)
  top = (batch_size, capacity, top_logprobs)
  return RecordedTokens(
    emitted=Emitted(
      token=number,
      stage=number,
      score=real,
      log_prob=real,
      top_ids=jnp.zeros(top, jnp.int32) if top_logprobs else None,
      top_log_probs=jnp.zeros(top, jnp.float32) if top_logprobs else None,
    ),
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

  def append(kept: Array, new: Array) -> Array:
    return jnp.where(beside(put, kept), new[:, None], kept)

  return RecordedTokens(
    emitted=jax.tree.map(append, record.emitted, emitted),
    counts=record.counts + emits,
    steps=record.steps + 1,
  )
