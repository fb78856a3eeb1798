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

from eejax.decoding.drafting.adaptive import Draft, first_draft
from eejax.decoding.loop import backbone
from eejax.decoding.loop.accounting import no_counts
from eejax.decoding.loop.cache import (
  BatchSettings,
  DecodeState,
  SegmentState,
  as_stored,
  blank_emission,
  empty_segments,
  empty_streams,
)
from eejax.decoding.loop.cached_contexts import CachedContexts, write_at
from eejax.decoding.loop.device_placement import (
  keep_replicated,
  keep_state,
)
from eejax.decoding.loop.exit_scoring import empty_memory
from eejax.decoding.loop.observation import first_rule_state
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.speculative import speculative_step
from eejax.decoding.loop.step import decode_step
from eejax.decoding.loop.while_loop import Chunk, run_steps
from eejax.decoding.policy.batching import Batching, new_cycle
from eejax.decoding.policy.policy import Mode
from eejax.types import Array, Bool, Int


@functools.partial(jax.jit, static_argnames=('plan', 'size'))
def prefill(
  params: Prepared,
  tokens: Int[Array, 'B T'],
  lengths: Int[Array, 'B'],
  *,
  plan: DecodePlan,
  size: int,
) -> tuple[SegmentState, ...]:
  """Run prompts through every block of a plan and fill its caches.

  The last token of each prompt is left to the loop, where it goes the way of
  all others; so no head is read here.

  Args:
    params: the model.
    tokens: prompts without their last token, padded on the right.
    lengths: how many tokens of each row are no padding.
    plan: the static shape of the program.
    size: slots of a cache.
  """
  batch_size, length = tokens.shape
  states = list(
    empty_segments(
      plan,
      batch_size=batch_size,
      size=size,
      dtype=params.dtype,
      kv_quantization=params.kv_quantization,
    )
  )
  if length:
    # Padding stands behind all that reads causally, so nothing sees it.
    positions = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
    x = backbone.embed(params, tokens, positions)
    for number, segment in enumerate(plan.segments):
      out = backbone.run_blocks(
        params,
        x,
        plan=plan,
        segment=segment,
        positions=positions,
        contexts=backbone.Contexts(lengths),
      )
      x, states[number] = out.hidden, _fill(states[number], out)
      states[number] = _put_states(states[number], out, lengths)
  filled = tuple(dataclasses.replace(s, cache_length=lengths) for s in states)
  return keep_state(filled, mesh=params.mesh)


def prefill_rest(
  params: Prepared,
  tokens: Int[Array, '1 T'],
  length: Int[Array, '1'],
  states: tuple[SegmentState, ...],
  start: Int[Array, ''],
  *,
  plan: DecodePlan,
  width: int,
) -> tuple[SegmentState, ...]:
  """Run one prompt through every block from its token `start` on.

  Its tokens before are in the caches. It goes in windows of `width` tokens,
  the last of which ends where the prompt does: it may run over tokens that
  were there, which changes nothing but rounding, and needs no room behind.

  Args:
    params: the model.
    tokens: the prompt without its last token, padded on the right.
    length: how many tokens are no padding.
    states: segments of one row; their caches hold the tokens before `start`.
    start: how many these are.
    plan: the static shape of the program.
    width: tokens of a window; no cache has fewer slots.
  """
  last = jnp.maximum(length[0] - width, 0)

  def run_window(
    index: Int[Array, ''], states: tuple[SegmentState, ...]
  ) -> tuple[SegmentState, ...]:
    base = jnp.minimum(start + index * width, last)
    window = lax.dynamic_slice_in_dim(tokens, base, width, axis=1)
    positions = base + jnp.arange(width)[None]
    filled, x = list(states), backbone.embed(params, window, positions)
    for number, segment in enumerate(plan.segments):
      state, contexts = filled[number], backbone.Contexts()
      if segment.num_caches:
        caches = (state.keys, state.values)
        contexts = CachedContexts(caches, base[None], None, width=width)
      out = backbone.run_blocks(
        params,
        x,
        plan=plan,
        segment=segment,
        positions=positions,
        contexts=contexts,
      )
      x, filled[number] = out.hidden, _fill(state, out, start=base)
    return tuple(filled)

  rounds = (length[0] - start + width - 1) // width
  states = lax.fori_loop(0, rounds, run_window, states)
  return tuple(dataclasses.replace(s, cache_length=length) for s in states)


def _fill(
  state: SegmentState,
  out: backbone.SegmentBlocks,
  *,
  start: int | Int[Array, ''] = 0,
) -> SegmentState:
  """Write rows into every cache from slot `start` on."""
  caches = (state.keys, state.values)
  write = functools.partial(
    lax.dynamic_update_slice_in_dim, start_index=start, axis=2
  )
  keys, values = jax.tree.map(
    write, caches, as_stored((out.keys, out.values), caches)
  )
  return dataclasses.replace(state, keys=keys, values=values)


def _put_states(
  state: SegmentState, out: backbone.SegmentBlocks, lengths: Int[Array, 'B']
) -> SegmentState:
  """Write the state after each prompt where its next token looks for it."""

  def put(ring: jax.Array, new: jax.Array) -> jax.Array:
    at = (lengths - 1) % ring.shape[1]
    return write_at(ring, new[:, None], at, axis=0)

  states = jax.tree.map(put, state.states, out.states)
  return dataclasses.replace(state, states=states)


