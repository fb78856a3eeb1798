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
"""Normalisation over the last dimension."""

import jax
import jax.numpy as jnp

from eejax.types import Array, Float


def rms_norm(
  x: Float[Array, '*batch D'],
  *,
  scale: Float[Array, 'D'],
  epsilon: float,
  offset: float = 0.0,
) -> Float[Array, '*batch D']:
  """Divide by the root mean square and scale, in float32 inside.

  Args:
    x: values; the last dimension is normalised.
    scale: learned gain.
    epsilon: added to the mean square, > 0.
    offset: added to the gain.

  Reference:
    Zhang and Sennrich (2019), Root Mean Square Layer Normalization, eq. 4.
  """
  wide = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = wide * jax.lax.rsqrt(mean_square + epsilon)
  if offset:
    # Added in float32: a small gain would be lost beside a 1 in bfloat16.
    gain = scale.astype(jnp.float32) + offset
    return (normed * gain.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)
  normed = normed.astype(x.dtype)
  gain = scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
  return normed * gain


def layer_norm(
  x: Float[Array, '*batch D'],
  *,
  scale: Float[Array, 'D'],
  bias: Float[Array, 'D'],
  epsilon: float,
) -> Float[Array, '*batch D']:
  """Subtract the mean, divide by the deviation, scale and shift.

  Args:
    x: values; the last dimension is normalised, in float32 inside.
    scale: learned gain.
    bias: learned shift.
    epsilon: added to the variance, > 0.

  Reference:
    Ba et al. (2016), Layer Normalization, eq. 3.
  """
  wide = x.astype(jnp.float32)
  centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
  normed = centred * jax.lax.rsqrt(variance + epsilon)
  shape = (1,) * (x.ndim - 1) + (-1,)
  gain, shift = (v.astype(jnp.float32).reshape(shape) for v in (scale, bias))
  return (normed * gain + shift).astype(x.dtype)
