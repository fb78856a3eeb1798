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
"""An MLP made of experts, of which each token passes a few.

No token is dropped, however many are sent to one expert: what a token gets
depends on no other token.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from eejax.axes import constrain
from eejax.config import ModelConfig
from eejax.models.expert_parallel import experts_on_mesh
from eejax.models.layers import (
  ACTIVATIONS,
  INIT_STD,
  MLP,
  Projection,
  Projections,
)
from eejax.ops.matmul import OpaqueKernel
from eejax.ops.routing import Routing, route
from eejax.types import Array, DTypeLike, Float, PyTree


class RoutedMLP(nn.Module):
  """Add up what a token's experts make of it, each by its weight.

  Reference:
    Shazeer et al. 2017 (arXiv 1701.06538), eq. 1; Mixtral (arXiv 2401.04088),
    section 2.1. The shared expert and its gate are Qwen2-MoE's.
  """

  config: ModelConfig
  projections: Projections = Projections.SEPARATE
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B T D']
  ) -> tuple[Float[Array, 'B T D'], Routing]:
    """Return the sums for normalised activations, and the experts taken."""
    c, experts = self.config, self.config.experts
    assert experts is not None
    x = constrain(x, ('B', None, 'D'))
    router = Projection(
      (experts.num_experts,), param_dtype=self.param_dtype, name='router'
    )
    routing = route(
      router(x.astype(jnp.float32)),
      top_k=experts.top_k,
      renormalized=experts.renormalized,
    )
    kernels = Experts(c, self.projections, self.param_dtype, name='experts')()
    y = experts_on_mesh(
      x, routing, kernels=kernels, activate=ACTIVATIONS[c.activation]
    )
    if experts.shared_dim is not None:
      y = y + self._shared(x, experts.shared_dim)
    return y, routing

  def _shared(self, x: Float[Array, 'B T D'], dim: int) -> Float[Array, '...']:
    config = dataclasses.replace(self.config, mlp_dim=dim, experts=None)
    mlp = MLP(config, self.projections, self.param_dtype, name='shared')
    gate = Projection((1,), param_dtype=self.param_dtype, name='shared_gate')
    return jax.nn.sigmoid(gate(x)) * mlp(x)


class Experts(nn.Module):
  """Make the kernels of all experts, those of a projection in one stack."""

  config: ModelConfig
  projections: Projections = Projections.SEPARATE
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self) -> dict[str, PyTree]:
    """Return the kernels, by the names of an MLP's projections."""
    c, experts = self.config, self.config.experts
    assert experts is not None
    d, f = c.embed_dim, experts.expert_dim
    shapes: dict[str, tuple[int, ...]] = {'gate': (d, f), 'up': (d, f)}
    if self.projections is Projections.FUSED:
      shapes = {'gate_up': (d, 2, f)}
    shapes['down'] = (f, d)
    down_std = INIT_STD / (2 * c.num_layers) ** 0.5
    return {
      name: ExpertKernels(
        (experts.num_experts, *shape),
        down_std if name == 'down' else INIT_STD,
        self.param_dtype,
        name=name,
      )()
      for name, shape in shapes.items()
    }


class ExpertKernels(nn.Module):
  """Make the kernels of one projection."""

  shape: tuple[int, ...]
  std: float
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self) -> PyTree:
    """Return them: an array, int8, or apart."""
    init = nn.initializers.normal(self.std)
    kernels = self.param('kernel', init, self.shape, self.param_dtype)
    return kernels.kernel if isinstance(kernels, OpaqueKernel) else kernels


def unused_values(config: ModelConfig) -> int:
  """Return how many numbers of a block's experts a token does not pass."""
  if config.experts is None:
    return 0
  num = config.experts.num_experts
  return config.experts.num_values(config.embed_dim, num=num) - (
    config.mlp_values
  )
