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
    blocks/attention_norm/scale        [L, D]
    blocks/attention/query/kernel      [L, D, N, H]   [bias L N H]
    blocks/attention/{key,value}/...   [L, D, K, H]   [bias L K H]
    blocks/attention/output/kernel     [L, N, H, D]   [bias L D]
    blocks/attention/{query,key}_norm  [L, H]         [qk_norm]
    blocks/mlp_norm/scale              [L, D]
    blocks/mlp/{gate,up}/kernel        [L, D, F]      [bias L F]
    blocks/mlp/down/kernel             [L, F, D]      [bias L D]
    final_norm/scale                   [D]
    head/kernel                        [D, V]         [unless tied_head]
  exits/exit_DEPTH/...                 see `eejax.models.exits`
"""

import enum
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig, ExitHeadKind, GateKind, ModelConfig
from eejax.errors import ArgumentError
from eejax.models.block import Block, BlockOutput
from eejax.models.exits import (
  ExitInput,
  apply_exit_head,
  init_exit,
  output_kernel,
)
from eejax.models.layers import INIT_STD
from eejax.models.stacking import num_blocks
from eejax.ops.attention import AttentionImplementation
from eejax.ops.norm import rms_norm
from eejax.types import Array, DTypeLike, Float, Int, Params


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
  """Hold what the backbone computed.

  Attributes:
    hidden: the stream after the last block that was run, not normalised.
    exit_inputs: what each exit reads, by the exit's name.
  """

  hidden: Float[Array, 'B T D']
  exit_inputs: dict[str, ExitInput]


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
  table = jax.random.normal(embed_key, (c.vocab_size, c.embed_dim), dtype)
  backbone = {
    'embedding': {'table': INIT_STD * table},
    'blocks': jax.vmap(init_block)(jax.random.split(block_key, c.num_layers)),
    'final_norm': {'scale': jnp.ones((c.embed_dim,), dtype)},
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


def embed(
  backbone: Params, tokens: Int[Array, 'B T'], *, dtype: DTypeLike
) -> Float[Array, 'B T D']:
  """Return the residual stream at depth 0."""
  return backbone['embedding']['table'][tokens].astype(dtype)


def final_hidden(
  backbone: Params, hidden: Float[Array, 'B T D'], *, config: ModelConfig
) -> Float[Array, 'B T D']:
  """Apply the final norm: ready for the final head's matrix."""
  scale = backbone['final_norm']['scale']
  return rms_norm(hidden, scale=scale, epsilon=config.norm_epsilon)


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
) -> DecoderOutput:
  """Run all stacked blocks and collect what the exits read.

  The stack may be shorter than the model: a backbone truncated to the deepest
  exit runs no further, and exits beyond it are an error. What an exit reads
  is written into one buffer a kind as the scan passes its depth, so memory
  does not grow with the number of blocks.

  Args:
    backbone: parameters, blocks stacked.
    x: the stream at depth 0; its dtype is the compute dtype.
    config: the model with its exits.
    positions: position of each token in its own text.
    segment_ids: tokens attend only within equal ids.
    rematerialization: what a backward pass recomputes.
    layer_dropout: random skipping of blocks, for training.
    implementation: attention kernel.

  Raises:
    ArgumentError: an exit lies beyond the stack.
  """
  depth = num_blocks(backbone['blocks'])
  if config.deepest_exit > depth:
    raise ArgumentError(
      f'the exit at depth {config.deepest_exit} lies beyond the {depth} '
      'blocks that were loaded.'
    )
  run_block = _block_function(
    config.model, positions, segment_ids, rematerialization, implementation
  )
  taps = _Taps(config, depth)
  keys = rates = None
  if layer_dropout is not None:
    keys = jax.random.split(layer_dropout.key, depth)
    rates = layer_dropout.rates[:depth]

  def step(carry, scanned):
    x, streams, residuals = carry
    block, window, stream_slot, residual_slot, key, rate = scanned
    out = run_block(block, x, window)
    hidden = out.hidden
    if key is not None:
      keep = jax.random.bernoulli(key, 1 - rate, (x.shape[0], 1, 1))
      hidden = jnp.where(keep, hidden, x)
    put = jax.lax.dynamic_update_index_in_dim
    if streams is not None:
      streams = put(streams, hidden, stream_slot, axis=0)
    if residuals is not None:
      residuals = put(residuals, out.mlp_residual, residual_slot, axis=0)
    return (hidden, streams, residuals), None

  (hidden, streams, residuals), _ = jax.lax.scan(
    step,
    (x, taps.buffer(taps.stream_depths, x), taps.buffer(taps.mlp_depths, x)),
    (
      backbone['blocks'],
      _windows(config.model, depth),
      taps.slots(taps.stream_depths),
      taps.slots(taps.mlp_depths),
      keys,
      rates,
    ),
  )
  inputs = taps.collect(backbone, x, streams, residuals)
  return DecoderOutput(hidden=hidden, exit_inputs=inputs)


