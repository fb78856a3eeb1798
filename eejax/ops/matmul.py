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
"""Products of activations with a kernel, chosen by platform, dtype and rows.

Decoding multiplies one row of each text, or a window of a few. XLA for CPUs
(jaxlib 0.10.2) has fast kernels for bfloat16 and hands a product to them only
if it has two rows or more and a float32 result; all others are summed number
by number. So there a row alone is multiplied with a row of zeros beside it,
and results are rounded after the sum; and kernels lie as these products read
them, a row an output. In float32 one row is fast, and several copy the matrix
into another order first; two rows are quicker one after the other. Other
platforms get the plain product.
"""

import dataclasses
import functools
import math
import typing

import flax.struct
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.axes import Kind, partition
from eejax.types import Array, DTypeLike, Int, Num

# Rows below which a product on a CPU goes its own way: no training step has so
# few, and its derivatives are those of the plain product.
FEW_ROWS = 64

_FEWEST_ROWS = 2


# Unchecked, for maps over trees fill it with what are no arrays.
@typing.no_type_check
@flax.struct.dataclass
class FlatKernel:
  """A kernel as a matrix, its inputs joined to one dimension, its outputs, too.

  Matrices lie by output, a row an output. So a CPU need not turn one round for
  a product of few rows, which takes as long as the product in bfloat16, and
  the compiler for TPUs reads it where it lies, in products of one row and of
  several alike. Kernels of three dimensions, or matrices that lie by input, it
  copies in a loop that has both (libtpu 0.0.42). GPUs read either.

  Attributes:
    matrix: `[F, C]`; int8 numbers are `[C, F]`, for a CPU converts them slice
      by slice of their inputs.
    shape: of the kernel, inputs first.
    mesh: the devices that share it; None where one has it. Rows that it is
      multiplied with are whole along the axes that cut it, so that they, and
      no part of the matrix, go from device to device.
  """

  matrix: typing.Any
  shape: tuple[int, ...] = flax.struct.field(pytree_node=False)
  mesh: Mesh | None = flax.struct.field(pytree_node=False, default=None)


# Unchecked, as above.
@typing.no_type_check
@flax.struct.dataclass
class KernelsApart:
  """Kernels of experts as arrays of their own.

  A product with one of a stack copies it first on a CPU, which takes longer
  than the product of a few rows.

  Attributes:
    kernels: of each expert, int8 or not.
  """

  kernels: tuple[typing.Any, ...]

  @property
  def shape(self) -> tuple[int, ...]:
    """Return the shape of the stack."""
    return (len(self.kernels), *self.kernels[0].shape)


class OpaqueKernel:
  """A kernel that is no tree.

  Linen compares the shape of a parameter's first leaf with the one that a
  module asks for, and a matrix has another.
  """

  def __init__(self, kernel: FlatKernel | KernelsApart):
    self.kernel = kernel
    self.shape = kernel.shape


def flatten(kernel: Num[Array, '...'], *, num_inputs: int = 1) -> FlatKernel:
  """Return a kernel, its inputs first, as a matrix."""
  size = math.prod(kernel.shape[:num_inputs])
  return FlatKernel(kernel.reshape(size, -1).T, kernel.shape)


def some_outputs(kernel: FlatKernel, ids: Int[Array, 'N']) -> FlatKernel:
  """Return some outputs of a matrix, which lies as before."""
  shape = (kernel.shape[0], len(ids))
  return dataclasses.replace(kernel, matrix=kernel.matrix[ids], shape=shape)


def matrix_product(
  x: Num[Array, 'M C'], kernel: FlatKernel, *, dtype: DTypeLike
) -> Num[Array, 'M F']:
  """Return the product of rows with a matrix, in `dtype`."""
  rows = whole_rows(x, kernel.mesh)
  y = multiply(rows, kernel.matrix.astype(x.dtype), dtype=dtype)
  return whole_rows(y, kernel.mesh)


def whole_rows(x: Num[Array, 'M C'], mesh: Mesh | None) -> Num[Array, 'M C']:
  """Return rows that are cut along no axis that cuts kernels."""
  if mesh is None:
    return x
  several = {name: size for name, size in mesh.shape.items() if size > 1}
  spec = partition(('B', None), shape=x.shape, mesh=several, kind=Kind.WINDOW)
  spec = PartitionSpec(spec[0], PartitionSpec.UNCONSTRAINED)
  return lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def multiply(
  x: Num[Array, 'M C'], matrix: Num[Array, 'F C'], *, dtype: DTypeLike
) -> Num[Array, 'M F']:
  """Return the product in `dtype`, by the fastest way the platform has.

  Args:
    x: rows, in the matrix's dtype.
    matrix: a row an output.
    dtype: of the result.
  """
  plain = functools.partial(multiply_plainly, dtype=dtype)
  if has_own_way(x):
    on_cpu = functools.partial(multiply_few_rows, dtype=dtype)
  elif x.dtype == jnp.float32 and x.shape[0] == 2:
    on_cpu = functools.partial(multiply_each_row, dtype=dtype)
  else:
    return plain(x, matrix)
  return lax.platform_dependent(x, matrix, cpu=on_cpu, default=plain)


def multiply_plainly(
  x: Num[Array, 'M C'], matrix: Num[Array, 'F C'], *, dtype: DTypeLike
) -> Num[Array, 'M F']:
  """Return the product in `dtype`, as XLA makes it."""
  return jnp.einsum('MC,FC->MF', x, matrix, preferred_element_type=dtype)


def multiply_few_rows(
  x: Num[Array, 'M C'], matrix: Num[Array, 'F C'], *, dtype: DTypeLike
) -> Num[Array, 'M F']:
  """Return the product of few rows as CPUs make it fast."""
  rows = x.shape[0]
  padded = jnp.pad(x, ((0, max(0, _FEWEST_ROWS - rows)), (0, 0)))
  summed = multiply_plainly(padded, matrix, dtype=jnp.float32)
  return summed[:rows].astype(dtype)


def multiply_each_row(
  x: Num[Array, 'M C'], matrix: Num[Array, 'F C'], *, dtype: DTypeLike
) -> Num[Array, 'M F']:
  """Return the product, each row by itself."""
  rows = [multiply_plainly(row[None], matrix, dtype=dtype) for row in x]
  return jnp.concatenate(rows)


def has_own_way(x: Num[Array, 'M C']) -> bool:
  """Return whether a CPU multiplies `x` in a way of its own."""
  return x.dtype == jnp.bfloat16 and x.shape[0] < FEW_ROWS
