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
"""Root-mean-square normalisation."""

import jax
import jax.numpy as jnp

from eejax.types import Array, Float


def rms_norm(
  x: Float[Array, '*batch D'], *, scale: Float[Array, 'D'], epsilon: float
) -> Float[Array, '*batch D']:
  """Divide by the root mean square and scale, in float32 inside.

  Args:
    x: values; the last dimension is normalised.
    scale: learned gain.
    epsilon: added to the mean square, > 0.

  Reference:
    Zhang and Sennrich (2019), Root Mean Square Layer Normalization, eq. 4.
  """
  wide = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
  normed = (wide * jax.lax.rsqrt(mean_square + epsilon)).astype(x.dtype)
  gain = scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
  return normed * gain
