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
"""The forward pass of one stage: blocks, caches and its head.

All of this runs inside `shard_map`, where a stage sees its own parameters and
caches, without the leading P.
"""

import typing

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eejax.axes import STAGE
from eejax.config import ExitHeadKind, ModelConfig
from eejax.decoding.pipelined.exchange import Packet, of_stage
from eejax.decoding.pipelined.layout import PipelineLayout
from eejax.decoding.pipelined.parameters import PipelinedParams
from eejax.models.block import Block, BlockOutput, Context
from eejax.models.exits import (
  ExitInput,
  ExitOutput,
  apply_exit_head,
  exit_window,
)
from eejax.models.layers import scaled
from eejax.models.patterns import (
  BlockPattern,
  block_pattern,
  positions_by_block,
)
from eejax.ops.lookup import take_rows
from eejax.ops.rotary import rotations_at
from eejax.types import Array, Float, Int


# Unchecked, for a conditional's shapes come as trees of what are no arrays.
@typing.no_type_check
@flax.struct.dataclass
class Caches:
  """Keys and values, one cache for each block of the longest stage.

  A BLOCK exit's own comes last, if any stage has one. Slot s of a row is for
  the token at position s of its text.

  Attributes:
    keys: outside of a stage with a leading P.
    values: likewise.
  """

  keys: tuple[Float[Array, '*P B K S H'], ...]
  values: tuple[Float[Array, '*P B K S H'], ...]


# Unchecked, for a conditional's shapes come as trees of what are no arrays.
@typing.no_type_check
@flax.struct.dataclass
class PipelineStageOutput:
  """The output of one stage.

  Attributes:
    hidden: the stream at the stage's end.
    ready: state that is ready for the output matrix.
    rows: new keys and values for each cache, T in place of S.
  """

  hidden: Float[Array, 'B T D']
  ready: Float[Array, 'B T D']
  rows: Caches


def run_stage(
  params: PipelinedParams,
  packet: Packet,
  caches: Caches,
  *,
  layout: PipelineLayout,
) -> PipelineStageOutput:
  """Run a stage's blocks and what stands before its output matrix.

  Args:
    params: of this stage.
    packet: tokens, whose predecessors have passed the stage.
    caches: of this stage; `write_rows` adds what is new.
    layout: the static shape of the program.
  """
  forward = _StageForward(packet, caches, layout)
  num_blocks = of_stage([s.num_blocks for s in layout.stages])
  x = packet.hidden
  read = ExitInput(x, x, x)
  for index in range(layout.num_blocks):
    out = forward.run_block(params, x, index)
    inputs = ExitInput(out.hidden, out.mlp_residual, out.mlp_input)
    is_there = index < num_blocks
    read = jax.tree.map(
      lambda new, old, is_there=is_there: jnp.where(is_there, new, old),
      inputs,
      read,
    )
    assert read.hidden is not None
    x = read.hidden
  ready = forward.run_heads(params, read)
  return PipelineStageOutput(x, ready, forward.rows)


def write_rows(caches: Caches, rows: Caches, packet: Packet) -> Caches:
  """Write a packet's keys and values into a stage's caches.

  What is written for tokens that are not there is what stood there before.
  """
  is_there = _offsets(packet) < packet.count[:, None]  # [B, T]

  def write_row(cache, rows, base, is_there):
    start = (0, base, 0)
    old = lax.dynamic_slice(cache, start, rows.shape)
    new = jnp.where(is_there[None, :, None], rows, old)
    return lax.dynamic_update_slice(cache, new, start)

  return jax.tree.map(
    lambda cache, rows: jax.vmap(write_row)(cache, rows, packet.base, is_there),
    caches,
    rows,
  )


def embed(
  params: PipelinedParams,
  tokens: Int[Array, 'B T'],
  positions: Int[Array, 'B T'],
  *,
  config: ModelConfig,
) -> Float[Array, 'B T D']:
  """Return the stream at depth 0, on all stages.

  Each stage looks in its share of the table; one has the token, and adding
  zeros to its row is exact.
  """
  share = params.table.shape[0]
  index = tokens - lax.axis_index(STAGE) * share
  is_here = (index >= 0) & (index < share)
  rows = take_rows(params.table, jnp.clip(index, 0, share - 1))
  rows = jnp.where(is_here[..., None], rows, 0)
  # Sums of bfloat16 over devices abort on CPU (jaxlib 0.10.2).
  whole = lax.psum(rows.astype(jnp.float32), STAGE)
  x = scaled(whole.astype(params.table.dtype), config.embedding_scale)
  if params.position_table is not None:
    x = x + params.position_table[positions + config.position_offset]
  return x