def _block_function(
  config: ModelConfig,
  positions: Int[Array, 'B T'],
  segment_ids: Int[Array, 'B T'] | None,
  rematerialization: Rematerialization,
  implementation: AttentionImplementation,
) -> Callable[..., BlockOutput]:
  """Return `(params, x, window) -> BlockOutput` with its checkpointing."""
  block = Block(config, implementation)

  def run(params, x, window):
    return block.apply(
      {'params': params},
      x,
      positions=positions,
      segment_ids=segment_ids,
      window=window,
    )

  match rematerialization:
    case Rematerialization.BLOCK:
      return jax.checkpoint(run)
    case Rematerialization.DOTS:
      policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
      return jax.checkpoint(run, policy=policy)
    case Rematerialization.NONE:
      return run


def _windows(config: ModelConfig, depth: int) -> np.ndarray | None:
  """Return each block's sliding window, or None where none has one."""
  if config.sliding_window is None:
    return None
  unlimited = np.iinfo(np.int32).max
  return np.array(
    [config.window_of(i) or unlimited for i in range(depth)], np.int32
  )


class _Taps:
  """Say where in the scan's buffers each exit finds its input.

  A buffer has a slot for each depth that is tapped and a last one that every
  other depth overwrites.
  """

  def __init__(self, config: EarlyExitConfig, depth: int):
    self.config = config
    self.depth = depth
    above_0 = [e for e in config.exits if e.depth > 0]
    is_mlp = lambda e: e.head is ExitHeadKind.MLP
    self.mlp_depths = [e.depth for e in above_0 if is_mlp(e)]
    self.stream_depths = [
      e.depth for e in above_0 if not is_mlp(e) or e.gate is not GateKind.NONE
    ]

  def buffer(self, depths: list[int], x: jax.Array) -> jax.Array | None:
    if not depths:
      return None
    return jnp.zeros((len(depths) + 1, *x.shape), x.dtype)

  def slots(self, depths: list[int]) -> np.ndarray:
    spare = len(depths)
    slot = {d: i for i, d in enumerate(depths)}
    return np.array(
      [slot.get(d, spare) for d in range(1, self.depth + 1)], np.int32
    )

  def collect(
    self,
    backbone: Params,
    x: jax.Array,
    streams: jax.Array | None,
    residuals: jax.Array | None,
  ) -> dict[str, ExitInput]:
    inputs = {}
    for e in self.config.exits:
      hidden = residual = mlp_input = None
      if e.depth == 0:
        hidden = x
      if streams is not None and e.depth in self.stream_depths:
        hidden = streams[self.stream_depths.index(e.depth)]
      if residuals is not None and e.depth in self.mlp_depths:
        residual = residuals[self.mlp_depths.index(e.depth)]
        mlp_input = rms_norm(
          residual,
          scale=backbone['blocks']['mlp_norm']['scale'][e.depth - 1],
          epsilon=self.config.model.norm_epsilon,
        )
      inputs[e.name] = ExitInput(hidden, residual, mlp_input)
    return inputs


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
    embed(backbone, tokens, dtype=dtype),
    config=config,
    positions=positions,
    segment_ids=segment_ids,
  )
  result = {}
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
    result[e.name] = ready.hidden @ kernel.astype(dtype)
  ready_final = final_hidden(backbone, out.hidden, config=config.model)
  kernel = output_kernel(params, exit=None, config=config.model)
  result['final'] = ready_final @ kernel.astype(dtype)
  return result
