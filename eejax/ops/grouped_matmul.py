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
"""Products of rows with the kernel of the group that each belongs to.

Accelerators have a kernel for it, `jax.lax.ragged_dot`. XLA for CPUs (jaxlib
0.10.2) multiplies every row with the kernels of all groups there: 623 ms for
115 with 2,048 rows, 8 groups and kernels of 576 x 1,536, two cores. So on a
CPU the groups are multiplied one after the other, a tile of rows at a time,
which takes 100 ms.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eejax.ops.matmul import multiply
from eejax.types import Array, Float, Int, Num

# Tiles have about half the rows of a group: the last of each is not full.
_LEAST_TILE, _LARGEST_TILE = 8, 128


@jax.custom_vjp
def grouped_product(
  x: Float[Array, 'M C'],
  kernels: Num[Array, 'X C F'],
  sizes: Int[Array, 'X'],
) -> Float[Array, 'M F']:
  """Return each row's product with its group's kernel, in the dtype of `x`.

  Args:
    x: rows, those of a group beside one another.
    kernels: of the groups; converted to the dtype of `x`. Integers have no
      derivative.
    sizes: rows of each group, in the order of the groups; rows beyond their
      sum are in none and get zeros.
  """
  y = lax.platform_dependent(
    x, kernels, sizes, cpu=_product_by_tiles, default=_product_at_once
  )
  is_in_group = jnp.arange(x.shape[0]) < jnp.sum(sizes)
  return jnp.where(is_in_group[:, None], y, 0)


def _forward(x, kernels, sizes):
  return grouped_product(x, kernels, sizes), (x, kernels, sizes)


def _backward(saved, d_y):
  x, kernels, sizes = saved
  turned = jnp.swapaxes(kernels, 1, 2)
  d_x = grouped_product(d_y, turned, sizes).astype(x.dtype)
  d_sizes = np.zeros(sizes.shape, jax.dtypes.float0)
  if not jnp.issubdtype(kernels.dtype, jnp.floating):
    return d_x, np.zeros(kernels.shape, jax.dtypes.float0), d_sizes
  d_kernels = lax.platform_dependent(
    x, d_y, sizes, cpu=_kernels_by_tiles, default=_kernels_at_once
  )
  return d_x, d_kernels.astype(kernels.dtype), d_sizes


grouped_product.defvjp(_forward, _backward)


def _product_at_once(x, kernels, sizes):
  return lax.ragged_dot(x, kernels.astype(x.dtype), sizes)


def _kernels_at_once(x, d_y, sizes):
  shape = (sizes.shape[0], x.shape[1], d_y.shape[1])
  product = lambda kernels: lax.ragged_dot(x, kernels, sizes)
  _, pull = jax.vjp(product, jnp.zeros(shape, x.dtype))
  return pull(d_y)[0]


def _product_by_tiles(x, kernels, sizes):
  rows = x.shape[0]
  tile = _tile_size(rows, sizes.shape[0])
  padded = jnp.pad(x, ((0, tile), (0, 0)))
  starts = jnp.cumsum(sizes) - sizes

  def one(number, at, y):
    some = lax.dynamic_slice_in_dim(padded, at, tile)
    kernel = kernels[number].astype(x.dtype)
    # Rows of the next group are written over by that group's own tiles.
    return lax.dynamic_update_slice_in_dim(
      y, multiply(some, kernel.T, dtype=x.dtype), at, axis=0
    )

  y = jnp.zeros((rows + tile, kernels.shape[2]), x.dtype)
  return _over_tiles(one, y, starts, sizes, tile)[:rows]


def _kernels_by_tiles(x, d_y, sizes):
  num, tile = sizes.shape[0], _tile_size(x.shape[0], sizes.shape[0])
  pad = functools.partial(jnp.pad, pad_width=((0, tile), (0, 0)))
  x, d_y, starts = pad(x), pad(d_y), jnp.cumsum(sizes) - sizes

  def one(number, at, total):
    is_own = at + jnp.arange(tile) < starts[number] + sizes[number]
    inputs = lax.dynamic_slice_in_dim(x, at, tile)
    outputs = lax.dynamic_slice_in_dim(d_y, at, tile)
    outputs = jnp.where(is_own[:, None], outputs, 0)
    added = jnp.einsum(
      'MC,MF->CF', inputs, outputs, preferred_element_type=jnp.float32
    )
    return total.at[number].add(added)

  zeros = jnp.zeros((num, x.shape[1], d_y.shape[1]), jnp.float32)
  return _over_tiles(one, zeros, starts, sizes, tile)


def _over_tiles(one, value, starts, sizes, tile: int):
  """Return what `one(group, first row, value)` makes of a value by tiles."""

  def group(number, value):
    add = lambda i, value: one(number, starts[number] + i * tile, value)
    return lax.fori_loop(0, -(-sizes[number] // tile), add, value)

  return lax.fori_loop(0, sizes.shape[0], group, value)


def _tile_size(rows: int, groups: int) -> int:
  half = max(1, rows // (2 * groups))
  nearest = 2 ** math.ceil(math.log2(half))
  return min(max(nearest, _LEAST_TILE), _LARGEST_TILE)