class _StageForward:
  """The forward pass of one packet through a stage, block by block."""

  def __init__(self, packet: Packet, caches: Caches, layout: PipelineLayout):
    self._caches = caches
    self._keys: list[jax.Array] = []
    self._values: list[jax.Array] = []
    self._packet, self._layout = packet, layout
    config = layout.config
    self._positions = packet.base[:, None] + _offsets(packet)  # [B, T]
    self._rotations = rotations_at(
      self._positions, configs=config.rotations, head_dim=config.head_dim
    )
    self._by_block = positions_by_block(self._positions, config=config)

  @property
  def rows(self) -> Caches:
    """Return the keys and values of what has run."""
    return Caches(tuple(self._keys), tuple(self._values))

  def run_block(
    self, params: PipelinedParams, x: Float[Array, 'B T D'], index: int
  ) -> BlockOutput:
    """Run the stage's block number `index` and keep its keys and values."""
    config, pattern = self._layout.config, self._pattern(index)
    several = len(self._rotations) > 1
    applied = Block(config).apply(
      {'params': params.blocks[index]},
      x,
      positions=self._by_block(pattern) if several else self._rotations[0],
      window=pattern.window,
      context=self._context(index, pattern.window),
    )
    out = typing.cast(BlockOutput, applied)
    assert out.keys is not None and out.values is not None
    self._keep(out.keys, out.values)
    return out

  def run_heads(
    self, params: PipelinedParams, read: ExitInput
  ) -> Float[Array, 'B T D']:
    """Run every kind of head; return the state of the stage's own."""
    assert read.hidden is not None
    ready = read.hidden
    for kind in self._layout.head_kinds:
      out = self._run_head(params, read, kind)
      is_own = [s.head_kind is kind for s in self._layout.stages]
      ready = jnp.where(of_stage(is_own), out.hidden, ready)
    return ready

  def _run_head(
    self, params: PipelinedParams, read: ExitInput, kind: ExitHeadKind
  ) -> ExitOutput:
    config, cache = self._layout.config, self._layout.num_caches - 1
    is_block = kind is ExitHeadKind.BLOCK
    context = self._context(cache, exit_window(config)) if is_block else None
    out = apply_exit_head(
      params.heads[kind.value],
      read,
      exit=self._layout.head_of_kind(kind),
      config=config,
      positions=self._rotations[config.rotation_of(config.num_layers - 1)],
      context=context,
    )
    if is_block:
      assert out.keys is not None and out.values is not None
      self._keep(out.keys, out.values)
    return out

  def _pattern(self, index: int) -> BlockPattern:
    """Return what of the block differs by stage."""
    config = self._layout.config
    last = config.num_layers - 1
    number = of_stage([min(s.first + index, last) for s in self._layout.stages])
    pattern = block_pattern(config, config.num_layers)
    return jax.tree.map(jnp.asarray, pattern)[number]

  def _context(
    self, cache: int, window: int | Int[Array | np.ndarray, ''] | None
  ) -> Context:
    """Show the slots of tokens that went before the packet."""
    keys, values = self._caches.keys[cache], self._caches.values[cache]
    slots = jnp.arange(keys.shape[2])[None, None]  # [1, 1, S]
    mask = slots < self._packet.base[:, None, None]
    if window is not None:
      mask = mask & (slots > self._positions[..., None] - window)
    mask = jnp.broadcast_to(mask, (*self._positions.shape, keys.shape[2]))
    return Context(keys, values, mask)

  def _keep(
    self, keys: Float[Array, 'B K T H'], values: Float[Array, 'B K T H']
  ) -> None:
    self._keys.append(keys)
    self._values.append(values)


def _offsets(packet: Packet) -> Int[Array, '1 T']:
  return jnp.arange(packet.hidden.shape[1])[None]
