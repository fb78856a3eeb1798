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
"""Symmetric int8 numbers, and products with them that stay small in memory.

A number w is kept as an integer q in [-127, 127], and a group of numbers that
a product sums over shares one scale:

  s = max |w| / 127,   q = round(w / s),   |w - q s| <= s / 2.

Since the scale does not depend on what is summed over, it comes after the
product, x (q s) = (x q) s, and no array of q s is ever needed. The integers
are converted to the type of x, in which each of them is exact.

The CPU compiler puts every conversion into a buffer of its own, and several
of them beside one another, since they wait for nothing: a dequantised copy of
the model. So large operands are converted slice by slice, in a loop. Other
compilers convert where the product reads.
"""

import enum
import functools
import math
import typing
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.ops.matmul import (
  FlatKernel,
  OpaqueKernel,
  has_own_way,
  matrix_product,
  multiply,
  whole_rows,
)
from eejax.types import Array, DTypeLike, Float, Int, Num

LARGEST = 127

# Numbers that the CPU converts at once: few enough for its caches, and many
# enough that the loop costs nothing beside the product.
SLICE_SIZE = 2**19
# Operands of up to so many numbers are converted whole.
WHOLE_SIZE = 2**15

ROW_SCALE_DTYPE = jnp.bfloat16
# Up to so many queries, those of a window, keys are left as they lie.
_FEW_QUERIES = 32


class Quantization(enum.Enum):
  """How numbers are stored: as they are computed, or as int8 with scales."""

  NONE = 'none'
  INT8 = 'int8'


# Unchecked, for maps over trees fill it with what are no arrays.
@typing.no_type_check
@flax.struct.dataclass
class Quantized:
  """Numbers in int8 and their scales.

  Attributes:
    values: integers in [-127, 127], laid out as the numbers were.
    scale: shape of `values` without the dimensions that products sum over;
      0 where all numbers were.
  """

  values: Int[Array, '...']
  scale: Float[Array, '...']

  @property
  def shape(self) -> tuple[int, ...]:
    """Return the shape of the numbers."""
    return self.values.shape

  @property
  def nbytes(self) -> int:
    """Return the bytes of numbers and scales."""
    return self.values.nbytes + self.scale.nbytes


@functools.partial(jax.jit, static_argnames=('axes', 'scale_dtype'))
def quantize(
  x: Float[Array, '...'],
  *,
  axes: tuple[int, ...],
  scale_dtype: DTypeLike = jnp.float32,
) -> Quantized:
  """Return `x` as int8, one scale for each group along `axes`.

  A group of zeros has scale 0. One that is not finite has a scale that is
  not either, so that nothing hides it.

  Args:
    x: the numbers.
    axes: the dimensions that products sum over.
    scale_dtype: of the scales.
  """
  exact = x.astype(jnp.float32)
  peak = jnp.max(jnp.abs(exact), axis=axes, keepdims=True)
  scale = (peak / LARGEST).astype(scale_dtype)
  divisor = jnp.where(scale > 0, scale, 1).astype(jnp.float32)
  nearest = jnp.round(exact / divisor)
  return Quantized(
    values=jnp.clip(nearest, -LARGEST, LARGEST).astype(jnp.int8),
    scale=jnp.squeeze(scale, axis=axes),
  )


