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
"""The decoder as pure functions over one parameter tree.

The tree (L blocks stacked on a leading axis; brackets where a config asks):

  backbone
    embedding/table                    [V, D]
    embedding/positions                [S, D]         [learned positions]
    blocks/attention_norm/scale        [L, D]         [bias L D]
    blocks/attention_post_norm/...     [L, D]         [norms after]
    blocks/attention/query/kernel      [L, D, N, H]   [bias L N H]
    blocks/attention/{key,value}/...   [L, D, K, H]   [bias L K H]
    blocks/attention/output/kernel     [L, N, H, D]   [bias L D]
    blocks/attention/{query,key}_norm  [L, H]         [qk_norm]
    blocks/mlp_norm/scale              [L, D]         [bias L D]
    blocks/mlp_post_norm/...           [L, D]         [norms after]
    blocks/mlp/{gate,up}/kernel        [L, D, F]      [bias L F]
    blocks/mlp/down/kernel             [L, F, D]      [bias L D]
    blocks/mlp/router/kernel           [L, D, X]      [experts, and then]
    blocks/mlp/experts/{gate,up}/...   [L, X, D, F]
    blocks/mlp/experts/down/kernel     [L, X, F, D]
    blocks/mlp/shared/...              as an MLP's    [shared expert]
    blocks/mlp/shared_gate/kernel      [L, D, 1]      [shared expert]
    blocks/mixer_norm/scale            [L, D]         [no attention]
    blocks/mixer/{inner,gate}/kernel   [L, D, I]      [state_space]
    blocks/mixer/...                   see `eejax.models.state_space`
    final_norm/scale                   [D]            [bias D]
    head/kernel                        [D, V]         [unless tied_head]
  exits/exit_DEPTH/...                 see `eejax.models.exits`
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import flax.struct
import jax
import jax.numpy as jnp

from eejax.axes import constrain
from eejax.config import EarlyExitConfig, ModelConfig, PositionKind
from eejax.errors import ArgumentError
from eejax.models.block import Block, BlockOutput
from eejax.models.exits import (
  ExitInput,
  apply_exit_head,
  init_exit,
  output_kernel,
)
from eejax.models.intermediates import (
  NO_DEPTHS,
  CollectedDepths,
  IntermediatesSpec,
  record_intermediates,
)
from eejax.models.layers import INIT_STD, Norm, apply_norm, scaled
from eejax.models.patterns import (
  BlockPattern,
  block_pattern,
  positions_by_block,
)
from eejax.models.stacking import num_blocks
from eejax.ops.attention import AttentionImplementation
from eejax.ops.lookup import take_rows
from eejax.ops.quant import Quantization
from eejax.ops.routing import RoutingSums, routing_sums
from eejax.ops.softcap import soft_cap
from eejax.types import Array, Bool, DTypeLike, Float, Int, Params


class Rematerialization(enum.Enum):
  """What a backward pass recomputes instead of keeping.

  NONE keeps every activation; BLOCK keeps a block's input alone; DOTS keeps
  the results of the weight products and recomputes the cheap rest.
  """

  NONE = 'none'
  BLOCK = 'block'
  DOTS = 'dots'


@flax.struct.dataclass
class LayerDropout:
  """Say how often each block is skipped, a sequence at a time.

  Attributes:
    rates: probability of skipping each block, in [0, 1).
    key: random key of this step.

  Reference:
    LayerSkip (arXiv 2404.16710), section 4.1.1.
  """

  rates: Float[Array, 'L']
  key: jax.Array


@flax.struct.dataclass
class DecoderOutput:
  """Outputs of the backbone.

  Attributes:
    hidden: the stream after the last block that was run, not normalised.
    exit_inputs: what each exit reads, by the exit's name.
    streams: the residual stream, by depth, where it was asked for.
    residuals: the stream between the attention and the MLP of the block that
      leads to each depth, where it was asked for.
    routing: where the blocks sent tokens, where that was asked for.
  """

  hidden: Float[Array, 'B T D']
  exit_inputs: dict[str, ExitInput]
  streams: dict[int, Float[Array, 'B T D']] = flax.struct.field(
    default_factory=dict
  )
  residuals: dict[int, Float[Array, 'B T D']] = flax.struct.field(
    default_factory=dict
  )
  routing: RoutingSums | None = None


def init(
  config: EarlyExitConfig, key: jax.Array, *, dtype: DTypeLike = jnp.float32
) -> Params:
  """Return random parameters of the backbone and every exit."""
  embed_key, block_key, head_key, exit_key = jax.random.split(key, 4)
  c = config.model
  x = jnp.zeros((1, 1, c.embed_dim), dtype)
  block = Block(c, param_dtype=dtype)
  init_block = lambda k: block.init(
    k, x, positions=jnp.zeros((1, 1), jnp.int32)
  )['params']
  final_norm = Norm(c, dtype).init(embed_key, x)['params']
  backbone = {
    'embedding': _init_embedding(embed_key, c, dtype),
    'blocks': jax.vmap(init_block)(jax.random.split(block_key, c.num_layers)),
    'final_norm': final_norm,
  }
  if not c.tied_head:
    shape = (c.embed_dim, c.vocab_size)
    kernel = INIT_STD * jax.random.normal(head_key, shape, dtype)
    backbone['head'] = {'kernel': kernel}
  exits = {
    e.name: init_exit(
      jax.random.fold_in(exit_key, e.depth), exit=e, config=c, dtype=dtype
    )
    for e in config.exits
  }
  return {'backbone': backbone, 'exits': exits}


def _init_embedding(
  key: jax.Array, config: ModelConfig, dtype: DTypeLike
) -> Params:
  c = config
  table = jax.random.normal(key, (c.vocab_size, c.embed_dim), dtype)
  embedding = {'table': INIT_STD * table}
  if c.positions is PositionKind.LEARNED:
    shape = (c.max_length + c.position_offset, c.embed_dim)
    rows = jax.random.normal(jax.random.fold_in(key, 1), shape, dtype)
    embedding['positions'] = INIT_STD * rows
  return embedding


def embed(
  backbone: Params,
  tokens: Int[Array, 'B T'],
  *,
  positions: Int[Array, 'B T'],
  config: ModelConfig,
  dtype: DTypeLike,
) -> Float[Array, 'B T D']:
  """Return the residual stream at depth 0.

  Args:
    backbone: its `embedding` is read.
    tokens: their ids.
    positions: position of each token in its own text.
    config: the model.
    dtype: of the stream.
  """
  table = constrain(backbone['embedding']['table'], ('V', None))
  # Cut along T at once, the lookup would gather the table.
  x = constrain(take_rows(table, tokens).astype(dtype), ('B', None, 'D'))
  x = scaled(x, config.embedding_scale)
  if config.positions is PositionKind.LEARNED:
    rows = backbone['embedding']['positions']
    x = x + rows[positions + config.position_offset].astype(dtype)
  return constrain(x, ('B', 'T', 'D'))


def final_hidden(
  backbone: Params, hidden: Float[Array, '*batch D'], *, config: ModelConfig
) -> Float[Array, '*batch D']:
  """Apply the final norm and scale: ready for the final head's matrix."""
  normed = apply_norm(backbone['final_norm'], hidden, config=config)
  return scaled(normed, config.logit_scale)


