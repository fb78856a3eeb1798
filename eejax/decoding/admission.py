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
"""Programs that put a new text into one row of a running batch."""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.decoding.drafting.adaptive import choose_anew
from eejax.decoding.loop import cache as cache_lib
from eejax.decoding.loop.accounting import ROW_COUNTS, Counts
from eejax.decoding.loop.cache import DecodeState, SegmentState
from eejax.decoding.loop.device_placement import keep_replicated, keep_state
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.programs import first_state, prefill, prefill_rest
from eejax.ops.sampling import RowBias
from eejax.types import Array, Bool, Int

# Tokens of a window in which the rest of a prompt is run. Few programs are
# compiled that way, and next to no padding is run.
REST_WIDTHS = (16, 64, 256)


@flax.struct.dataclass
class Prefix:
  """The beginning of a prompt whose keys and values lie in some row.

  Attributes:
    row: which row.
    length: how many tokens are taken from it.
  """

  row: Int[Array, '']
  length: Int[Array, '']


@flax.struct.dataclass
class Request:
  """One prompt that is to take a row of a batch, and its settings.

  Attributes:
    tokens: its prompt without the last token, padded on the right; with a
      prefix to as many tokens as a cache has slots.
    length: how many of them are no padding.
    last: the prompt's last token.
    remaining: tokens it may emit.
    settings: its own; what it adds to logits is no part of them.
    prefix: what need not be run; None runs the whole prompt.
  """

  tokens: Int[Array, '1 T']
  length: Int[Array, '1']
  last: Int[Array, '1']
  remaining: Int[Array, '1']
  settings: cache_lib.BatchSettings
  prefix: Prefix | None = None


@functools.partial(
  jax.jit,
  static_argnames=('plan', 'size', 'rest_width'),
  donate_argnames=('settings', 'state'),
)
def insert(
  params: Prepared,
  settings: cache_lib.BatchSettings,
  state: DecodeState,
  request: Request,
  row: Int[Array, ''],
  *,
  plan: DecodePlan,
  size: int,
  rest_width: int = 0,
) -> tuple[cache_lib.BatchSettings, DecodeState]:
  """Return settings and state of a batch, one row of which starts anew.

  The whole row is written, caches included, so nothing of the text that had
  it before is left, not even numbers that are none.

  Args:
    params: the model.
    settings: of all rows; consumed.
    state: where all rows stand; consumed.
    request: the new one.
    row: which row it takes.
    plan: what is decoded.
    size: slots of a cache.
    rest_width: tokens of a window in which what follows a prefix is run.
  """
  if request.prefix is None:
    segments = prefill(
      params, request.tokens, request.length, plan=plan, size=size
    )
  else:
    segments = prefill_rest(
      params,
      request.tokens,
      request.length,
      _with_prefix(request.prefix, params, state, plan=plan, size=size),
      request.prefix.length,
      plan=plan,
      width=rest_width,
    )
  fresh = first_state(
    params,
    request.settings,
    segments,
    plan=plan,
    size=size,
    prompts=request.tokens,
    tokens=request.last,
    live=jnp.ones((1,), bool),
    remaining=request.remaining,
  )
  put = functools.partial(_put_row, row=row)
  # What belongs to the batch, not to a row, goes on as it was.
  rows = {
    f.name: jax.tree.map(put, getattr(state, f.name), getattr(fresh, f.name))
    for f in dataclasses.fields(DecodeState)
    if f.name not in ('cycles', 'counts')
  }
  settings = jax.tree.map(put, settings, request.settings)
  if rows['draft'] is not None:
    # What pays for a text alone need not pay among others.
    assert settings.window_costs is not None
    here = jnp.arange(state.live.shape[0]) == row
    rows['draft'] = choose_anew(
      rows['draft'],
      rows=here,
      plan=plan,
      window_costs=settings.window_costs,
    )
  counts = _with_row(state.counts, fresh.counts, put)
  new_state = DecodeState(cycles=state.cycles, counts=counts, **rows)
  return (
    keep_replicated(settings, mesh=params.mesh),
    keep_state(new_state, mesh=params.mesh),
  )


@jax.jit
def is_finite(
  segments: tuple[SegmentState, ...], prefix: Prefix
) -> Bool[Array, '']:
  """Return whether keys and values of a prefix are finite.

  A text makes all of its keys and values NaN where one of its tokens does, so
  a prefix of it may be of no use although nothing is wrong with the prefix.
  What is not finite in some block is not in the last one.
  """
  caches = [s.keys for s in segments if s.keys]

  def check(leaf: jax.Array) -> jax.Array:
    row, is_there = _take(leaf, prefix)
    return jnp.all(jnp.isfinite(row) | ~is_there)

  checks = [check(leaf) for leaf in jax.tree.leaves(caches[-1][-1:])]
  return jnp.all(jnp.stack(checks))


@functools.partial(jax.jit, donate_argnames='bias')
def insert_bias(bias: RowBias, new: RowBias, row: Int[Array, '']) -> RowBias:
  """Return what is added to the logits of a batch, one row of it new."""
  return jax.tree.map(functools.partial(_put_row, row=row), bias, new)


def _with_prefix(
  prefix: Prefix,
  params: Prepared,
  state: DecodeState,
  *,
  plan: DecodePlan,
  size: int,
) -> tuple[SegmentState, ...]:
  """Return new segments of one row, whose caches begin with a prefix."""

  def take(leaf: jax.Array) -> jax.Array:
    row, is_there = _take(leaf, prefix)
    return jnp.where(is_there, row, jnp.zeros_like(row))

  segments = []
  for segment, running in zip(plan.segments, state.segments, strict=True):
    empty = cache_lib.empty_segment(
      plan,
      segment,
      batch_size=1,
      size=size,
      dtype=params.dtype,
      kv_quantization=params.kv_quantization,
    )
    keys, values = jax.tree.map(take, (running.keys, running.values))
    segments.append(dataclasses.replace(empty, keys=keys, values=values))
  return tuple(segments)


def _take(leaf: jax.Array, prefix: Prefix) -> tuple[jax.Array, jax.Array]:
  """Return a prefix's row of a cache, and which of its slots are taken."""
  row = lax.dynamic_index_in_dim(leaf, prefix.row, axis=0)
  is_there = jnp.arange(row.shape[2]) < prefix.length
  shape = (1, 1, -1, *(1,) * (row.ndim - 3))
  return row, jnp.broadcast_to(is_there.reshape(shape), row.shape)


def _put_row(
  rows: jax.Array, new: jax.Array, *, row: Int[Array, '']
) -> jax.Array:
  return lax.dynamic_update_index_in_dim(rows, new[0], row, axis=0)


def _with_row(counts: Counts, fresh: Counts, put: Callable) -> Counts:
  """Return counts in which one row's begin anew."""
  return Counts(
    segment_runs=counts.segment_runs,
    head_runs=counts.head_runs,
    **{
      name: put(getattr(counts, name), getattr(fresh, name))
      for name in ROW_COUNTS
    },
  )
