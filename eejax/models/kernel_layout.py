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
"""Blocks and exit heads whose kernels are matrices, as decoding reads them."""

import math

import jax

from eejax.models.quantized import Projected, map_projections
from eejax.models.stacking import unstack
from eejax.ops.matmul import FlatKernel, KernelsApart, OpaqueKernel, flatten
from eejax.ops.quant import Quantized
from eejax.types import Params, PyTree


def flatten_block(block: PyTree) -> PyTree:
  """Return a block whose projections have matrices, experts' of their own.

  Args:
    block: of no stack; projections may be fused, or int8, or not.
  """
  return map_projections(block, _flat)


def flatten_head(head: Params) -> Params:
  """Return an exit's head, its MLP's or block's kernels as matrices."""
  laid = flatten_block(head)
  if 'block' in laid:
    laid['block'] = flatten_block(laid['block'])
  return laid


def for_modules(params: PyTree) -> PyTree:
  """Return parameters that Linen modules take, flat kernels among them."""
  is_flat = lambda leaf: isinstance(leaf, FlatKernel | KernelsApart)
  hide = lambda leaf: OpaqueKernel(leaf) if is_flat(leaf) else leaf
  return jax.tree.map(hide, params, is_leaf=is_flat)


def _flat(projection: Params, projected: Projected) -> Params:
  kernel, num_inputs = projection['kernel'], projected.num_inputs
  if not projected.num_leading:
    return {**projection, 'kernel': _flat_kernel(kernel, num_inputs)}
  apart = tuple(_flat_kernel(one, num_inputs) for one in unstack(kernel))
  return {**projection, 'kernel': KernelsApart(apart)}


def _flat_kernel(kernel: PyTree, num_inputs: int) -> FlatKernel:
  if not isinstance(kernel, Quantized):
    return flatten(kernel, num_inputs=num_inputs)
  size = math.prod(kernel.shape[:num_inputs])
  matrix = Quantized(kernel.values.reshape(size, -1), kernel.scale.reshape(-1))
  return FlatKernel(matrix, kernel.shape)
