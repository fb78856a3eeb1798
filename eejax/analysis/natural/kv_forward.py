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
"""A forward pass in which earlier tokens left stand-ins for keys and values.

Decoding writes stand-ins token by token. Along a text that is given, all
tokens can be run at once: each goes through all blocks, sees what decoding
would have written for the tokens before it, and itself as it is. Up to its
exit a token's own keys and values are written, which are those of this pass,
for it saw there what it would have seen; above, the stand-ins.
"""

import functools
from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import ModelConfig
from eejax.decoding.policy.policy import KVStrategy
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.models.block import Block, BlockOutput
from eejax.models.exits import output_kernel
from eejax.models.patterns import block_pattern, positions_by_block
from eejax.ops.attention import Context
from eejax.ops.cross_entropy import cross_entropy
from eejax.ops.rotary import Positions
from eejax.types import Array, Bool, Float, Int, Params

_KNOWN = (
  KVStrategy.DEFERRED,
  KVStrategy.RECOMPUTE,
  KVStrategy.PROPAGATE,
  KVStrategy.COPY,
  KVStrategy.MASK,
)


@flax.struct.dataclass
class _Carry:
  """Carry of the scan over the blocks.

  Attributes:
    x: the stream.
    exit_stream: the stream where each token left.
    keys: of the last block that each token's decoding ran.
    values: likewise.
  """

  x: Float[Array, 'B T D']
  exit_stream: Float[Array, 'B T D']
  keys: Float[Array, 'B K T H']
  values: Float[Array, 'B K T H']


def check_strategy(strategy: KVStrategy, *, shallowest: int) -> None:
  """Check that a strategy's stand-ins can be written along a given text.

  Args:
    strategy: what stands in for keys and values.
    shallowest: depth of the shallowest exit.

  Raises:
    ArgumentError: they cannot.
  """
  if strategy not in _KNOWN:
    raise ArgumentError(
      f'the kv strategy {strategy.value} writes no stand-ins, for it forbids '
      'the depths that would need them; compare propagate, copy or mask.'
    )
  if strategy is KVStrategy.COPY and shallowest < 1:
    raise ArgumentError(
      'before the first block there are no keys and values to copy; leave out '
      'the exit at depth 0, or the kv strategy copy.'
    )


@functools.partial(
  jax.jit, static_argnames=('config', 'strategy', 'dtype', 'chunk_size')
)
def likeliest_tokens(
  params: Params,
  batch: Mapping[str, jax.Array],
  exit_depth: Int[Array, 'B T'],
  *,
  config: ModelConfig,
  strategy: KVStrategy,
  dtype: str = 'float32',
  chunk_size: int = 512,
) -> Int[Array, 'B T']:
  """Return what the full model says where tokens before left early.

  Args:
    params: the tree, blocks stacked; exits in it are not looked at.
    batch: arrays of an `eejax.data.batch.Batch`, by name.
    exit_depth: where each token left, L for those that did not.
    config: the backbone.
    strategy: what stands in for keys and values of blocks that were skipped.
    dtype: compute dtype.
    chunk_size: tokens whose logits stand at once.
  """
  if config.state_space is not None:
    raise ArgumentError(
      'what stands in for keys and values is measured where blocks keep '
      'nothing else, and blocks of this model have states; leave out the '
      'damage of stand-ins.'
    )
  backbone = params['backbone']
  x = decoder.embed(
    backbone,
    batch['tokens'],
    positions=batch['positions'],
    config=config,
    dtype=jnp.dtype(dtype),
  )
  positions_in = positions_by_block(batch['positions'], config=config)
  no_keys = jnp.zeros(
    (len(x), config.num_kv_heads, x.shape[1], config.head_dim), x.dtype
  )

  def step(carry: _Carry, scanned):
    params, index, pattern = scanned
    run = functools.partial(
      _run_block, config=config, positions=positions_in(pattern)
    )
    leaves_here = (exit_depth == index)[..., None]
    exit_stream = jnp.where(leaves_here, carry.x, carry.exit_stream)
    ran = index < exit_depth
    keys, values = _kept(run(params, carry.x))
    if strategy is KVStrategy.PROPAGATE:
      other_keys, other_values = _kept(run(params, exit_stream))
      keys = _choose(ran, keys, other_keys)
      values = _choose(ran, values, other_values)
    if strategy is KVStrategy.COPY:
      keys = _choose(ran, keys, carry.keys)
      values = _choose(ran, values, carry.values)
    visible = _visible(batch['segment_ids'], pattern.window)
    if strategy is KVStrategy.MASK:
      visible = visible & ran[:, None, :]
    out = run(params, carry.x, context=Context(keys, values, visible))
    return _Carry(out.hidden, exit_stream, keys, values), None

  scanned = (
    backbone['blocks'],
    np.arange(config.num_layers, dtype=np.int32),
    block_pattern(config, config.num_layers),
  )
  start = _Carry(x, x, no_keys, no_keys)
  last, _ = jax.lax.scan(step, start, scanned)
  return cross_entropy(
    decoder.final_hidden(backbone, last.x, config=config),
    kernel=output_kernel(params, exit=None, config=config),
    targets=batch['targets'],
    chunk_size=chunk_size,
    softcap=config.logit_softcap,
  ).top1


def _run_block(
  params: Params,
  x: Float[Array, 'B T D'],
  *,
  config: ModelConfig,
  positions: Positions | None,
  context: Context | None = None,
) -> BlockOutput:
  """Run a block in which each token sees itself and a context."""
  alone = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
  return Block(config).apply(
    {'params': params},
    x,
    positions=positions,
    segment_ids=alone,
    context=context,
  )  # type: ignore[return-value]


def _choose(
  own: Bool[Array, 'B T'],
  these: Float[Array, 'B K T H'],
  others: Float[Array, 'B K T H'],
) -> Float[Array, 'B K T H']:
  return jnp.where(own[:, None, :, None], these, others)


def _kept(output: BlockOutput) -> tuple[jax.Array, jax.Array]:
  assert output.keys is not None and output.values is not None
  return output.keys, output.values


def _visible(
  segment_ids: Int[Array, 'B T'], window: Int[Array, ''] | None
) -> Bool[Array, 'B T T']:
  """Return which earlier tokens each token sees: not itself."""
  place = jnp.arange(segment_ids.shape[1])
  distance = place[:, None] - place[None, :]
  inside = distance > 0
  if window is not None:
    inside = inside & (distance < window)
  same = segment_ids[:, :, None] == segment_ids[:, None, :]
  return inside[None] & same
