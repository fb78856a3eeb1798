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
"""The catch-up of keys and values: a segment over the tokens that wait for it.

A token that left early waits in front of the blocks it skipped. When a later
token needs a segment, both go through it in one window, and the keys and
values of both are written.

Caches are read-only inside a conditional, which returns the new rows; one
write follows for each cache. The conditional is also what orders the reads
before the write: without it XLA copies every cache for every token, even
where the segment always runs.

Windows of one token are by far the most frequent, so they have a way of
their own. Wider ones run in a loop of one round or none: what a loop carries
is changed in place, so a step without one pays nothing for it, while another
branch of the conditional would make every step return rows as wide.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.decoding.loop import backbone
from eejax.decoding.loop.approximate_kv import (
  SkippedRows,
  override_skipped,
  override_states,
)
from eejax.decoding.loop.cache import as_stored, empty_states
from eejax.decoding.loop.cached_contexts import (
  CachedContexts,
  Caches,
  states_before,
  write_at,
)
from eejax.decoding.loop.plan import DecodePlan, Segment
from eejax.decoding.loop.prepare import Prepared
from eejax.models.exits import ExitInput
from eejax.ops.recurrent_state import RecurrentState
from eejax.ops.rotary import Rotations, rotations_at
from eejax.types import Array, Bool, Float, Int, PyTree


@flax.struct.dataclass
class Window:
  """Tokens that a segment runs over.

  Attributes:
    hidden: their streams, padded on the right.
    base: slot of each row's first.
    count: how many each row has; 0 for rows that only pass the time.
    rotations: by their positions, in each way of the model. Computed inside
      the segment they would be so again for each block.
  """

  hidden: Float[Array, 'B W D']
  base: Int[Array, 'B']
  count: Int[Array, 'B']
  rotations: Rotations


@flax.struct.dataclass
class SegmentOutput:
  """Output of a run of a segment over a window of tokens.

  Attributes:
    keys: new rows for each of the segment's caches.
    values: likewise.
    states: of each recurrent block, after each token.
    hidden: the stream after the segment.
    last: what the segment's head reads, for the newest token.
    ready: state of a BLOCK head for the newest token, else None.
  """

  keys: tuple[Float[Array, 'B K W H'], ...]
  values: tuple[Float[Array, 'B K W H'], ...]
  states: tuple[RecurrentState, ...]
  hidden: Float[Array, 'B W D']
  last: ExitInput
  ready: Float[Array, 'B 1 D'] | None


@flax.struct.dataclass
class Buffers:
  """Buffers that a segment writes to.

  Attributes:
    keys: its caches.
    values: likewise.
    states: its rings of states.
    following: streams that wait at the entrance of what follows; None where
      nothing does.
  """

  keys: Caches
  values: Caches
  states: tuple[RecurrentState, ...]
  following: Float[Array, 'B two_W D'] | None


@flax.struct.dataclass
class SegmentResult:
  """Result of a run of a segment, its output written.

  Attributes:
    buffers: with the new rows and streams; where the segment did not run, what
      was written lies past all that is valid.
    last: what the segment's head reads, for the newest token.
    ready: state of a BLOCK head for the newest token, else None.
  """

  buffers: Buffers
  last: ExitInput
  ready: Float[Array, 'B 1 D'] | None


@dataclasses.dataclass(frozen=True)
class SegmentRun:
  """Arguments of one run of a segment.

  Attributes:
    params: the model.
    plan: what is decoded.
    segment: which of its segments.
    runs: whether it runs at all.
    entering: streams that wait for it, each row's first `count` of them.
    base: slot of each row's first.
    count: how many there are.
    following_at: where each row's first one goes in `Buffers.following`.
    visible: slots that may be seen, or None for all below the base.
    skipped: rows of a narrow window whose keys and values are approximated, or
      None for none.
  """

  params: Prepared
  plan: DecodePlan
  segment: Segment
  runs: Bool[Array, '']
  entering: Float[Array, 'B two_W D']
  base: Int[Array, 'B']
  count: Int[Array, 'B']
  following_at: Int[Array, 'B']
  visible: Bool[Array, 'B S'] | None = None
  skipped: SkippedRows | None = None


def run_segment_blocks(run: SegmentRun, buffers: Buffers) -> SegmentResult:
  """Run a segment if it is needed, in the narrowest width that is compiled."""
  widths, longest = run.plan.widths, jnp.max(run.count)
  narrowest = widths[0] if run.entering.shape[1] > 1 else 1
  runs = run.runs & (longest <= narrowest)
  result = _run_at_once(run, buffers, runs, width=narrowest)
  if narrowest in (run.entering.shape[1], widths[-1]):
    return result
  rounds = (run.runs & (longest > narrowest)).astype(jnp.int32)
  body = lambda _, result: _run_wide(run, result, longest)
  return lax.fori_loop(0, rounds, body, result)


def _run_at_once(
  run: SegmentRun, buffers: Buffers, runs: Bool[Array, ''], *, width: int
) -> SegmentResult:
  """Run a segment over windows of one width and write all of their rows.

  Rows of padding lie past all that is valid.
  """
  window = _window(run, width=width)
  output = _run_if(run, runs, window, buffers)
  if run.skipped is not None:
    keys, values = override_skipped(
      (output.keys, output.values),
      run.skipped,
      window.rotations,
      params=run.params,
      plan=run.plan,
      segment=run.segment,
    )
    states = override_states(
      output.states,
      run.skipped,
      states_before(buffers.states, run.base),
      params=run.params,
      plan=run.plan,
      segment=run.segment,
    )
    output = dataclasses.replace(
      output, keys=keys, values=values, states=states
    )
  written = _with_rows(run, output, buffers, 0, count=width)
  count = 1 if width == 1 else jnp.where(runs, jnp.max(run.count), 0)
  written = _with_each_state(run, output, written, count)
  return _result(run, output, written, buffers)


def _run_wide(
  run: SegmentRun, result: SegmentResult, longest: Int[Array, '']
) -> SegmentResult:
  """Run a segment over windows of several tokens and write all of them."""
  widths = run.plan.widths[1:]
  buffers = result.buffers
  window = _window(run, width=widths[-1])
  if len(widths) == 1:
    output = _run_if(run, longest > run.plan.widths[0], window, buffers)
  else:
    run_width = lambda width: lambda: _run(run, window, buffers, width=width)
    which = jnp.searchsorted(jnp.array(widths), longest)
    output = lax.switch(which, list(map(run_width, widths)))

  # Rows of padding would cost as much to write as any.
  written = lax.fori_loop(
    0,
    longest,
    lambda index, held: _with_rows(run, output, held, index, count=1),
    dataclasses.replace(buffers, following=None),
  )
  written = _with_each_state(run, output, written, longest)
  return _result(run, output, written, buffers)


def _with_rows(
  run: SegmentRun,
  output: SegmentOutput,
  buffers: Buffers,
  index: int | Int[Array, ''],
  *,
  count: int,
) -> Buffers:
  """Return caches with `count` tokens of each row's window from `index` on."""

  def write(cache, new):
    rows = lax.dynamic_slice_in_dim(new, index, count, axis=2)
    return write_at(cache, rows, run.base + index, axis=1)

  caches = (buffers.keys, buffers.values)
  keys, values = jax.tree.map(write, caches, _stored_rows(output, buffers))
  return dataclasses.replace(buffers, keys=keys, values=values)


