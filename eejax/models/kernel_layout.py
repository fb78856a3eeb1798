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
"""Blocks whose kernels lie as the platform multiplies them fastest."""

import jax

from eejax.models.quantized import Projected, map_projections
from eejax.models.stacking import unstack
from eejax.ops.matmul import (
  KernelByOutput,
  KernelsApart,
  OpaqueKernel,
  by_output,
)
from eejax.ops.quant import Quantized
from eejax.types import Params, PyTree


def lay_by_output(block: PyTree) -> PyTree:
  """Return a block whose projections lie by output, its experts apart.

  Args:
    block: of no stack; projections may be fused or not. Int8 kernels stay as
      they are, for they are converted slice by slice of their inputs.
  """
  return map_projections(block, _laid)


def _laid(projection: Params, projected: Projected) -> Params:
  kernel = projection['kernel']
  if not projected.num_leading:
    return {**projection, 'kernel': _kernel_laid(kernel, projected.num_inputs)}
  apart = tuple(
    _kernel_laid(one, projected.num_inputs) for one in unstack(kernel)
  )
  return {**projection, 'kernel': KernelsApart(apart)}


def _kernel_laid(kernel: PyTree, num_inputs: int) -> PyTree:
  if isinstance(kernel, Quantized):
    return kernel
  return by_output(kernel, num_inputs=num_inputs)


def for_modules(block: PyTree) -> PyTree:
  """Return a block whose modules may be applied, however its kernels lie."""
  is_laid = lambda leaf: isinstance(leaf, KernelByOutput | KernelsApart)
  hide = lambda leaf: OpaqueKernel(leaf) if is_laid(leaf) else leaf
  return jax.tree.map(hide, block, is_leaf=is_laid)
