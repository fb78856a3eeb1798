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
"""What earlier exits saw of the token that a row is deciding on."""

import dataclasses
import typing

import flax.struct
import jax.numpy as jnp

from eejax.decoding.policy.criteria.criterion import Evidence, Reads
from eejax.types import Array, Bool, DTypeLike, Float, Int


# Unchecked, for a conditional's shapes come as trees of what are no arrays.
@typing.no_type_check
@flax.struct.dataclass
class Memory:
  """State of the exit that was asked last, for each row.

  A field that nobody reads is None, so a criterion that compares nothing
  carries nothing. What is remembered belongs to one token: a row whose
  newest token stands elsewhere remembers nothing of it, so nobody has to wipe
  a memory between tokens.

  Attributes:
    position: of the token, -1 before the first.
    logits: of the exit's head, for the tokens that are compared.
    stream: the stream at the exit.
    top_token: the exit's likeliest token.
    streak: exits in a row with that token the likeliest.
    candidates: tokens that deeper exits score, from the token's first exit.
  """

  position: Int[Array, 'B'] | None = None
  logits: Float[Array, 'B C'] | None = None
  stream: Float[Array, 'B D'] | None = None
  top_token: Int[Array, 'B'] | None = None
  streak: Int[Array, 'B'] | None = None
  candidates: Int[Array, 'B C'] | None = None


def blank_memory(
  reads: Reads,
  *,
  batch_size: int,
  num_scored: int,
  embed_dim: int,
  num_candidates: int = 0,
  dtype: DTypeLike = jnp.float32,
) -> Memory:
  """Return a memory of nothing, with room for what a criterion reads.

  Args:
    reads: what the criterion reads.
    batch_size: rows.
    num_scored: tokens whose logits are compared between exits.
    embed_dim: width of the stream.
    num_candidates: tokens kept as candidates for deeper exits; 0 keeps none.
    dtype: of the stream.
  """

  def room(is_read, *shape, dtype):
    return jnp.zeros((batch_size, *shape), dtype) if is_read else None

  position = None
  if reads.remembers or num_candidates:
    position = jnp.full((batch_size,), -1, jnp.int32)
  integer = jnp.int32
  return Memory(
    position=position,
    logits=room(reads & Reads.PREVIOUS_LOGITS, num_scored, dtype=jnp.float32),
    stream=room(reads & Reads.PREVIOUS_STREAM, embed_dim, dtype=dtype),
    top_token=room(reads & Reads.STREAK, dtype=integer),
    streak=room(reads & Reads.STREAK, dtype=integer),
    candidates=room(num_candidates, num_candidates, dtype=integer),
  )


def recall(
  evidence: Evidence, memory: Memory, *, positions: Int[Array, 'B']
) -> Evidence:
  """Return `evidence` with what is remembered of the same token.

  Args:
    evidence: what is seen at this exit.
    memory: what the exits before saw; at the first one it is not read.
    positions: of each row's newest token.
  """
  if memory.position is None:
    return evidence
  if evidence.exit_index == 0:
    has_previous = jnp.zeros(positions.shape, bool)
    previous_logits, previous_stream = evidence.logits, evidence.stream
  else:
    has_previous = memory.position == positions
    previous_logits, previous_stream = memory.logits, memory.stream
  streak = None
  if memory.streak is not None:
    repeats = has_previous & (memory.top_token == evidence.top_token)
    streak = jnp.where(repeats, memory.streak + 1, 1)
  return dataclasses.replace(
    evidence,
    has_previous=has_previous,
    previous_logits=None if memory.logits is None else previous_logits,
    previous_stream=None if memory.stream is None else previous_stream,
    streak=streak,
  )


def remember(
  memory: Memory,
  evidence: Evidence,
  *,
  positions: Int[Array, 'B'],
  rows: Bool[Array, 'B'],
  candidates: Int[Array, 'B C'] | None = None,
) -> Memory:
  """Return what the next exit may recall.

  Args:
    memory: what the exits before saw.
    evidence: what was seen here, its logits of the tokens to be compared.
    positions: of each row's newest token.
    rows: rows that asked this exit; the others remember what they did.
    candidates: tokens to be scored by deeper exits.
  """

  def keep(old, new):
    if old is None or new is None:
      return old
    asked = rows.reshape(rows.shape + (1,) * (old.ndim - 1))
    return jnp.where(asked, new.astype(old.dtype), old)

  return Memory(
    position=keep(memory.position, positions),
    logits=keep(memory.logits, evidence.logits),
    stream=keep(memory.stream, evidence.stream),
    top_token=keep(memory.top_token, evidence.top_token),
    streak=keep(memory.streak, evidence.streak),
    candidates=keep(memory.candidates, candidates),
  )