def _with_each_state(
  run: SegmentRun,
  output: SegmentOutput,
  buffers: Buffers,
  count: int | Int[Array, ''],
) -> Buffers:
  """Return rings with the states that `count` tokens left, one by one."""
  if not jax.tree.leaves(output.states):
    return buffers

  def put_token(index, rings):
    at = run.base + index

    def put(ring, new):
      state = lax.dynamic_slice_in_dim(new, index, 1, axis=1)
      return write_at(ring, state, at % ring.shape[1], axis=0)

    return jax.tree.map(put, rings, output.states)

  states = lax.fori_loop(0, count, put_token, buffers.states)
  return dataclasses.replace(buffers, states=states)


def _result(
  run: SegmentRun, output: SegmentOutput, written: Buffers, before: Buffers
) -> SegmentResult:
  """Hand the streams on to what follows, beside the caches written."""
  following = before.following
  if following is not None:
    following = write_at(following, output.hidden, run.following_at, axis=0)
  buffers = dataclasses.replace(written, following=following)
  return SegmentResult(buffers, output.last, output.ready)


def _stored_rows(output: SegmentOutput, buffers: Buffers) -> PyTree:
  """Return a segment's new keys and values as its caches hold theirs."""
  return as_stored((output.keys, output.values), (buffers.keys, buffers.values))


