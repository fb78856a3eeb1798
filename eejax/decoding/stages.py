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
"""Running one stage of a plan over a window of tokens.

Caches are read-only inside the conditional, which returns the new rows; one
write follows for each cache. The conditional is also what orders the reads
before the write: without it XLA copies every cache for every token, even
where the stage always runs.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.config import ExitHeadKind
from eejax.decoding.cache import StageState
from eejax.decoding.plan import Plan, Stage
from eejax.decoding.prepare import Prepared
from eejax.models.block import Block, BlockOutput, Context, Projections
from eejax.models.exits import ExitInput, apply_exit_head, exit_window
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
    base: slot of the first.
    count: how many there are, at least 1.
    start: slot of each row's first token, padding before it.
  """

  hidden: Float[Array, 'B W D']
  base: Int[Array, '']
  count: Int[Array, '']
  start: Int[Array, 'B']


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
  caches = (state.keys, state.values)
  branches = [
    functools.partial(_run, plan=plan, stage=stage, width=width)
    for width in widths
  ]
  shapes = jax.eval_shape(branches[0], params, window, caches)
  skip = lambda *_: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  if len(widths) == 1:
    return lax.cond(is_needed, branches[0], skip, params, window, caches)
  fitting = jnp.searchsorted(jnp.array(widths), window.count)
  return lax.switch(
    jnp.where(is_needed, fitting + 1, 0),
    [skip, *branches],
    params,
    window,
    caches,
  )


def _run(
  params: Prepared,
  window: Window,
  caches: tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]],
  *,
  plan: Plan,
  stage: Stage,
  width: int,
) -> StageOutput:
  """Run the first `width` tokens of a window; pad what is returned."""
  config, x = plan.config.model, window.hidden[:, :width]
  index = window.base + jnp.arange(width)
  positions = index[None] - window.start[:, None]
  contexts = _Contexts(window, caches, index)
  block = Block(config, projections=Projections.FUSED)
  outputs: list[BlockOutput] = []
  for number in range(stage.first, stage.last):
    keys_seen = config.window_of(number)
    out = block.apply(
      {'params': params.blocks[number]},
      x,
      positions=positions,
      window=keys_seen,
      context=contexts.get(number - stage.first, keys_seen),
    )
    outputs.append(out)
    x = out.hidden
  rows = [(o.keys, o.values) for o in outputs]
  ready = None
  if stage.has_block_head:
    head = apply_exit_head(
      params.exits[stage.exit.name],
      ExitInput(hidden=x),
      exit=stage.exit,
      config=config,
      positions=positions,
      context=contexts.get(-1, exit_window(config)),
    )
    rows.append((head.keys, head.values))
    ready = _newest(head.hidden, window)
  last = ExitInput(hidden=_newest(x, window))
  if stage.exit is not None and stage.exit.head is ExitHeadKind.MLP:
    last = last.replace(
      mlp_residual=_newest(outputs[-1].mlp_residual, window),
      mlp_input=_newest(outputs[-1].mlp_input, window),
    )
  pad = functools.partial(_pad_to, width=window.hidden.shape[1])
  return StageOutput(
    keys=tuple(pad(keys, axis=2) for keys, _ in rows),
    values=tuple(pad(values, axis=2) for _, values in rows),
    hidden=pad(x, axis=1),
    last=last,
    ready=ready,
  )


def write_rows(
  state: StageState, output: StageOutput, *, base: Int[Array, '']
) -> StageState:
  """Write a window's new rows into every cache of a stage."""
  write = lambda cache, rows: lax.dynamic_update_slice(
    cache, rows, (0, 0, base, 0)
  )
  return state.replace(
    keys=tuple(map(write, state.keys, output.keys)),
    values=tuple(map(write, state.values, output.values)),
  )


class _Contexts:
  """Show each block its cache, behind one mask for each sliding window."""

  def __init__(self, window: Window, caches, index: Int[Array, 'W']):
    self._window = window
    self._keys, self._values = caches
    self._index = index
    self._masks: dict[int | None, jax.Array] = {}

  def get(self, cache: int, keys_seen: int | None) -> Context:
    if keys_seen not in self._masks:
      self._masks[keys_seen] = self._mask(keys_seen)
    return Context(
      self._keys[cache], self._values[cache], self._masks[keys_seen]
    )

  def _mask(self, keys_seen: int | None) -> Bool[Array, 'B W S']:
    slots = jnp.arange(self._keys[0].shape[2])
    valid = slots[None] >= self._window.start[:, None]  # [B, S]
    valid = valid & (slots[None] < self._window.base)
    near = jnp.ones((1, self._index.shape[0], 1), bool)
    if keys_seen is not None:
      near = (slots[None] > self._index[:, None] - keys_seen)[None]
    return valid[:, None] & near


def _newest(x: Float[Array, 'B W D'], window: Window) -> Float[Array, 'B 1 D']:
  if x.shape[1] == 1:
    return x
  return lax.dynamic_slice_in_dim(x, window.count - 1, 1, axis=1)


def _pad_to(x: jax.Array, *, width: int, axis: int) -> jax.Array:
  padding = [(0, 0)] * x.ndim
  padding[axis] = (0, width - x.shape[axis])
  return jnp.pad(x, padding) if any(map(any, padding)) else x
