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
"""Experts on a mesh.

Each device has the rows of its part of the batch and, along the axis
`expert`, the kernels of some experts. It gathers the rows of all devices along
that axis, adds up what its own experts make of them, and the sums are
scattered back: no token is dropped, and no shape depends on the routing.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from eejax.axes import EXPERT, MODEL, Kind, ambient, partition
from eejax.ops.expert_products import Activate, Kernels, experts_output
from eejax.ops.routing import Routing
from eejax.types import Array, Float, Int, PyTree

# Of stacks of kernels; D comes together, for every row is multiplied by it.
_LETTERS = {'gate': 'X.F', 'up': 'X.F', 'gate_up': 'X..F', 'down': 'XF.'}


def experts_on_mesh(
  x: Float[Array, 'B T D'],
  routing: Routing,
  *,
  kernels: Kernels,
  activate: Activate,
) -> Float[Array, 'B T D']:
  """Return `experts_output` of each token, computed where its experts lie.

  Args:
    x: normalised activations.
    routing: experts of the tokens.
    kernels: as `experts_output` takes them.
    activate: the experts' nonlinearity.
  """
  mesh = ambient()
  operands = (x, routing.experts, routing.weights, kernels)
  if max(mesh.values(), default=1) == 1:
    return _output(*operands, activate=activate).astype(x.dtype)
  rows = partition(
    ('B', None, None), shape=x.shape, mesh=mesh, kind=Kind.ACTIVATION
  )
  places = {
    name: _places(_LETTERS[name], kernel, mesh)
    for name, kernel in kernels.items()
  }
  part = _Part(activate, _names(rows), _cut(places))
  return jax.shard_map(
    part.output,
    in_specs=(rows, rows, rows, places),
    out_specs=rows,
    axis_names=set(mesh),
    check_vma=False,
  )(*operands)


@dataclasses.dataclass(frozen=True)
class _Part:
  """What one device computes.

  Attributes:
    activate: the experts' nonlinearity.
    row_axes: mesh axes that rows are cut along.
    kernel_axes: mesh axes that kernels are cut along.
  """

  activate: Activate
  row_axes: frozenset[str]
  kernel_axes: frozenset[str]

  def output(
    self,
    x: Float[Array, 'B T D'],
    experts: Int[Array, 'B T J'],
    weights: Float[Array, 'B T J'],
    kernels: Kernels,
  ) -> Float[Array, 'B T D']:
    """Return the sums over all experts for the device's own rows."""
    dtype, shares_experts = x.dtype, EXPERT in self.kernel_axes
    if shares_experts:
      if EXPERT in self.row_axes:
        x, experts, weights = (
          lax.all_gather(values, EXPERT, axis=0, tiled=True)
          for values in (x, experts, weights)
        )
      experts, weights = _own(experts, weights, jax.tree.leaves(kernels)[0])
    y = _output(x, experts, weights, kernels, activate=self.activate)
    if MODEL in self.kernel_axes:
      y = lax.psum(y, MODEL)
    if shares_experts and EXPERT in self.row_axes:
      y = lax.psum_scatter(y, EXPERT, scatter_dimension=0, tiled=True)
    elif shares_experts:
      y = lax.psum(y, EXPERT)
    return y.astype(dtype)


def _own(
  experts: Int[Array, 'B T J'], weights: Float[Array, 'B T J'], kernel: Array
) -> tuple[Int[Array, 'B T J'], Float[Array, 'B T J']]:
  """Return the same with numbers of this device's experts; others count 0."""
  count = kernel.shape[0]
  number = experts - count * lax.axis_index(EXPERT)
  is_own = (number >= 0) & (number < count)
  return jnp.where(is_own, number, count), jnp.where(is_own, weights, 0)


def _output(x, experts, weights, kernels, *, activate) -> Float[Array, 'B T D']:
  y = experts_output(
    x.reshape(-1, x.shape[-1]),
    experts=experts.reshape(-1, experts.shape[-1]),
    weights=weights.reshape(-1, weights.shape[-1]),
    kernels=kernels,
    activate=activate,
  )
  return y.reshape(x.shape)


def _places(letters: str, kernel: PyTree, mesh: dict[str, int]) -> PyTree:
  """Return how each array of a stack of kernels, int8 or not, is cut."""

  def one(array: Array) -> PartitionSpec:
    axes = [None if c == '.' else c for c in letters]
    if array.ndim < len(axes):  # a scale has no inputs
      del axes[1]
    return partition(axes, shape=array.shape, mesh=mesh, kind=Kind.PARAMETER)

  return jax.tree.map(one, kernel)


def _cut(places: PyTree) -> frozenset[str]:
  """Return the axes that all kernels are cut along."""
  is_place = lambda node: isinstance(node, PartitionSpec)
  found = jax.tree.leaves(places, is_leaf=is_place)
  return frozenset().union(*map(_names, found))


def _names(place: PartitionSpec) -> frozenset[str]:
  names = [n if isinstance(n, tuple) else (n,) for n in place if n is not None]
  return frozenset(name for several in names for name in several)
