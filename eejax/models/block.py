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
"""One transformer block: the one forward that every caller shares.

Training and prefill scan it over stacked parameters, a pipeline maps it over
stages, decoding calls it block by block on parameters unstacked once.
"""

import functools

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from eejax.axes import constrain
from eejax.config import ModelConfig, Residual
from eejax.config.block_scales import BlockScales
from eejax.models.experts import RoutedMLP
from eejax.models.layers import (
  MLP,
  Attention,
  Norm,
  Projections,
  apply_norm,
  scaled,
)
from eejax.models.state_space import RecurrentContext, StateSpaceMixer
from eejax.ops.attention import AttentionImplementation, Context
from eejax.ops.quant import Quantization
from eejax.ops.recurrent_state import RecurrentState
from eejax.ops.rotary import Positions
from eejax.ops.routing import Routing
from eejax.types import Array, DTypeLike, Float, Int, Params

__all__ = ['Block', 'BlockOutput', 'Context', 'RecurrentContext', 'Projections']

_STREAM = ('B', 'T', 'D')


@flax.struct.dataclass
class BlockOutput:
  """Outputs of a block for its tokens.

  Invariant: `hidden` = `mlp_residual` + `mlp_branch`(`mlp_input`), so an MLP
  exit is a twin of that branch. `mlp_input` is `mlp_input_of` the stream that
  the model's kind of residual names. Without an MLP both are `hidden` and
  nothing is added.

  What later tokens need of these is keys and values, where the block attends,
  and a state, where it is recurrent; a hybrid block leaves both.

  Attributes:
    hidden: the residual stream after the block.
    mlp_residual: what the MLP's branch is added to (r): the stream after
      attention.
    mlp_input: what the MLP reads (u).
    keys: new keys, rotary positions applied; None without attention.
    values: new values, likewise.
    state: of a recurrent block, as its continuation asks; None without one.
    routing: experts of the tokens; None where the MLP is dense.
  """

  hidden: Float[Array, 'B T D']
  mlp_residual: Float[Array, 'B T D']
  mlp_input: Float[Array, 'B T D']
  keys: Float[Array, 'B K T H'] | None = None
  values: Float[Array, 'B K T H'] | None = None
  state: RecurrentState | None = None
  routing: Routing | None = None


class Block(nn.Module):
  """Add what mixes tokens, then what the MLP makes of the residual stream.

  Tokens are mixed by attention, by a state-space mixer, or by both of the
  same input. Where norms stand, what the MLP reads and what is scaled is the
  config's.
  """

  config: ModelConfig
  implementation: AttentionImplementation = AttentionImplementation.XLA
  projections: Projections = Projections.SEPARATE
  param_dtype: DTypeLike = jnp.float32
  kv_quantization: Quantization = Quantization.NONE

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B T D'],
    *,
    positions: Positions | None,
    segment_ids: Int[Array, 'B T'] | None = None,
    window: int | Int[Array, ''] | None = None,
    context: Context | None = None,
    continuation: RecurrentContext | None = None,
  ) -> BlockOutput:
    """Run the block over `x`; its dtype is the compute dtype.

    Args:
      x: the residual stream.
      positions: position of each token in its own text, or its rotation;
        None in a block that is told none.
      segment_ids: tokens attend only within equal ids.
      window: sliding window, in tokens; None attends to everything earlier.
      context: earlier keys and values these tokens may read.
      continuation: the state of a recurrent block before these tokens.
    """
    c, dtype = self.config, self.param_dtype
    placement = c.norm_placement
    read, mixed, keys, values, state = x, [], None, None, None
    scales = c.scales or BlockScales()
    if placement.has_before:
      read = Norm(c, dtype, name=first_norm(c))(x)
    if c.state_space is not None:
      mixer = StateSpaceMixer(c, self.projections, dtype, name='mixer')
      recalled, state = mixer(
        scaled(read, scales.mixer_input),
        segment_ids=segment_ids,
        continuation=continuation,
      )
      mixed.append(scaled(recalled, scales.mixer_output))
    if c.has_attention:
      attended, keys, values = Attention(
        c,
        self.implementation,
        self.projections,
        dtype,
        self.kv_quantization,
        name='attention',
      )(
        scaled(read, scales.attention_input),
        positions=positions,
        segment_ids=segment_ids,
        window=window,
        context=context,
      )
      if placement.has_after:
        attended = Norm(c, dtype, name='attention_post_norm')(attended)
      mixed.append(scaled(attended, scales.attention_output))
    added = functools.reduce(jnp.add, mixed)
    residual = constrain(x + scaled(added, c.residual_scale), _STREAM)
    if not c.has_mlp:
      return BlockOutput(residual, residual, residual, keys, values, state)
    mlp_input = x if c.residual is Residual.PARALLEL else residual
    if placement.has_before:
      mlp_input = Norm(c, dtype, name='mlp_norm')(mlp_input)
    added, routing = mlp_branch(mlp_input, c, self.projections, dtype)
    return BlockOutput(
      hidden=constrain(residual + added, _STREAM),
      mlp_residual=residual,
      mlp_input=mlp_input,
      keys=keys,
      values=values,
      routing=routing,
      state=state,
    )


def first_norm(config: ModelConfig) -> str:
  """Return the name of the norm of what mixes tokens."""
  return 'attention_norm' if config.has_attention else 'mixer_norm'


def mlp_branch(
  mlp_input: Float[Array, 'B T D'],
  config: ModelConfig,
  projections: Projections,
  param_dtype: DTypeLike,
) -> tuple[Float[Array, 'B T D'], Routing | None]:
  """Return what an MLP adds to the stream, and where it sent tokens.

  Call it within a Linen module.

  Args:
    mlp_input: what the MLP reads (u).
    config: the model.
    projections: how the MLP's are stored.
    param_dtype: of its parameters.
  """
  routing = None
  if config.experts is None:
    added = MLP(config, projections, param_dtype, name='mlp')(mlp_input)
  else:
    routed = RoutedMLP(config, projections, param_dtype, name='mlp')
    added, routing = routed(mlp_input)
  if config.norm_placement.has_after:
    added = Norm(config, param_dtype, name='mlp_post_norm')(added)
  return scaled(added, config.residual_scale), routing


def mlp_input_of(
  block: Params, stream: Float[Array, 'B T D'], *, config: ModelConfig
) -> Float[Array, 'B T D']:
  """Return what a block's MLP reads (u), computed anew.

  Args:
    block: the block's parameters; its `mlp_norm` is all that is read.
    stream: the stream after the block's attention, or before the block where
      residuals are parallel.
    config: the model.
  """
  if not config.norm_placement.has_before:
    return stream
  return apply_norm(block['mlp_norm'], stream, config=config)