def run_blocks(
  backbone: Params,
  x: Float[Array, 'B T D'],
  *,
  config: EarlyExitConfig,
  positions: Int[Array, 'B T'],
  segment_ids: Int[Array, 'B T'] | None = None,
  rematerialization: Rematerialization = Rematerialization.NONE,
  layer_dropout: LayerDropout | None = None,
  implementation: AttentionImplementation = AttentionImplementation.XLA,
  kv_quantization: Quantization = Quantization.NONE,
  collect: CollectedDepths = NO_DEPTHS,
  counted: Bool[Array, 'B T'] | None = None,
) -> DecoderOutput:
  """Run all stacked blocks and collect what the exits read.

  The stack may be shorter than the model: a backbone truncated to the deepest
  exit runs no further, and exits beyond it are an error. What is kept for the
  exits does not grow with the number of blocks; see
  `eejax.models.intermediates`.

  Args:
    backbone: parameters, blocks stacked.
    x: the stream at depth 0; its dtype is the compute dtype.
    config: the model with its exits.
    positions: position of each token in its own text.
    segment_ids: tokens attend only within equal ids.
    rematerialization: what a backward pass recomputes.
    layer_dropout: random skipping of blocks, for training.
    implementation: attention kernel.
    kv_quantization: what keys and values are rounded to.
    collect: depths whose streams are returned, besides what exits read.
    counted: tokens of which it is returned where experts get them; None asks
      for nothing.

  Raises:
    ArgumentError: an exit or a collected depth lies beyond the stack.
  """
  depth = num_blocks(backbone['blocks'])
  _check_reach(config, collect, depth)
  run_block = block_function(
    Block(config.model, implementation, kv_quantization=kv_quantization),
    positions,
    segment_ids,
    rematerialization,
  )
  spec = IntermediatesSpec(config, depth, collect)
  (hidden, intermediates), routing = jax.lax.scan(
    _scan_step(run_block, counted),
    (x, spec.start(x)),
    (
      backbone['blocks'],
      block_pattern(config.model, depth),
      spec.slots(),
      _skips(layer_dropout, depth),
    ),
  )
  return DecoderOutput(
    hidden,
    spec.collect(backbone, x, intermediates),
    streams=_at(collect.streams, spec.streams(x, intermediates)),
    residuals=_at(collect.residuals, spec.residuals(intermediates)),
    routing=jax.tree.map(lambda of_blocks: of_blocks.sum(0), routing),
  )


