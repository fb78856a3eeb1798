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
"""Blocks of prepared parameters, for prefill and for windows alike."""

import functools
from typing import cast

import flax.struct
import jax

from eejax.config import ExitHeadKind, ModelConfig
from eejax.decoding.loop.device_placement import keep_stream
from eejax.decoding.loop.plan import DecodePlan, Segment
from eejax.decoding.loop.prepare import Prepared
from eejax.models import decoder
from eejax.models.block import (
  Block,
  BlockOutput,
  Context,
  RecurrentContext,
)
from eejax.models.exits import (
  ExitInput,
  ExitOutput,
  apply_exit_head,
  exit_window,
)
from eejax.models.kernel_layout import for_modules
from eejax.models.stacking import projections_of
from eejax.ops.quant import Quantization
from eejax.ops.recurrent_state import RecurrentState
from eejax.ops.rotary import Rotation, Rotations, rotations_at
from eejax.types import Array, Float, Int, Params


@flax.struct.dataclass
class SegmentBlocks:
  """Results of the blocks of a segment for some tokens.

  Attributes:
    hidden: the stream after the segment.
    keys: new rows for each of the segment's caches.
    values: likewise.
    states: what each recurrent block is to keep, as its continuation asks.
    exit_input: what the segment's head reads.
    ready: state of a BLOCK head, else None.
  """

  hidden: Float[Array, 'B T D']
  keys: tuple[Float[Array, 'B K T H'], ...]
  values: tuple[Float[Array, 'B K T H'], ...]
  states: tuple[RecurrentState, ...]
  exit_input: ExitInput
  ready: Float[Array, 'B T D'] | None


class Contexts:
  """Show each cache of a segment to its block; here there are none yet."""

  def __init__(self, count: Int[Array, 'B'] | None = None):
    """Show nothing.

    Args:
      count: how many tokens of each row are no padding; None for all.
    """
    self._count = count

  def get(self, cache: int, *, window: int | None) -> Context | None:
    """Return what a block may read.

    Args:
      cache: number of the cache in its segment.
      window: how many keys the block sees, or None for all.
    """
    return None

  def continuation(self, cache: int) -> RecurrentContext | None:
    """Return what a recurrent block goes on from.

    Args:
      cache: number of the block in its segment.
    """
    return RecurrentContext(count=self._count)


def embed(
  params: Prepared, tokens: Int[Array, 'B T'], positions: Int[Array, 'B T']
) -> Float[Array, 'B T D']:
  """Return the residual stream at depth 0."""
  embedding = {'table': params.table, 'positions': params.position_table}
  x = decoder.embed(
    {'embedding': embedding},
    tokens,
    positions=positions,
    config=params.config.model,
    dtype=params.dtype,
  )
  return keep_stream(x, mesh=params.mesh)


def run_blocks(
  params: Prepared,
  x: Float[Array, 'B T D'],
  *,
  plan: DecodePlan,
  segment: Segment,
  positions: Int[Array, 'B T'] | Rotations,
  contexts: Contexts,
  segment_ids: Int[Array, 'B T'] | None = None,
) -> SegmentBlocks:
  """Run a segment's blocks, and a BLOCK head's own.

  Args:
    params: the model.
    x: the stream at the segment's entrance.
    plan: what is decoded.
    segment: which blocks run.
    positions: position of each token in its row's text, or its rotations.
    contexts: earlier keys and values.
    segment_ids: tokens attend only within equal ids.
  """
  config = plan.config.model
  outputs: list[BlockOutput | ExitOutput] = []
  read, ready = ExitInput(hidden=x), None
  is_recurrent = config.state_space is not None
  if not isinstance(positions, tuple):
    positions = rotations_at(
      positions, configs=config.rotations, head_dim=config.head_dim
    )
  for cache, number in enumerate(range(segment.first, segment.last)):
    window = config.window_of(number)
    out = _run_block(
      params.blocks[number],
      x,
      positions[config.rotation_of(number)],
      segment_ids,
      contexts.get(cache, window=window),
      contexts.continuation(cache) if is_recurrent else None,
      config=config,
      window=window,
      kv_quantization=params.kv_quantization,
    )
    outputs.append(out)
    x = keep_stream(out.hidden, mesh=params.mesh)
    read = exit_input(
      segment,
      hidden=x,
      mlp_residual=out.mlp_residual,
      mlp_input=out.mlp_input,
    )
  if segment.has_block_head:
    head = apply_exit_head(
      params.exits[segment.needed_exit.name],
      read,
      exit=segment.needed_exit,
      config=config,
      positions=positions[config.rotation_of(config.num_layers - 1)],
      segment_ids=segment_ids,
      context=contexts.get(len(outputs), window=exit_window(config)),
      continuation=(
        contexts.continuation(len(outputs)) if is_recurrent else None
      ),
      kv_quantization=params.kv_quantization,
    )
    outputs.append(head)
    ready = head.hidden
  return SegmentBlocks(
    hidden=x,
    keys=tuple(o.keys for o in outputs if o.keys is not None),
    values=tuple(o.values for o in outputs if o.values is not None),
    states=tuple(o.state for o in outputs if o.state is not None),
    exit_input=read,
    ready=ready,
  )


def exit_input(
  segment: Segment,
  *,
  hidden: Float[Array, 'B T D'],
  mlp_residual: Float[Array, 'B T D'],
  mlp_input: Float[Array, 'B T D'],
) -> ExitInput:
  """Return what a segment's head reads after its last block, nothing more."""
  if segment.exit is None or segment.exit.head is not ExitHeadKind.MLP:
    return ExitInput(hidden=hidden)
  return ExitInput(hidden, mlp_residual, mlp_input)


# A program of its own within the others: blocks alike are traced once.
@functools.partial(
  jax.jit, static_argnames=('config', 'window', 'kv_quantization')
)
def _run_block(
  params: Params,
  x: Float[Array, 'B T D'],
  positions: Rotation | None,
  segment_ids: Int[Array, 'B T'] | None,
  context: Context | None,
  continuation: RecurrentContext | None,
  *,
  config: ModelConfig,
  window: int | None,
  kv_quantization: Quantization,
) -> BlockOutput:
  block = Block(
    config,
    projections=projections_of(params),
    kv_quantization=kv_quantization,
  )
  output = block.apply(
    {'params': for_modules(params)},
    x,
    positions=positions,
    segment_ids=segment_ids,
    window=window,
    context=context,
    continuation=continuation,
  )
  return cast(BlockOutput, output)
