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
"""Linen layers a block is made of."""

import enum
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from eejax.axes import constrain
from eejax.config import ModelConfig
from eejax.ops.attention import AttentionImplementation, Context, attention
from eejax.ops.norm import rms_norm
from eejax.ops.quant import Quantization, kernel_product, round_rows
from eejax.ops.rotary import Positions, rotate
from eejax.types import Array, DTypeLike, Float, Int

INIT_STD = 0.02


class Projections(enum.Enum):
  """How a block's input projections are stored.

  SEPARATE: query, key, value, gate and up each have a kernel (training, disk).
  FUSED: one kernel for query, key and value, one for gate and up; a tenth
  faster to decode with, see `eejax.models.stacking.fuse`.
  """

  SEPARATE = 'separate'
  FUSED = 'fused'


class RMSNorm(nn.Module):
  """Normalise by the root mean square, with a learned gain."""

  epsilon: float
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*batch D']) -> Float[Array, '*batch D']:
    """Return `x` normalised over its last dimension."""
    scale = self.param(
      'scale', nn.initializers.ones_init(), (x.shape[-1],), self.param_dtype
    )
    return rms_norm(x, scale=scale, epsilon=self.epsilon)


class Projection(nn.Module):
  """Multiply the trailing `num_inputs` dimensions by a kernel.

  A kernel may have been quantised since, see `eejax.models.quantized`.

  Attributes:
    features: trailing dimensions of the result.
    num_inputs: trailing dimensions of the argument that are summed over.
    bias: whether a bias of shape `features` is added.
    std: standard deviation of the initial kernel.
  """

  features: Sequence[int]
  num_inputs: int = 1
  bias: bool = False
  std: float = INIT_STD
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
    """Return the product, in the dtype of `x`."""
    inputs = x.shape[-self.num_inputs :]
    kernel = self.param(
      'kernel',
      nn.initializers.normal(self.std),
      (*inputs, *self.features),
      self.param_dtype,
    )
    y = kernel_product(x, kernel, num_inputs=self.num_inputs)
    if self.bias:
      bias = self.param(
        'bias',
        nn.initializers.zeros_init(),
        tuple(self.features),
        self.param_dtype,
      )
      y = y + jnp.expand_dims(
        bias.astype(x.dtype), tuple(range(y.ndim - bias.ndim))
      )
    return y


class Attention(nn.Module):
  """Project, rotate, attend, project back.

  Keys and values are rounded to what a cache will hold before any token reads
  them, so that texts do not depend on which tokens ran together.
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
    positions: Positions,
    segment_ids: Int[Array, 'B T'] | None = None,
    window: int | Int[Array, ''] | None = None,
    context: Context | None = None,
  ) -> tuple[
    Float[Array, 'B T D'], Float[Array, 'B K T H'], Float[Array, 'B K T H']
  ]:
    """Return the mixed values, and the keys and values of these tokens."""
    c = self.config
    # All of T comes together before matrices that are cut along their heads.
    query, key, value = self._project(constrain(x, ('B', None, 'D')))
    if c.qk_norm:
      norm = lambda name: RMSNorm(c.norm_epsilon, self.param_dtype, name=name)
      query, key = norm('query_norm')(query), norm('key_norm')(key)
    query = rotate(query, positions=positions, config=c.rotary)
    key = rotate(key, positions=positions, config=c.rotary)
    # Heads are cut, not T: every query reads all keys of its head.
    query = constrain(query, ('B', None, 'N', 'H'))
    key = constrain(key, ('B', None, 'K', 'H'))
    value = constrain(value, ('B', None, 'K', 'H'))
    keys = round_rows(jnp.moveaxis(key, 2, 1), self.kv_quantization)
    values = round_rows(jnp.moveaxis(value, 2, 1), self.kv_quantization)
    mixed = attention(
      query,
      keys=keys,
      values=values,
      segment_ids=segment_ids,
      window=window,
      context=context,
      implementation=self.implementation,
    )
    output = Projection(
      (c.embed_dim,),
      num_inputs=2,
      bias=c.output_bias,
      std=INIT_STD / (2 * c.num_layers) ** 0.5,
      param_dtype=self.param_dtype,
      name='output',
    )
    return output(mixed), keys, values

  def _project(
    self, x: Float[Array, 'B T D']
  ) -> tuple[
    Float[Array, 'B T N H'], Float[Array, 'B T K H'], Float[Array, 'B T K H']
  ]:
    c = self.config
    heads, kv_heads = c.num_heads, c.num_kv_heads

    def project(name: str, count: int) -> jax.Array:
      return Projection(
        (count, c.head_dim),
        bias=c.qkv_bias,
        param_dtype=self.param_dtype,
        name=name,
      )(x)

    if self.projections is Projections.FUSED:
      fused = project('qkv', heads + 2 * kv_heads)
      return (
        fused[:, :, :heads],
        fused[:, :, heads : heads + kv_heads],
        fused[:, :, heads + kv_heads :],
      )
    return (
      project('query', heads),
      project('key', kv_heads),
      project('value', kv_heads),
    )


class GatedMLP(nn.Module):
  """Apply down(silu(gate(x)) * up(x)), the SwiGLU feed-forward.

  Reference:
    Shazeer (2020), GLU Variants Improve Transformer, eq. 6.
  """

  config: ModelConfig
  projections: Projections = Projections.SEPARATE
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, 'B T D']) -> Float[Array, 'B T D']:
    """Return the feed-forward of normalised activations."""
    c = self.config
    x = constrain(x, ('B', None, 'D'))

    def project(name: str, *features: int) -> Projection:
      return Projection(
        features, bias=c.mlp_bias, param_dtype=self.param_dtype, name=name
      )

    if self.projections is Projections.FUSED:
      both = project('gate_up', 2, c.mlp_dim)(x)
      gate, up = both[:, :, 0], both[:, :, 1]
    else:
      gate, up = project('gate', c.mlp_dim)(x), project('up', c.mlp_dim)(x)
    down = Projection(
      (c.embed_dim,),
      bias=c.mlp_bias,
      std=INIT_STD / (2 * c.num_layers) ** 0.5,
      param_dtype=self.param_dtype,
      name='down',
    )
    inner = constrain(jax.nn.silu(gate) * up, ('B', None, 'F'))
    return down(inner)
