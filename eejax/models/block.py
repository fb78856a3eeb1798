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

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from eejax.axes import constrain
from eejax.config import ModelConfig
from eejax.models.layers import Attention, GatedMLP, Projections, RMSNorm
from eejax.ops.attention import AttentionImplementation, Context
from eejax.ops.quant import Quantization
from eejax.ops.rotary import Positions
from eejax.types import Array, DTypeLike, Float, Int

__all__ = ['Block', 'BlockOutput', 'Context', 'Projections']


@flax.struct.dataclass
class BlockOutput:
  """Outputs of a block for its tokens.

  Invariant: `hidden` = `mlp_residual` + MLP(`mlp_input`), and `mlp_input` =
  norm(`mlp_residual`); an MLP exit is a twin of that MLP.

  Attributes:
    hidden: the residual stream after the block.
    mlp_residual: the stream after attention (r).
    mlp_input: the normalised stream the MLP reads (u).
    keys: new keys, rotary positions applied.
    values: new values.
  """

  hidden: Float[Array, 'B T D']
  mlp_residual: Float[Array, 'B T D']
  mlp_input: Float[Array, 'B T D']
  keys: Float[Array, 'B K T H']
  values: Float[Array, 'B K T H']


class Block(nn.Module):
  """Apply pre-normalised attention, then a pre-normalised gated MLP."""

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
    positions: Positions,
    segment_ids: Int[Array, 'B T'] | None = None,
    window: int | Int[Array, ''] | None = None,
    context: Context | None = None,
  ) -> BlockOutput:
    """Run the block over `x`; its dtype is the compute dtype.

    Args:
      x: the residual stream.
      positions: position of each token in its own text, or its rotation.
      segment_ids: tokens attend only within equal ids.
      window: sliding window, in tokens; None attends to everything earlier.
      context: earlier keys and values these tokens may read.
    """
    c, dtype = self.config, self.param_dtype
    attended, keys, values = Attention(
      c,
      self.implementation,
      self.projections,
      dtype,
      self.kv_quantization,
      name='attention',
    )(
      RMSNorm(c.norm_epsilon, dtype, name='attention_norm')(x),
      positions=positions,
      segment_ids=segment_ids,
      window=window,
      context=context,
    )
    residual = constrain(x + attended, ('B', 'T', 'D'))
    mlp_input = RMSNorm(c.norm_epsilon, dtype, name='mlp_norm')(residual)
    mlp = GatedMLP(c, self.projections, dtype, name='mlp')
    return BlockOutput(
      hidden=constrain(residual + mlp(mlp_input), ('B', 'T', 'D')),
      mlp_residual=residual,
      mlp_input=mlp_input,
      keys=keys,
      values=values,
    )