def _at(
  depths: Sequence[int], kept: Mapping[int, Float[Array, 'B T D']]
) -> dict[int, Float[Array, 'B T D']]:
  return {d: kept[d] for d in depths}


def _check_reach(
  config: EarlyExitConfig, collect: CollectedDepths, depth: int
) -> None:
  deepest = max((*collect.streams, *collect.residuals), default=0)
  if deepest > depth:
    raise ArgumentError(
      f'the stream at depth {deepest} lies beyond the {depth} blocks that '
      'were loaded.'
    )
  if config.deepest_exit > depth:
    raise ArgumentError(
      f'the exit at depth {config.deepest_exit} lies beyond the {depth} '
      'blocks that were loaded.'
    )


def _scan_step(
  run_block: Callable[..., BlockOutput], counted: Bool[Array, 'B T'] | None
) -> Callable:
  """Return what a scan over the blocks does with one of them."""

  def step(carry, scanned):
    x, intermediates = carry
    block, pattern, slots, skip = scanned
    output = run_block(block, x, pattern)
    hidden = output.hidden
    if skip is not None:
      key, rate = skip
      runs = jax.random.bernoulli(key, 1 - rate, (x.shape[0], 1, 1))
      hidden = jnp.where(runs, hidden, x)
    intermediates = record_intermediates(
      intermediates, slots, hidden=hidden, output=output
    )
    routing = None
    if counted is not None and output.routing is not None:
      routing = routing_sums(output.routing, counted)
    return (hidden, intermediates), routing

  return step


def _skips(
  dropout: LayerDropout | None, depth: int
) -> tuple[jax.Array, jax.Array] | None:
  """Return a random key and a rate for each block, or None without dropout."""
  if dropout is None:
    return None
  return jax.random.split(dropout.key, depth), dropout.rates[:depth]


def block_function(
  block: Block,
  positions: Int[Array, 'B T'],
  segment_ids: Int[Array, 'B T'] | None,
  rematerialization: Rematerialization,
) -> Callable[..., BlockOutput]:
  """Return `(params, x, pattern) -> BlockOutput` with its checkpointing."""
  positions_in = positions_by_block(positions, config=block.config)

  def run(params: Params, x: Array, pattern: BlockPattern) -> BlockOutput:
    output = block.apply(
      {'params': params},
      x,
      positions=positions_in(pattern),
      segment_ids=segment_ids,
      window=pattern.window,
    )
    return cast(BlockOutput, output)

  match rematerialization:
    case Rematerialization.BLOCK:
      return jax.checkpoint(run)
    case Rematerialization.DOTS:
      policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
      return jax.checkpoint(run, policy=policy)
    case Rematerialization.NONE:
      return run


def logits(
  params: Params,
  tokens: Int[Array, 'B T'],
  *,
  config: EarlyExitConfig,
  dtype: DTypeLike = jnp.float32,
  positions: Int[Array, 'B T'] | None = None,
  segment_ids: Int[Array, 'B T'] | None = None,
) -> dict[str, Float[Array, 'B T V']]:
  """Return the logits of every exit, by its name, and of the `'final'` head.

  It holds `[B, T, V]` an exit, so it suits small models and tests.
  """
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  backbone = params['backbone']
  out = run_blocks(
    backbone,
    embed(
      backbone, tokens, positions=positions, config=config.model, dtype=dtype
    ),
    config=config,
    positions=positions,
    segment_ids=segment_ids,
  )
  result, cap = {}, config.model.logit_softcap
  for e in config.exits:
    ready = apply_exit_head(
      params['exits'].get(e.name, {}),
      out.exit_inputs[e.name],
      exit=e,
      config=config.model,
      positions=positions,
      segment_ids=segment_ids,
    )
    kernel = output_kernel(params, exit=e, config=config.model)
    result[e.name] = soft_cap(ready.hidden @ kernel.astype(dtype), cap)
  ready_final = final_hidden(backbone, out.hidden, config=config.model)
  kernel = output_kernel(params, exit=None, config=config.model)
  result['final'] = soft_cap(ready_final @ kernel.astype(dtype), cap)
  return result
