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
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from eejax.axes import constrain
from eejax.config import ModelConfig
from eejax.models.layers import (
  ACTIVATIONS,
  INIT_STD,
  MLP,
  Projection,
  Projections,
)
from eejax.ops.grouped_matmul import grouped_product
from eejax.ops.matmul import KernelsApart, OpaqueKernel
from eejax.ops.quant import Quantized, kernel_product
from eejax.ops.routing import Routing, route
from eejax.types import Array, DTypeLike, Float, Int, PyTree

# Rows that an expert whose kernels are arrays of their own gets at once.
_TILE = 32


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
    y = experts_output(
      x.reshape(-1, x.shape[-1]),
      experts=routing.experts.reshape(-1, experts.top_k),
      weights=routing.weights.reshape(-1, experts.top_k),
      kernels=kernels,
      activate=ACTIVATIONS[c.activation],
    ).reshape(x.shape)
    if experts.shared_dim is not None:
      y = y + self._shared(x, experts.shared_dim)
    return y, routing

  def _shared(self, x: Float[Array, 'B T D'], dim: int) -> Float[Array, '...']:
    config = dataclasses.replace(self.config, mlp_dim=dim, experts=None)
    mlp = MLP(config, self.projections, self.param_dtype, name='shared')
    gate = Projection((1,), param_dtype=self.param_dtype, name='shared_gate')
    return jax.nn.sigmoid(gate(x)) * mlp(x)


class Experts(nn.Module):
  """Hold the kernels of all experts, those of a projection in one stack."""

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
  """Hold the kernels of one projection."""

  shape: tuple[int, ...]
  std: float
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self) -> PyTree:
    """Return them: an array, int8, or apart."""
    init = nn.initializers.normal(self.std)
    kernels = self.param('kernel', init, self.shape, self.param_dtype)
    return kernels.kernel if isinstance(kernels, OpaqueKernel) else kernels


def experts_output(
  rows: Float[Array, 'M D'],
  *,
  experts: Int[Array, 'M J'],
  weights: Float[Array, 'M J'],
  kernels: dict[str, PyTree],
  activate: Callable[[jax.Array], jax.Array],
) -> Float[Array, 'M D']:
  """Return the weighted sum of what each row's experts make of it.

  Args:
    rows: normalised activations.
    experts: of each row.
    weights: of those.
    kernels: of all experts, by the names of an MLP's projections; arrays of
      their own suit few rows, as decoding has them, and have no derivative.
    activate: the experts' nonlinearity.
  """
  num = kernels['down'].shape[0]
  order = jnp.argsort(experts.reshape(-1), stable=True)
  sizes = jnp.bincount(experts.reshape(-1), length=num)
  if isinstance(kernels['down'], KernelsApart):
    y = _one_after_another(
      rows, order, sizes, weights, kernels=kernels, activate=activate
    )
  else:
    y = _in_groups(
      rows, order, sizes, weights, kernels=kernels, activate=activate
    )
  return y.astype(rows.dtype)


def _in_groups(
  rows, order, sizes, weights, *, kernels, activate
) -> Float[Array, 'M D']:
  """Multiply all rows, sorted by their experts."""
  sent = rows[order // weights.shape[1]]
  product = lambda x, name: _grouped(x, kernels[name], sizes)
  if 'gate_up' in kernels:
    both = product(sent, 'gate_up')
    gate, up = both[:, 0], both[:, 1]
  else:
    gate, up = product(sent, 'gate'), product(sent, 'up')
  y = product(activate(gate) * up, 'down')
  back = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0]))
  return jnp.einsum(
    'MJD,MJ->MD',
    y[back].reshape(*weights.shape, -1),
    weights,
    preferred_element_type=jnp.float32,
  )


def _grouped(
  x: Float[Array, 'M C'], kernels: PyTree, sizes: Int[Array, 'X']
) -> Float[Array, 'M ...']:
  is_quantized = isinstance(kernels, Quantized)
  values = kernels.values if is_quantized else kernels
  num, inputs, *outputs = values.shape
  y = grouped_product(x, values.reshape(num, inputs, -1), sizes)
  if is_quantized:
    group = jnp.repeat(jnp.arange(num), sizes, total_repeat_length=x.shape[0])
    y = (y * kernels.scale.reshape(num, -1)[group]).astype(x.dtype)
  return y.reshape(-1, *outputs)


def _one_after_another(
  rows, order, sizes, weights, *, kernels, activate
) -> Float[Array, 'M D']:
  """Multiply the rows of each expert that has some, a tile at a time."""
  choices, num = weights.shape[1], len(kernels['down'].kernels)
  tile = min(rows.shape[0], _TILE)
  tiles = -(-sizes // tile)
  last = jnp.cumsum(tiles)
  starts = jnp.cumsum(sizes) - sizes
  padded = jnp.pad(order, (0, tile))
  branches = [
    lambda x, i=i: _expert(
      x, {n: k.kernels[i] for n, k in kernels.items()}, activate
    )
    for i in range(num)
  ]

  def add(number, total):
    expert = jnp.searchsorted(last, number, side='right')
    within = number - (last[expert] - tiles[expert])
    at = starts[expert] + within * tile
    sent = lax.dynamic_slice_in_dim(padded, at, tile)
    is_own = at + jnp.arange(tile) < starts[expert] + sizes[expert]
    row = sent // choices
    y = lax.switch(expert, branches, rows[row]).astype(jnp.float32)
    weight = weights.reshape(-1)[sent][:, None]
    return total.at[row].add(jnp.where(is_own[:, None], weight * y, 0))

  zeros = jnp.zeros(rows.shape, jnp.float32)
  return lax.fori_loop(0, last[-1], add, zeros)


def _expert(x, kernels, activate) -> Float[Array, 'M D']:
  both = kernel_product(x, kernels['gate_up'])
  return kernel_product(activate(both[:, 0]) * both[:, 1], kernels['down'])
