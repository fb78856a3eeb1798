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
them, a row an output. Other platforms get the plain product.
"""

import enum
import functools
import math
import typing

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from eejax.types import Array, DTypeLike, Int, Num

# Rows below which a product on a CPU goes its own way: no training step has so
# few, and its derivatives are those of the plain product.
FEW_ROWS = 64

_FEWEST_ROWS = 2


class KernelLayout(enum.Enum):
  """How a kernel lies in memory.

  BY_INPUT: a row an input, as models are trained and stored.
  BY_OUTPUT: a row an output. Products of a few rows on a CPU need not turn the
  kernel round first, which takes as long as the product in bfloat16. Experts
  are arrays of their own then.
  """

  BY_INPUT = 'by_input'
  BY_OUTPUT = 'by_output'


# Unchecked, for maps over trees fill it with what are no arrays.
@typing.no_type_check
@flax.struct.dataclass
class KernelByOutput:
  """A kernel that lies by output.

  Attributes:
    rows: `[F, C]`, all its outputs and inputs.
    shape: of the kernel, inputs first.
  """

  rows: Num[Array, 'F C']
  shape: tuple[int, ...] = flax.struct.field(pytree_node=False)


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
  module asks for, and numbers that lie by output have another.
  """

  def __init__(self, kernel: KernelByOutput | KernelsApart):
    self.kernel = kernel
    self.shape = kernel.shape


def fastest_layout(device: jax.Device | None = None) -> KernelLayout:
  """Return how kernels should lie where programs run; call it outside of them.

  Args:
    device: any device of the machine; None is the one that is taken.
  """
  platform = jax.default_backend() if device is None else device.platform
  is_cpu = platform == 'cpu'
  return KernelLayout.BY_OUTPUT if is_cpu else KernelLayout.BY_INPUT


def by_output(
  kernel: Num[Array, '...'], *, num_inputs: int = 1
) -> KernelByOutput:
  """Return a kernel, its inputs first, so that it lies by output."""
  size = math.prod(kernel.shape[:num_inputs])
  return KernelByOutput(kernel.reshape(size, -1).T, kernel.shape)


def columns(
  matrix: Num[Array, 'C F'] | KernelByOutput, ids: Int[Array, 'N']
) -> Num[Array, 'C N'] | KernelByOutput:
  """Return some outputs of a matrix, which lies as before."""
  if isinstance(matrix, KernelByOutput):
    return KernelByOutput(matrix.rows[ids], (matrix.shape[0], len(ids)))
  return matrix[:, ids]


def matrix_by_output(
  matrix: Num[Array, 'C F'] | KernelByOutput,
) -> Num[Array, 'F C']:
  """Return a matrix with a row an output."""
  return matrix.rows if isinstance(matrix, KernelByOutput) else matrix.T


def matrix_product(
  x: Num[Array, 'M C'],
  matrix: Num[Array, 'C F'] | KernelByOutput,
  *,
  dtype: DTypeLike,
) -> Num[Array, 'M F']:
  """Return the product of rows with a matrix, in `dtype`, however it lies."""
  if isinstance(matrix, KernelByOutput):
    rows = matrix.rows.astype(x.dtype)
    return multiply(x, rows, dtype=dtype, layout=KernelLayout.BY_OUTPUT)
  return multiply(x, matrix.astype(x.dtype), dtype=dtype)


def multiply(
  x: Num[Array, 'M C'],
  kernel: Num[Array, '...'],
  *,
  dtype: DTypeLike,
  layout: KernelLayout = KernelLayout.BY_INPUT,
) -> Num[Array, 'M F']:
  """Return the product in `dtype`, by the fastest way the platform has.

  Args:
    x: rows, in the kernel's dtype.
    kernel: laid out as `layout` says.
    dtype: of the result.
    layout: of the kernel.
  """
  plain = functools.partial(multiply_plainly, dtype=dtype, layout=layout)
  if not has_own_way(x):
    return plain(x, kernel)
  few = functools.partial(multiply_few_rows, dtype=dtype, layout=layout)
  return lax.platform_dependent(x, kernel, cpu=few, default=plain)


def multiply_plainly(
  x: Num[Array, 'M C'],
  kernel: Num[Array, '...'],
  *,
  dtype: DTypeLike,
  layout: KernelLayout = KernelLayout.BY_INPUT,
) -> Num[Array, 'M F']:
  """Return the product in `dtype`, as XLA makes it."""
  inputs = 0 if layout is KernelLayout.BY_INPUT else 1
  return lax.dot_general(
    x, kernel, (((1,), (inputs,)), ((), ())), preferred_element_type=dtype
  )


def multiply_few_rows(
  x: Num[Array, 'M C'],
  kernel: Num[Array, '...'],
  *,
  dtype: DTypeLike,
  layout: KernelLayout = KernelLayout.BY_INPUT,
) -> Num[Array, 'M F']:
  """Return the product of few rows as CPUs make it fast."""
  rows = x.shape[0]
  padded = jnp.pad(x, ((0, max(0, _FEWEST_ROWS - rows)), (0, 0)))
  summed = multiply_plainly(padded, kernel, dtype=jnp.float32, layout=layout)
  return summed[:rows].astype(dtype)


def has_own_way(x: Num[Array, 'M C']) -> bool:
  """Return whether a CPU multiplies `x` in a way of its own."""
  return x.dtype == jnp.bfloat16 and x.shape[0] < FEW_ROWS