def dequantize(
  x: Quantized, *, axes: tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> Float[Array, '...']:
  """Return q s; `axes` as given to `quantize`."""
  scale = jnp.expand_dims(x.scale.astype(jnp.float32), axes)
  return (x.values.astype(jnp.float32) * scale).astype(dtype)


# MARK: Weights


def kernel_product(
  x: Float[Array, '...'],
  kernel: Float[Array, '...'] | Quantized | FlatKernel | OpaqueKernel,
  *,
  num_inputs: int = 1,
) -> Float[Array, '...']:
  """Multiply by a kernel, int8 or not, in the dtype of `x`.

  Args:
    x: its trailing dimensions are summed over.
    kernel: the same dimensions first, then those of the result.
    num_inputs: how many dimensions are summed over.
  """
  if isinstance(kernel, OpaqueKernel):
    kernel = typing.cast(FlatKernel, kernel.kernel)
  leading = x.shape[: x.ndim - num_inputs]
  size = math.prod(kernel.shape[:num_inputs])
  rows = x.reshape(-1, size)
  numbers: Any = kernel
  if isinstance(kernel, FlatKernel):
    numbers = kernel.matrix
  if isinstance(numbers, Quantized):
    mesh = kernel.mesh if isinstance(kernel, FlatKernel) else None
    y = _times_quantized(whole_rows(rows, mesh), numbers)
    y = whole_rows(y, mesh)
  elif isinstance(kernel, FlatKernel):
    y = matrix_product(rows, kernel, dtype=x.dtype)
  elif has_own_way(rows):
    matrix = numbers.reshape(size, -1).astype(x.dtype)
    y = multiply(rows, matrix.T, dtype=x.dtype)
  else:
    return jnp.tensordot(x, numbers.astype(x.dtype), axes=num_inputs)
  return y.reshape(*leading, *kernel.shape[num_inputs:])


def _times_quantized(
  rows: Float[Array, 'M C'], kernel: Quantized
) -> Float[Array, 'M F']:
  summed = lax.platform_dependent(
    rows,
    kernel.values.reshape(rows.shape[1], -1),
    cpu=multiply_by_slices,
    default=multiply_at_once,
  )
  scale = kernel.scale.astype(jnp.float32).reshape(1, -1)
  return (summed * scale).astype(rows.dtype)


def multiply_at_once(
  x: Float[Array, 'M C'], values: Int[Array, 'C F']
) -> Float[Array, 'M F']:
  """Return the product in float32."""
  return jnp.einsum(
    'MC,CF->MF',
    x,
    values.astype(x.dtype),
    preferred_element_type=jnp.float32,
  )


def multiply_by_slices(
  x: Float[Array, 'M C'], values: Int[Array, 'C F']
) -> Float[Array, 'M F']:
  """Return the product in float32, `values` converted slice by slice."""
  inputs, features = values.shape
  count = num_slices(inputs, features)
  if count == 1:
    return multiply_at_once(x, values)
  size = inputs // count

  def add(number, total):
    part = lambda of, axis: lax.dynamic_slice_in_dim(
      of, number * size, size, axis=axis
    )
    return total + multiply_at_once(part(x, 1), part(values, 0))

  zeros = jnp.zeros((x.shape[0], features), jnp.float32)
  return lax.fori_loop(0, count, add, zeros)


def num_slices(length: int, width: int) -> int:
  """Return into how many equal slices `length` rows of `width` are cut.

  More than one where there are more than `WHOLE_SIZE` numbers: the compiler
  unrolls a loop of one.
  """
  if length * width <= WHOLE_SIZE:
    return 1
  least = max(2, -(-length * width // SLICE_SIZE))
  return next(
    n for n in range(min(least, length), length + 1) if not length % n
  )


# MARK: Keys and values


def quantize_rows(rows: Float[Array, '*batch H']) -> Quantized:
  """Return keys or values as int8, one scale for each token and head.

  Scales are bfloat16. A float32 holds q s exactly then, so that rows which
  were rounded to int8 once stay as they are when they are again.
  """
  return quantize(rows, axes=(-1,), scale_dtype=ROW_SCALE_DTYPE)


def zero_rows(shape: tuple[int, ...]) -> Quantized:
  """Return what `quantize_rows` makes of zeros.

  Compilers would quantise them at compile time, which takes minutes.
  """
  return Quantized(
    values=jnp.zeros(shape, jnp.int8),
    scale=jnp.zeros(shape[:-1], ROW_SCALE_DTYPE),
  )


def round_rows(
  rows: Float[Array, '*batch H'], quantization: Quantization
) -> Float[Array, '*batch H']:
  """Return keys or values as a cache will show them."""
  if quantization is Quantization.NONE:
    return rows
  return dequantize(quantize_rows(rows), axes=(-1,), dtype=rows.dtype)


def row_scores(
  query: Float[Array, 'B K T H'], keys: Float[Array, 'B K S H'] | Quantized
) -> Float[Array, 'B K T S']:
  """Return the product of every query with every key, in float32."""
  if not isinstance(keys, Quantized):
    return _score(query, keys)
  scores = lax.platform_dependent(
    query, keys.values, cpu=score_by_slices, default=score_two_or_more
  )
  return scores * _beside_queries(keys.scale)


def cache_scores(
  query: Float[Array, 'B K T H'], keys: Float[Array, 'B K S H'] | Quantized
) -> Float[Array, 'B K T S']:
  """Return `row_scores` of a window, whose queries are few beside the keys."""
  if isinstance(keys, Quantized) or query.shape[2] > _FEW_QUERIES:
    return row_scores(query, keys)
  on_cpu = score_keys_first if query.shape[2] > 1 else _score
  return lax.platform_dependent(
    query, keys, cpu=on_cpu, default=score_two_or_more
  )


def mix_rows(
  weights: Float[Array, 'B K T S'],
  values: Float[Array, 'B K S H'] | Quantized,
  *,
  dtype: DTypeLike,
) -> Float[Array, 'B K T H']:
  """Return the sums of values that weights ask for, in `dtype`."""
  if not isinstance(values, Quantized):
    return lax.platform_dependent(
      weights.astype(dtype), values, cpu=_mix, default=mix_two_or_more
    )
  scaled = (weights * _beside_queries(values.scale)).astype(dtype)
  mixed = lax.platform_dependent(
    scaled, values.values, cpu=mix_by_slices, default=mix_two_or_more
  )
  return mixed.astype(dtype)


def score_keys_first(
  query: Float[Array, 'B K T H'], keys: Float[Array, 'B K S H']
) -> Float[Array, 'B K T S']:
  """Return the products of few queries with keys as they lie.

  Asked for a row a query, the library that multiplies on CPU (YNNPACK in
  jaxlib 0.10.2) turns all keys round, which takes longer than the product:
  1.0 ms for 0.45 where 16 rows of 8 heads have 192 keys and two queries. The
  barrier keeps the compiler from asking for that again.
  """
  scores = jnp.einsum(
    'BKSH,BKTH->BKST', keys, query, preferred_element_type=jnp.float32
  )
  return jnp.swapaxes(lax.optimization_barrier(scores), 2, 3)


def score_two_or_more(
  query: Float[Array, 'B K T H'], keys: Num[Array, 'B K S H']
) -> Float[Array, 'B K T S']:
  """Return the products, a lone query's with one of zeros beside it.

  XLA for GPUs turns a product of one row into a sum over products, and for
  that every cache round, for each token (jaxlib 0.10.2, compiled for H100).
  """
  return _score(_two_or_more(query), keys)[:, :, : query.shape[2]]


def mix_two_or_more(
  weights: Float[Array, 'B K T S'], values: Num[Array, 'B K S H']
) -> Float[Array, 'B K T H']:
  """Return the sums, as `score_two_or_more` makes products."""
  return _mix(_two_or_more(weights), values)[:, :, : weights.shape[2]]


def _two_or_more(rows: Float[Array, 'B K T C']) -> Float[Array, 'B K M C']:
  missing = max(0, 2 - rows.shape[2])
  return jnp.pad(rows, ((0, 0), (0, 0), (0, missing), (0, 0)))


def score_by_slices(
  query: Float[Array, 'B K T H'], keys: Int[Array, 'B K S H']
) -> Float[Array, 'B K T S']:
  """Return the products, `keys` converted slice by slice."""
  count, size = _slices_of_rows(keys)
  if count == 1:
    return _score(query, keys)

  def put(number, scores):
    some = lax.dynamic_slice_in_dim(keys, number * size, size, axis=2)
    return lax.dynamic_update_slice_in_dim(
      scores, _score(query, some), number * size, axis=3
    )

  shape = (*query.shape[:3], keys.shape[2])
  return lax.fori_loop(0, count, put, jnp.zeros(shape, jnp.float32))


def mix_by_slices(
  weights: Float[Array, 'B K T S'], values: Int[Array, 'B K S H']
) -> Float[Array, 'B K T H']:
  """Return the sums, `values` converted slice by slice."""
  count, size = _slices_of_rows(values)
  if count == 1:
    return _mix(weights, values)

  def add(number, total):
    part = lambda of, axis: lax.dynamic_slice_in_dim(
      of, number * size, size, axis=axis
    )
    return total + _mix(part(weights, 3), part(values, 2))

  shape = (*weights.shape[:3], values.shape[3])
  return lax.fori_loop(0, count, add, jnp.zeros(shape, weights.dtype))


def _score(
  query: Float[Array, 'B K T H'], keys: Num[Array, 'B K S H']
) -> Float[Array, 'B K T S']:
  return jnp.einsum(
    'BKTH,BKSH->BKTS',
    query,
    keys.astype(query.dtype),
    preferred_element_type=jnp.float32,
  )


def _mix(
  weights: Float[Array, 'B K T S'], values: Num[Array, 'B K S H']
) -> Float[Array, 'B K T H']:
  mixed = jnp.einsum(
    'BKTS,BKSH->BKTH',
    weights,
    values.astype(weights.dtype),
    preferred_element_type=jnp.float32,
  )
  return mixed.astype(weights.dtype)


def _beside_queries(scale: Float[Array, 'B K S']) -> Float[Array, 'B K 1 S']:
  return scale.astype(jnp.float32)[:, :, None]


def _slices_of_rows(rows: Int[Array, 'B K S H']) -> tuple[int, int]:
  """Return how many slices a cache is cut into, and how long they are."""
  batch, heads, length, head_dim = rows.shape
  count = num_slices(length, batch * heads * head_dim)
  return count, length // count
