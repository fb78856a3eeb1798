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
"""The two compiled programs of decoding: prefill, and a chunk of tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from eejax.decoding import backbone
from eejax.decoding.accounting import no_counts
from eejax.decoding.cache import (
  DecodeState,
  Request,
  StageState,
  blank_emission,
  empty_stage,
)
from eejax.decoding.loop import Chunk, run_steps
from eejax.decoding.plan import Plan
from eejax.decoding.prepare import Prepared
from eejax.decoding.step import decode_step
from eejax.types import Array, Bool, Int


@functools.partial(jax.jit, static_argnames=('plan', 'size'))
def prefill(
  params: Prepared,
  tokens: Int[Array, 'B T'],
  start: Int[Array, 'B'],
  *,
  plan: Plan,
  size: int,
) -> tuple[StageState, ...]:
  """Run prompts through every block of a plan and fill its caches.

  The last token of each prompt is left to the loop, where it goes the way of
  all others; so no head is read here.

  Args:
    params: the model.
    tokens: prompts without their last token, padded on the left.
    start: index of each row's first token.
    plan: the static shape of the program.
    size: slots of a cache.
  """
  batch_size, length = tokens.shape
  make = functools.partial(
    empty_stage, plan, batch_size=batch_size, size=size, dtype=params.dtype
  )
  states = [make(stage) for stage in plan.stages]
  if length:
    index = jnp.arange(length)[None]
    is_text = index >= start[:, None]
    positions = jnp.maximum(index - start[:, None], 0)
    x = params.table[tokens]
    for number, stage in enumerate(plan.stages):
      out = backbone.run_blocks(
        params,
        x,
        plan=plan,
        stage=stage,
        positions=positions,
        contexts=backbone.Contexts(),
        segment_ids=is_text.astype(jnp.int32),
      )
      x, states[number] = out.hidden, _fill(states[number], out)
  done_to = jnp.full((), length, jnp.int32)
  return tuple(dataclasses.replace(s, done_to=done_to) for s in states)


def _fill(state: StageState, out: backbone.StageBlocks) -> StageState:
  """Write rows at the start of every cache."""
  fill = lambda cache, rows: lax.dynamic_update_slice(cache, rows, (0,) * 4)
  return dataclasses.replace(
    state,
    keys=tuple(map(fill, state.keys, out.keys)),
    values=tuple(map(fill, state.values, out.values)),
  )


def first_state(
  stages: tuple[StageState, ...],
  *,
  tokens: Int[Array, 'B'],
  live: Bool[Array, 'B'],
  remaining: Int[Array, 'B'],
) -> DecodeState:
  """Return the state in which the loop starts.

  Args:
    stages: caches from `prefill`.
    tokens: the last token of each prompt.
    live: rows that are to generate.
    remaining: how many tokens each row may emit.
  """
  return DecodeState(
    # A copy: two arguments of the loop that share a buffer cannot be donated.
    slot=stages[0].done_to + 0,
    tokens=tokens,
    live=live,
    remaining=remaining,
    since_full=jnp.zeros(tokens.shape, jnp.int32),
    stages=stages,
    counts=no_counts(batch_size=tokens.shape[0], num_stages=len(stages)),
  )


@functools.partial(
  jax.jit, static_argnames=('plan', 'capacity'), donate_argnames=('state',)
)
def decode_chunk(
  params: Prepared,
  request: Request,
  state: DecodeState,
  max_steps: Int[Array, ''],
  *,
  plan: Plan,
  capacity: int,
) -> tuple[DecodeState, Chunk]:
  """Emit up to `max_steps` tokens a row; `state` is consumed.

  Args:
    params: the model.
    request: settings of the rows.
    state: where the rows stand.
    max_steps: tokens to emit at most; less when every row has ended.
    plan: the static shape of the program.
    capacity: the most that `max_steps` may be.
  """
  step = functools.partial(decode_step, params, request, plan=plan)
  return run_steps(
    step,
    state,
    blank=blank_emission(state.tokens.shape[0]),
    max_steps=max_steps,
    capacity=capacity,
  )
