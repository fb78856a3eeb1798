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
"""What decoding remembers: caches, waiting tokens, counts.

All rows of a batch stand at the same slot: prompts are padded on the left, so
that the last tokens of all of them share one slot, and the position of row r
at slot s is s - start[r]. A slot of a cache is valid for a row iff
start[r] <= slot < done_to.
"""

import flax.struct
import jax.numpy as jnp

from eejax.decoding.accounting import Counts
from eejax.decoding.plan import Plan, Stage, bucket
from eejax.ops.sampling import RowSampling
from eejax.types import Array, Bool, DTypeLike, Float, Int

# Caches grow in these steps, so that few programs are compiled.
SMALLEST_CACHE = 64


@flax.struct.dataclass
class StageState:
  """Hold what one stage of a plan remembers.

  Invariants: keys and values are those of a full-depth pass for all slots
  below `done_to`, and meaningless from there on; the streams of slots
  `done_to`, `done_to + 1` ... that reached the stage stand at the start of
  `waiting`. No earlier stage is behind: `done_to` never rises with the stage.

  Attributes:
    keys: a cache a block of the stage, a BLOCK exit's own last.
    values: likewise.
    waiting: streams of tokens that wait at the stage's entrance, with as much
      room again for a window that is written past its end; None at the first
      stage, where no token waits.
    done_to: the first slot the stage has not processed.
  """

  keys: tuple[Float[Array, 'B K S H'], ...]
  values: tuple[Float[Array, 'B K S H'], ...]
  waiting: Float[Array, 'B two_W D'] | None
  done_to: Int[Array, '']


@flax.struct.dataclass
class Request:
  """Hold what stays the same while a batch is decoded.

  Attributes:
    start: slot of each row's first token.
    eos: tokens that end a row.
    thresholds: one for each exit of the plan; infinity is never.
    sampling: how each row's tokens are chosen.
  """

  start: Int[Array, 'B']
  eos: Int[Array, 'num_eos']
  thresholds: Float[Array, 'X']
  sampling: RowSampling


@flax.struct.dataclass
class DecodeState:
  """Hold what changes from token to token.

  Attributes:
    slot: where the token to be fed next stands.
    tokens: that token, for each row.
    live: rows that still generate.
    remaining: tokens each row may still emit.
    since_full: tokens of each row since its last one at full depth.
    stages: caches and waiting tokens.
    counts: work done so far.
  """

  slot: Int[Array, '']
  tokens: Int[Array, 'B']
  live: Bool[Array, 'B']
  remaining: Int[Array, 'B']
  since_full: Int[Array, 'B']
  stages: tuple[StageState, ...]
  counts: Counts


@flax.struct.dataclass
class Emission:
  """Hold what each row emitted in one step.

  Attributes:
    token: the token.
    depth: blocks it went through before it was emitted.
    score: score of the exit it came from; NaN from the final head.
    log_prob: its log-probability, untempered, under the head it came from.
  """

  token: Int[Array, '*rows']
  depth: Int[Array, '*rows']
  score: Float[Array, '*rows']
  log_prob: Float[Array, '*rows']


def cache_size(plan: Plan, *, prefilled: int, max_new_tokens: int) -> int:
  """Return how many slots a generation needs, padded to one of few sizes.

  A window is written whole, wherever it starts: past the last token there
  must be room for the rest of it.
  """
  needed = prefilled + max_new_tokens + plan.window - 1
  return bucket(needed, smallest=SMALLEST_CACHE)


def empty_stage(
  plan: Plan,
  stage: Stage,
  *,
  batch_size: int,
  size: int,
  dtype: DTypeLike,
) -> StageState:
  """Return the state of a stage that has seen nothing."""
  c = plan.config.model
  shape = (batch_size, c.num_kv_heads, size, c.head_dim)
  caches = lambda: tuple(
    jnp.zeros(shape, dtype) for _ in range(stage.num_caches)
  )
  waiting = None
  if stage is not plan.stages[0]:
    waiting = jnp.zeros((batch_size, 2 * plan.window, c.embed_dim), dtype)
  return StageState(
    keys=caches(),
    values=caches(),
    waiting=waiting,
    done_to=jnp.zeros((), jnp.int32),
  )


def blank_emission(batch_size: int) -> Emission:
  """Return an emission that says nothing."""
  number = jnp.zeros((batch_size,), jnp.int32)
  zeros = jnp.zeros((batch_size,), jnp.float32)
  return Emission(token=number, depth=number, score=zeros, log_prob=zeros)
