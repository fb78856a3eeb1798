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
from eejax.decoding.loop.cache import DecodeState
from eejax.decoding.loop.plan import DecodePlan
from eejax.decoding.loop.prepare import Prepared
from eejax.decoding.loop.programs import first_state, prefill
from eejax.ops.sampling import RowSampling
from eejax.types import Array, Float, Int


@flax.struct.dataclass
class Request:
  """One prompt that is to take a row of a batch, and its settings.

  Attributes:
    tokens: its prompt without the last token, padded on the right.
    length: how many of them are no padding.
    last: the prompt's last token.
    remaining: tokens it may emit.
    thresholds: of the plan's exits.
    sampling: how its tokens are chosen.
  """

  tokens: Int[Array, '1 T']
  length: Int[Array, '1']
  last: Int[Array, '1']
  remaining: Int[Array, '1']
  thresholds: Float[Array, '1 X']
  sampling: RowSampling


@functools.partial(
  jax.jit,
  static_argnames=('plan', 'size'),
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
  """
  segments = prefill(
    params, request.tokens, request.length, plan=plan, size=size
  )
  alone = cache_lib.BatchSettings(
    settings.eos, request.thresholds, request.sampling
  )
  fresh = first_state(
    params,
    alone,
    segments,
    plan=plan,
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
  if rows['draft'] is not None:
    # What pays for a text alone need not pay among others.
    here = jnp.arange(state.live.shape[0]) == row
    rows['draft'] = choose_anew(rows['draft'], rows=here, plan=plan)
  counts = _with_row(state.counts, fresh.counts, put)
  new_state = DecodeState(cycles=state.cycles, counts=counts, **rows)
  new_settings = cache_lib.BatchSettings(
    eos=settings.eos,
    thresholds=put(settings.thresholds, request.thresholds),
    sampling=jax.tree.map(put, settings.sampling, request.sampling),
  )
  return new_settings, new_state


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