def first_state(
  params: Prepared,
  request: BatchSettings,
  segments: tuple[SegmentState, ...],
  *,
  plan: DecodePlan,
  size: int,
  prompts: Int[Array, 'B T'],
  tokens: Int[Array, 'B'],
  live: Bool[Array, 'B'],
  remaining: Int[Array, 'B'],
) -> DecodeState:
  """Return the state in which the loop starts.

  Args:
    params: the model.
    request: settings of the rows.
    segments: caches from `prefill`.
    plan: what is decoded.
    size: slots of a cache.
    prompts: as `prefill` saw them.
    tokens: the last token of each prompt.
    live: rows that are to generate.
    remaining: how many tokens each row may emit.
  """
  state, lengths = _first_rows(
    params,
    request,
    tuple(s.cache_length for s in segments),
    plan=plan,
    size=size,
    prompts=prompts,
    tokens=tokens,
    live=live,
    remaining=remaining,
  )
  own = tuple(
    dataclasses.replace(segment, cache_length=length)
    for segment, length in zip(segments, lengths, strict=True)
  )
  return dataclasses.replace(state, segments=own)


# One program: written out, each of its hundred small steps is compiled.
@functools.partial(jax.jit, static_argnames=('plan', 'size'))
def _first_rows(
  params: Prepared,
  request: BatchSettings,
  lengths: tuple[Int[Array, 'B'], ...],
  *,
  plan: DecodePlan,
  size: int,
  prompts: Int[Array, 'B T'],
  tokens: Int[Array, 'B'],
  live: Bool[Array, 'B'],
  remaining: Int[Array, 'B'],
) -> tuple[DecodeState, tuple[Int[Array, 'B'], ...]]:
  """Return the first state without its segments, and lengths for them.

  Nothing shares a buffer with an argument or with another part: the loop
  takes over every one of them.
  """
  (rows,), num_segments = tokens.shape, len(lengths)
  queued = plan.batching is Batching.DEPTH_QUEUE
  state = DecodeState(
    length=lengths[0],
    tokens=tokens,
    resume_segment=jnp.zeros(rows, jnp.int32),
    live=live,
    failed=jnp.zeros(rows, bool),
    remaining=remaining,
    since_full=jnp.zeros(rows, jnp.int32),
    deepest=jnp.full(rows, num_segments - 1, jnp.int32),
    segments=(),
    cycles=tuple(new_cycle() for _ in lengths) if queued else (),
    counts=no_counts(
      batch_size=rows,
      num_segments=num_segments,
      window=plan.window if plan.mode is Mode.SPECULATIVE else 0,
    ),
    memory=empty_memory(plan, batch_size=rows, params=params),
    rule=first_rule_state(
      request, length=lengths[0], limit=remaining, plan=plan
    ),
    verify_hidden=empty_streams(plan, batch_size=rows, dtype=params.dtype)
    if plan.mode is Mode.SPECULATIVE
    else None,
    draft=_first_draft(request, prompts, plan=plan, size=size),
  )
  return jax.tree.map(jnp.copy, (state, lengths))


def _first_draft(
  request: BatchSettings,
  prompts: Int[Array, 'B T'],
  *,
  plan: DecodePlan,
  size: int,
) -> Draft | None:
  if plan.mode is not Mode.SPECULATIVE:
    return None
  assert request.window_costs is not None
  return first_draft(
    plan,
    text=_text(prompts, plan=plan, size=size),
    window_costs=request.window_costs,
  )


def _text(
  prompts: Int[Array, 'B T'], *, plan: DecodePlan, size: int
) -> Int[Array, 'B P']:
  """Return room for texts, and for a window past their end."""
  room = size + plan.window - prompts.shape[1]
  return jnp.pad(prompts.astype(jnp.int32), ((0, 0), (0, room)))


@functools.partial(
  jax.jit, static_argnames=('plan', 'capacity'), donate_argnames=('state',)
)
def decode_chunk(
  params: Prepared,
  request: BatchSettings,
  state: DecodeState,
  max_steps: Int[Array, ''],
  *,
  plan: DecodePlan,
  capacity: int,
) -> tuple[DecodeState, Chunk]:
  """Move rows by up to `max_steps` steps; `state` is consumed.

  Args:
    params: the model.
    request: settings of the rows.
    state: where the rows stand.
    max_steps: steps at most; fewer when every row has ended.
    plan: the static shape of the program.
    capacity: the most that `max_steps` may be.
  """
  speculates = plan.mode is Mode.SPECULATIVE
  step = speculative_step if speculates else decode_step
  room = plan.window if speculates else 1
  new_state, chunk = run_steps(
    functools.partial(step, params, request, plan=plan),
    keep_state(state, mesh=params.mesh),
    blank=blank_emission(state.tokens.shape[0], plan=plan, room=room),
    max_steps=max_steps,
    capacity=capacity,
  )
  return (
    keep_state(new_state, mesh=params.mesh),
    keep_replicated(chunk, mesh=params.mesh),
  )
