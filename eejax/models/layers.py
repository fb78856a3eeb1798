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
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from eejax.axes import constrain
from eejax.config import (
  Activation,
  MLPKind,
  ModelConfig,
  NormKind,
  PositionKind,
  QKNormSpan,
)
from eejax.config.block_scales import BlockScales
from eejax.ops.attention import AttentionImplementation, Context, attention
from eejax.ops.norm import layer_norm, rms_norm
from eejax.ops.quant import Quantization, kernel_product, round_rows
from eejax.ops.rotary import Positions, rotate
from eejax.types import Array, DTypeLike, Float, Int, Params

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


class Norm(nn.Module):
  """Normalise the stream as the model does; see `apply_norm`."""

  config: ModelConfig
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '*batch D']) -> Float[Array, '*batch D']:
    """Return `x` normalised over its last dimension."""
    c, shape = self.config, (x.shape[-1],)
    gain = nn.initializers.constant(1.0 - c.norm_gain_offset)
    params = {'scale': self.param('scale', gain, shape, self.param_dtype)}
    if c.norm is NormKind.LAYER:
      zeros = nn.initializers.zeros_init()
      params['bias'] = self.param('bias', zeros, shape, self.param_dtype)
    return apply_norm(params, x, config=c)


def apply_norm(
  params: Params, x: Float[Array, '*batch D'], *, config: ModelConfig
) -> Float[Array, '*batch D']:
  """Normalise over the last dimension, as all norms of a model do.

  Args:
    params: the gain `scale`, and the `bias` of a LayerNorm.
    x: values.
    config: the model.
  """
  scale, epsilon = params['scale'], config.norm_epsilon
  if config.norm is NormKind.LAYER:
    return layer_norm(x, scale=scale, bias=params['bias'], epsilon=epsilon)
  offset = config.norm_gain_offset
  return rms_norm(x, scale=scale, epsilon=epsilon, offset=offset)


class HeadNorm(nn.Module):
  """Normalise queries or keys, over what `QKNormSpan` says."""

  config: ModelConfig
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, heads: Float[Array, 'B T N H']) -> Float[Array, 'B T N H']:
    """Return the heads normalised."""
    c = self.config
    width = heads.shape[-1]
    if c.qk_norm_span is QKNormSpan.ALL_HEADS:
      width *= heads.shape[-2]
    gain = nn.initializers.constant(1.0 - c.norm_gain_offset)
    scale = self.param('scale', gain, (width,), self.param_dtype)
    return normed_heads({'scale': scale}, heads, config=c)


def normed_heads(
  params: Params, heads: Float[Array, 'B T N H'], *, config: ModelConfig
) -> Float[Array, 'B T N H']:
  """Normalise queries or keys by their root mean square.

  Args:
    params: the gain `scale`, [H] or [N H].
    heads: queries or keys.
    config: the model.
  """
  x = heads
  if config.qk_norm_span is QKNormSpan.ALL_HEADS:
    x = heads.reshape(*heads.shape[:2], -1)
  normed = rms_norm(
    x,
    scale=params['scale'],
    epsilon=config.norm_epsilon,
    offset=config.norm_gain_offset,
  )
  return normed.reshape(heads.shape)


def scaled(x: Float[Array, '...'], factor: float) -> Float[Array, '...']:
  """Return `x` times a factor of the model, in the dtype of `x`."""
  return x if factor == 1 else x * jnp.asarray(factor, x.dtype)


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
    positions: Positions | None,
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
      query = HeadNorm(c, self.param_dtype, name='query_norm')(query)
      key = HeadNorm(c, self.param_dtype, name='key_norm')(key)
    if c.positions is PositionKind.ROTARY and positions is not None:
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
      scale=c.query_scale,
      softcap=c.attention_softcap,
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


ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
  Activation.SILU: jax.nn.silu,
  Activation.GELU: functools.partial(jax.nn.gelu, approximate=False),
  Activation.GELU_TANH: functools.partial(jax.nn.gelu, approximate=True),
  Activation.RELU: jax.nn.relu,
}


class MLP(nn.Module):
  """Apply the feed-forward; see `eejax.config.MLPKind` for the two forms.

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
    activate, scales = ACTIVATIONS[c.activation], c.scales or BlockScales()
    if c.mlp is MLPKind.PLAIN:
      inner = activate(self._project('up', c.mlp_dim)(x))
    else:
      gate, up = self._gate_and_up(x)
      inner = activate(scaled(gate, scales.mlp_gate)) * up
    down = Projection(
      (c.embed_dim,),
      bias=c.mlp_bias,
      std=INIT_STD / (2 * c.num_layers) ** 0.5,
      param_dtype=self.param_dtype,
      name='down',
    )
    added = down(constrain(inner, ('B', None, 'F')))
    return scaled(added, scales.mlp_output)

  def _gate_and_up(
    self, x: Float[Array, 'B T D']
  ) -> tuple[Float[Array, 'B T F'], Float[Array, 'B T F']]:
    width = self.config.mlp_dim
    if self.projections is Projections.FUSED:
      both = self._project('gate_up', 2, width)(x)
      return both[:, :, 0], both[:, :, 1]
    return self._project('gate', width)(x), self._project('up', width)(x)

  def _project(self, name: str, *features: int) -> Projection:
    return Projection(
      features,
      bias=self.config.mlp_bias,
      param_dtype=self.param_dtype,
      name=name,
    )
