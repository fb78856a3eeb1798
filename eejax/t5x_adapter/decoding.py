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
"""Generation inside one compiled program: eejax's own decode loop.

t5x compiles the whole prediction of a batch, so prompts have the width of the
batch, and calls of the loop follow one another on the device. Tokens, exit
depths and work are those of `eejax.decoding.generate`.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from eejax.config import EarlyExitConfig
from eejax.decoding import window_costs
from eejax.decoding.generate import CHUNK_CAPACITY
from eejax.decoding.loop.cache import BatchSettings, DecodeState, cache_size
from eejax.decoding.loop.exit_scoring import with_scored_matrices
from eejax.decoding.loop.plan import DecodePlan, make_plan
from eejax.decoding.loop.prepare import Prepared, prepare
from eejax.decoding.loop.programs import decode_chunk, first_state, prefill
from eejax.decoding.loop.while_loop import Chunk
from eejax.decoding.policy.batching import platform_costs
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.threshold_values import threshold_values
from eejax.ops.sampling import RowSampling, SamplingConfig, end_table
from eejax.t5x_adapter.features import DecoderPrompts
from eejax.types import Array, Float, Int, Params


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
  """Say how rows are continued.

  Attributes:
    policy: when to exit early; without a certificate, for parameters alone
      cannot tell whether it holds.
    sampling: how tokens are chosen; t5x's random key takes the place of its
      seed, where there is one.
    eos_ids: tokens that end a row, which keeps them.
    dtype: compute type.
  """

  policy: Policy = Policy()
  sampling: SamplingConfig = SamplingConfig()
  eos_ids: tuple[int, ...] = ()
  dtype: str = 'float32'


@flax.struct.dataclass
class DecodedRows:
  """What rows were continued with, from the first new token on.

  Attributes:
    tokens: zeros behind the last token.
    exit_depths: blocks each token went through before it was emitted; 0
      behind the last token.
    log_probs: log-probability of each token, untempered, under its own head;
      0 behind the last token.
    counts: how many tokens each row has.
  """

  tokens: Int[Array, 'B T']
  exit_depths: Int[Array, 'B T']
  log_probs: Float[Array, 'B T']
  counts: Int[Array, 'B']


@flax.struct.dataclass
class _Carry:
  """Carry of the loop over calls of the decode loop."""

  state: DecodeState
  done: DecodedRows


def continuations(
  params: Params,
  prompts: DecoderPrompts,
  *,
  config: EarlyExitConfig,
  settings: DecodeSettings,
  key: jax.Array | None = None,
) -> DecodedRows:
  """Continue rows until they end or fill the width of the batch.

  Args:
    params: the parameter tree, blocks stacked. The program unstacks them, so
      it holds them twice.
    prompts: where rows begin.
    config: the model with its exits.
    settings: how rows are continued.
    key: random; None takes the seed of the settings.
  """
  prepared = prepare(params, config=config, dtype=jnp.dtype(settings.dtype))
  plan, thresholds = make_plan(
    config,
    policy=settings.policy,
    method=settings.sampling.method,
  )
  prepared = with_scored_matrices(prepared, plan=plan, token_ids=None)
  rows, width = prompts.tokens.shape
  request = BatchSettings(
    end_ids=end_table([settings.eos_ids] * rows),
    thresholds=jnp.tile(threshold_values(thresholds), (rows, 1)),
    sampling=_row_sampling(settings.sampling, key, rows),
    window_costs=window_costs.for_rows(
      window_costs.stated(platform_costs(), plan=plan, rows=rows), rows
    ),
  )
  nothing = jnp.zeros((rows, width), jnp.int32)
  carry = _Carry(
    _start(prepared, request, prompts, plan=plan),
    DecodedRows(
      tokens=nothing,
      exit_depths=nothing,
      log_probs=jnp.zeros((rows, width), jnp.float32),
      counts=jnp.zeros((rows,), jnp.int32),
    ),
  )

  def advance(carry: _Carry) -> _Carry:
    state, chunk = decode_chunk(
      prepared,
      request,
      carry.state,
      jnp.int32(CHUNK_CAPACITY),
      plan=plan,
      capacity=CHUNK_CAPACITY,
    )
    return _Carry(state, appended(carry.done, chunk))

  goes_on = lambda carry: jnp.any(carry.state.live)
  return jax.lax.while_loop(goes_on, advance, carry).done


def _start(
  params: Prepared,
  request: BatchSettings,
  prompts: DecoderPrompts,
  *,
  plan: DecodePlan,
) -> DecodeState:
  """Run the prompts and return the state before the first new token."""
  width = prompts.tokens.shape[1]
  last = prompts.lengths - 1
  is_before = jnp.arange(width)[None] < last[:, None]
  before = jnp.where(is_before, prompts.tokens, 0)
  size = cache_size(plan, longest=width)
  segments = prefill(params, before, last, plan=plan, size=size)
  newest = jnp.take_along_axis(prompts.tokens, last[:, None], axis=1)[:, 0]
  context = plan.config.model.max_length
  remaining = jnp.minimum(width - last, context - prompts.lengths)
  return first_state(
    params,
    request,
    segments,
    plan=plan,
    size=size,
    prompts=before,
    tokens=newest,
    live=remaining > 0,
    remaining=remaining,
  )


def appended(done: DecodedRows, chunk: Chunk) -> DecodedRows:
  """Return the continuations with what one call of the loop emitted."""
  emitted, rows = chunk.emitted, done.counts.shape[0]
  width = done.tokens.shape[1]
  steps, _, room = emitted.token.shape
  by_row = lambda x: jnp.moveaxis(x, 1, 0).reshape(rows, steps * room)
  is_step = jnp.arange(steps) < chunk.steps
  num = jnp.where(is_step[:, None], emitted.num, 0)  # [C, B]
  is_there = by_row(jnp.arange(room)[None, None] < num[..., None])
  place = done.counts[:, None] + jnp.cumsum(is_there, axis=1) - 1
  # What is not there is written past the end, where there is no room.
  place = jnp.where(is_there, place, width)
  row = jnp.arange(rows)[:, None]
  put = lambda to, x: to.at[row, place].set(
    by_row(x).astype(to.dtype), mode='drop'
  )
  return DecodedRows(
    tokens=put(done.tokens, emitted.token),
    exit_depths=put(done.exit_depths, emitted.depth),
    log_probs=put(done.log_probs, emitted.log_prob),
    counts=done.counts + jnp.sum(num, axis=0),
  )


def _row_sampling(
  config: SamplingConfig, key: jax.Array | None, rows: int
) -> RowSampling:
  if key is None:
    key = jax.random.key(config.seed)
  bits = jax.random.bits(key, (rows,), jnp.uint32)
  full = lambda value, dtype: jnp.full((rows,), value, dtype)
  return RowSampling(
    temperature=full(config.temperature, jnp.float32),
    top_k=full(config.top_k, jnp.int32),
    top_p=full(config.top_p, jnp.float32),
    min_p=full(config.min_p, jnp.float32),
    seed=jax.lax.bitcast_convert_type(bits, jnp.int32),
  )
