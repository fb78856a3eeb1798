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
from eejax.decoding.loop.plan import Plan, Stage
from eejax.decoding.loop.prepare import Prepared
from eejax.models.block import Block, BlockOutput, Context, Projections
from eejax.models.exits import ExitInput, apply_exit_head, exit_window
from eejax.ops.quant import Quantization
from eejax.ops.rotary import Positions
from eejax.types import Array, Float, Int, Params


@flax.struct.dataclass
class StageBlocks:
  """Results of the blocks of a stage for some tokens.

  Attributes:
    hidden: the stream after the stage.
    keys: new rows for each of the stage's caches.
    values: likewise.
    exit_input: what the stage's head reads.
    ready: state of a BLOCK head, else None.
  """

  hidden: Float[Array, 'B T D']
  keys: tuple[Float[Array, 'B K T H'], ...]
  values: tuple[Float[Array, 'B K T H'], ...]
  exit_input: ExitInput
  ready: Float[Array, 'B T D'] | None


class Contexts:
  """Show each cache of a stage to its block; here there are none yet."""

  def get(self, cache: int, *, window: int | None) -> Context | None:
    """Return what a block may read.

    Args:
      cache: number of the cache in its stage.
      window: how many keys the block sees, or None for all.
    """
    return None


def run_blocks(
  params: Prepared,
  x: Float[Array, 'B T D'],
  *,
  plan: Plan,
  stage: Stage,
  positions: Positions,
  contexts: Contexts,
  segment_ids: Int[Array, 'B T'] | None = None,
) -> StageBlocks:
  """Run a stage's blocks, and a BLOCK head's own.

  Args:
    params: the model.
    x: the stream at the stage's entrance.
    plan: what is decoded.
    stage: which blocks run.
    positions: position of each token in its row's text, or its rotation.
    contexts: earlier keys and values.
    segment_ids: tokens attend only within equal ids.
  """
  config = plan.config.model
  keys, values, read, ready = [], [], ExitInput(hidden=x), None
  for cache, number in enumerate(range(stage.first, stage.last)):
    window = config.window_of(number)
    out = _run_block(
      params.blocks[number],
      x,
      positions,
      segment_ids,
      contexts.get(cache, window=window),
      config=config,
      window=window,
      kv_quantization=params.kv_quantization,
    )
    keys.append(out.keys)
    values.append(out.values)
    x = out.hidden
    read = exit_input(
      stage,
      hidden=x,
      mlp_residual=out.mlp_residual,
      mlp_input=out.mlp_input,
    )
  if stage.has_block_head:
    head = apply_exit_head(
      params.exits[stage.needed_exit.name],
      read,
      exit=stage.needed_exit,
      config=config,
      positions=positions,
      segment_ids=segment_ids,
      context=contexts.get(len(keys), window=exit_window(config)),
      kv_quantization=params.kv_quantization,
    )
    assert head.keys is not None and head.values is not None
    keys.append(head.keys)
    values.append(head.values)
    ready = head.hidden
  return StageBlocks(x, tuple(keys), tuple(values), read, ready)


def exit_input(
  stage: Stage,
  *,
  hidden: Float[Array, 'B T D'],
  mlp_residual: Float[Array, 'B T D'],
  mlp_input: Float[Array, 'B T D'],
) -> ExitInput:
  """Return what a stage's head reads after its last block, nothing more."""
  if stage.exit is None or stage.exit.head is not ExitHeadKind.MLP:
    return ExitInput(hidden=hidden)
  return ExitInput(hidden, mlp_residual, mlp_input)


# A program of its own within the others: blocks alike are traced once.
@functools.partial(
  jax.jit, static_argnames=('config', 'window', 'kv_quantization')
)
def _run_block(
  params: Params,
  x: Float[Array, 'B T D'],
  positions: Positions,
  segment_ids: Int[Array, 'B T'] | None,
  context: Context | None,
  *,
  config: ModelConfig,
  window: int | None,
  kv_quantization: Quantization,
) -> BlockOutput:
  block = Block(
    config, projections=Projections.FUSED, kv_quantization=kv_quantization
  )
  output = block.apply(
    {'params': params},
    x,
    positions=positions,
    segment_ids=segment_ids,
    window=window,
    context=context,
  )
  return cast(BlockOutput, output)
