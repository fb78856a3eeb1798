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
"""Running one stage of a plan over a window of tokens, if it is needed.

Caches are read-only inside the conditional, which returns the new rows; one
write follows for each cache. The conditional is also what orders the reads
before the write: without it XLA copies every cache for every token, even
where the stage always runs.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.decoding import backbone
from eejax.decoding.cache import StageState
from eejax.decoding.plan import Plan, Stage
from eejax.decoding.prepare import Prepared
from eejax.models.block import Context
from eejax.models.exits import ExitInput
from eejax.ops.rotary import Rotation, rotation
from eejax.types import Array, Bool, Float, Int


@flax.struct.dataclass
class StageOutput:
  """Hold what a run of a stage computed for a window of tokens.

  Attributes:
    keys: new rows for each of the stage's caches.
    values: likewise.
    hidden: the stream after the stage.
    last: what the stage's head reads, for the newest token.
    ready: state of a BLOCK head for the newest token, else None.
  """

  keys: tuple[Float[Array, 'B K W H'], ...]
  values: tuple[Float[Array, 'B K W H'], ...]
  hidden: Float[Array, 'B W D']
  last: ExitInput
  ready: Float[Array, 'B 1 D'] | None


@flax.struct.dataclass
class Window:
  """Hold the tokens a stage runs over.

  Attributes:
    hidden: their streams, padded on the right.
    base: slot of each row's first.
    count: how many each row has; 0 for rows that only pass the time.
    rotation: by their positions. Computed inside the stage it would be so
      again for each block.
  """

  hidden: Float[Array, 'B W D']
  base: Int[Array, 'B']
  count: Int[Array, 'B']
  rotation: Rotation


def make_window(
  hidden: Float[Array, 'B W D'],
  *,
  base: Int[Array, 'B'],
  count: Int[Array, 'B'],
  plan: Plan,
) -> Window:
  """Return a window with the rotation of its tokens; see `Window`."""
  model = plan.config.model
  turned = rotation(
    base[:, None] + jnp.arange(hidden.shape[1])[None],
    config=model.rotary,
    head_dim=model.head_dim,
  )
  return Window(hidden, base, count, turned)


def run_stage_if(
  is_needed: Bool[Array, ''],
  params: Prepared,
  *,
  window: Window,
  state: StageState,
  plan: Plan,
  stage: Stage,
) -> StageOutput:
  """Run a stage where it is needed, in the narrowest width that is compiled.

  Where it is not needed the result is zeros, which may be written anywhere
  past what is valid.
  """
  widths = plan.widths if window.hidden.shape[1] > 1 else (1,)
  caches = (state.keys, state.values, state.visible)
  run = functools.partial(_run, plan=plan, stage=stage)
  branches = [functools.partial(run, width=width) for width in widths]
  skip = lambda *_: _zeros(window, plan, stage)
  which = jnp.searchsorted(jnp.array(widths), jnp.max(window.count)) + 1
  return lax.switch(
    jnp.where(is_needed, which, 0), [skip, *branches], params, window, caches
  )


def write_rows(
  state: StageState, output: StageOutput, *, base: Int[Array, 'B']
) -> StageState:
  """Write a window's new rows into every cache of a stage."""
  write = lambda cache, rows: write_at(cache, rows, base, axis=1)
  return dataclasses.replace(
    state,
    keys=tuple(map(write, state.keys, output.keys)),
    values=tuple(map(write, state.values, output.values)),
  )


def write_at(
  target: jax.Array,
  update: jax.Array,
  start: Int[Array, 'B'],
  *,
  axis: int,
) -> jax.Array:
  """Write `update` into each row of `target` from the row's own `start` on.

  Args:
    target: leading dimension B.
    update: shorter along one dimension.
    start: where each row's begins.
    axis: that dimension, not counting the leading one.
  """

  def write_row(row, new, at):
    return lax.dynamic_update_slice_in_dim(row, new, at, axis=axis)

  if target.shape[0] == 1:
    # Mapped over rows it is a scatter, which costs a loop even for one.
    return write_row(target[0], update[0], start[0])[None]
  return jax.vmap(write_row)(target, update, start)


def _run(
  params: Prepared,
  window: Window,
  caches: tuple,
  *,
  plan: Plan,
  stage: Stage,
  width: int,
) -> StageOutput:
  """Run the first `width` tokens of a window; pad what is returned."""
  out = backbone.run_blocks(
    params,
    window.hidden[:, :width],
    plan=plan,
    stage=stage,
    positions=jax.tree.map(lambda x: x[:, :width], window.rotation),
    contexts=_CachedContexts(window, caches, width),
  )
  newest = lambda x: _at_index(x, jnp.maximum(window.count - 1, 0))
  pad = functools.partial(_pad_to, width=window.hidden.shape[1])
  return StageOutput(
    keys=tuple(pad(keys, axis=2) for keys in out.keys),
    values=tuple(pad(values, axis=2) for values in out.values),
    hidden=pad(out.hidden, axis=1),
    last=jax.tree.map(newest, out.exit_input),
    ready=None if out.ready is None else newest(out.ready),
  )


def _zeros(window: Window, plan: Plan, stage: Stage) -> StageOutput:
  """Return what a stage that does not run returns."""
  config = plan.config.model
  batch_size, width, embed_dim = window.hidden.shape
  zeros = lambda *shape: jnp.zeros((batch_size, *shape), window.hidden.dtype)
  rows = (zeros(config.num_kv_heads, width, config.head_dim),)
  one = zeros(1, embed_dim)
  return StageOutput(
    keys=rows * stage.num_caches,
    values=rows * stage.num_caches,
    hidden=zeros(width, embed_dim),
    last=backbone.exit_input(
      stage, hidden=one, mlp_residual=one, mlp_input=one
    ),
    ready=one if stage.has_block_head else None,
  )


class _CachedContexts(backbone.Contexts):
  """Show each block its cache, behind one mask for each sliding window."""

  def __init__(self, window: Window, caches, width: int):
    self._window = window
    self._index = window.base[:, None] + jnp.arange(width)[None]  # [B, W]
    self._keys, self._values, self._visible = caches
    self._masks: dict[int | None, jax.Array] = {}

  def get(self, cache: int, *, window: int | None) -> Context:
    """Return a block's cache, of which slots below the base are valid."""
    if window not in self._masks:
      self._masks[window] = self._mask(window)
    keys, values = self._keys[cache], self._values[cache]
    return Context(keys, values, self._masks[window])

  def _mask(self, window: int | None) -> Bool[Array, 'B W S']:
    slots = jnp.arange(self._keys[0].shape[2])[None]
    valid = slots < self._window.base[:, None]  # [B, S]
    if self._visible is not None:
      valid = valid & self._visible
    if window is None:
      shape = (*self._index.shape, slots.shape[1])
      return jnp.broadcast_to(valid[:, None], shape)
    near = slots[None] > self._index[..., None] - window
    return valid[:, None] & near


def _at_index(
  x: Float[Array, 'B W D'], index: Int[Array, 'B']
) -> Float[Array, 'B 1 D']:
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