def _window(run: SegmentRun, *, width: int) -> Window:
  model = run.plan.config.model
  turned = rotations_at(
    run.base[:, None] + jnp.arange(width)[None],
    configs=model.rotations,
    head_dim=model.head_dim,
  )
  return Window(run.entering[:, :width], run.base, run.count, turned)


def _run_if(
  run: SegmentRun, runs: Bool[Array, ''], window: Window, buffers: Buffers
) -> SegmentOutput:
  """Run a segment over a window, or return zeros."""
  width = window.hidden.shape[1]
  return lax.cond(
    runs,
    lambda: _run(run, window, buffers, width=width),
    lambda: _zeros(window, run.plan, run.segment),
  )


def _run(
  run: SegmentRun, window: Window, buffers: Buffers, *, width: int
) -> SegmentOutput:
  """Run the first `width` tokens of a window; pad what is returned."""
  out = backbone.run_blocks(
    run.params,
    window.hidden[:, :width],
    plan=run.plan,
    segment=run.segment,
    positions=jax.tree.map(lambda x: x[:, :width], window.rotations),
    contexts=CachedContexts(
      (buffers.keys, buffers.values),
      window.base,
      run.visible,
      width=width,
      states=buffers.states,
    ),
  )
  newest = lambda x: at_index(x, jnp.maximum(window.count - 1, 0))
  pad = functools.partial(_pad_to, width=window.hidden.shape[1])
  return SegmentOutput(
    keys=tuple(pad(keys, axis=2) for keys in out.keys),
    values=tuple(pad(values, axis=2) for values in out.values),
    states=jax.tree.map(lambda leaf: pad(leaf, axis=1), out.states),
    hidden=pad(out.hidden, axis=1),
    last=jax.tree.map(newest, out.exit_input),
    ready=None if out.ready is None else newest(out.ready),
  )


def _zeros(window: Window, plan: DecodePlan, segment: Segment) -> SegmentOutput:
  """Return what a segment that does not run returns."""
  config = plan.config.model
  batch_size, width, embed_dim = window.hidden.shape
  zeros = lambda *shape: jnp.zeros((batch_size, *shape), window.hidden.dtype)
  rows: tuple[Array, ...] = ()
  if config.has_attention:
    rows = (zeros(config.num_kv_heads, width, config.head_dim),)
  one = zeros(1, embed_dim)
  return SegmentOutput(
    keys=rows * segment.num_caches,
    values=rows * segment.num_caches,
    states=empty_states(
      plan, segment, batch_size, width, dtype=window.hidden.dtype
    ),
    hidden=zeros(width, embed_dim),
    last=backbone.exit_input(
      segment, hidden=one, mlp_residual=one, mlp_input=one
    ),
    ready=one if segment.has_block_head else None,
  )


def at_index(
  x: Float[Array, 'B W D'], index: Int[Array, 'B']
) -> Float[Array, 'B 1 D']:
  """Return the stream of one token of each row."""
  if x.shape[1] == 1:
    return x
  if x.shape[0] == 1:
    return lax.dynamic_slice_in_dim(x, index[0], 1, axis=1)
  return jnp.take_along_axis(x, index[:, None, None], axis=1)


def _pad_to(x: jax.Array, *, width: int, axis: int) -> jax.Array:
  if x.shape[axis] == width:
    return x
  padding = [(0, 0)] * x.ndim
  padding[axis] = (0, width - x.shape[axis])
  return jnp.pad(x, padding)
