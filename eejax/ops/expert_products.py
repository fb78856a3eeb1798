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
"""What experts make of the rows that are sent to them.

Rows are sorted by their experts, and none is dropped, however many are sent
to one of them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from eejax.ops.grouped_matmul import grouped_product
from eejax.ops.matmul import KernelsApart
from eejax.ops.quant import Quantized, kernel_product
from eejax.types import Array, Float, Int, PyTree

# Rows that an expert whose kernels are arrays of their own gets at once.
_TILE = 32

Activate = Callable[[jax.Array], jax.Array]
Kernels = dict[str, PyTree]


def experts_output(
  rows: Float[Array, 'M D'],
  *,
  experts: Int[Array, 'M J'],
  weights: Float[Array, 'M J'],
  kernels: Kernels,
  activate: Activate,
) -> Float[Array, 'M D']:
  """Return the weighted sum of what each row's experts make of it, float32.

  Args:
    rows: normalised activations.
    experts: of each row; a number beyond all kernels is that of none.
    weights: of those.
    kernels: of all experts, by the names of an MLP's projections; arrays of
      their own suit few rows, as decoding has them, and have no derivative.
    activate: the experts' nonlinearity.
  """
  num = kernels['down'].shape[0]
  order = jnp.argsort(experts.reshape(-1), stable=True)
  sizes = jnp.bincount(experts.reshape(-1), length=num)
  if isinstance(kernels['down'], KernelsApart):
    return _one_after_another(
      rows, order, sizes, weights, kernels=kernels, activate=activate
    )
  return _in_groups(
    rows, order, sizes, weights, kernels=kernels, activate=activate
  )


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
    expert = jnp.sum(last <= number)
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
  if 'gate_up' in kernels:
    both = kernel_product(x, kernels['gate_up'])
    gate, up = both[:, 0], both[:, 1]
  else:
    gate, up = (kernel_product(x, kernels[name]) for name in ('gate', 'up'))
  return kernel_product(activate(gate) * up, kernels['down'])
