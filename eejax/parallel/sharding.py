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
"""Where every leaf of a tree lies on a mesh."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.axes import BATCH_AXES, Kind, parameter_axes, partition
from eejax.types import PyTree


def path_names(path: Sequence[Any]) -> tuple[str, ...]:
  """Return the names along a path of `jax.tree_util`."""
  names = []
  for key in path:
    for attribute in ('key', 'name', 'idx'):
      if hasattr(key, attribute):
        names.append(str(getattr(key, attribute)))
        break
  return tuple(names)


def shardings(tree: PyTree, *, mesh: Mesh) -> PyTree:
  """Return a sharding for every leaf, by its path and shape.

  Parameters, their gradients, their optimizer state and a whole train state
  alike; what is none of these (a count, a factored moment) is replicated.

  Args:
    tree: arrays or anything with a shape.
    mesh: where they shall lie.
  """

  def one(path, leaf) -> NamedSharding:
    shape = tuple(leaf.shape)
    axes = parameter_axes(path_names(path), ndim=len(shape))
    if axes is None:
      return replicated(mesh)
    return NamedSharding(
      mesh,
      partition(axes, shape=shape, mesh=mesh.shape, kind=Kind.PARAMETER),
    )

  return jax.tree_util.tree_map_with_path(one, tree)


def replicated(mesh: Mesh) -> NamedSharding:
  """Return the sharding of what every device has whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Return the sharding of arrays whose first dimension is rows."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


@dataclasses.dataclass(frozen=True)
class RowShare:
  """Say which rows of every batch a process feeds to its devices.

  Attributes:
    index: of the share; processes may have the same one.
    count: how many shares a batch has.
  """

  index: int = 0
  count: int = 1


def row_share(mesh: Mesh) -> RowShare:
  """Return this process's share of the rows of a batch.

  Where the devices of processes overlap in part, every process feeds all.
  """
  parts = math.prod(mesh.shape[a] for a in BATCH_AXES)
  where = batch_sharding(mesh).devices_indices_map((parts,))
  owned: dict[int, set[int]] = {}
  device: Any
  for device, (rows,) in where.items():
    owned.setdefault(device.process_index, set()).add(rows.start or 0)
  shares = sorted({tuple(sorted(rows)) for rows in owned.values()})
  size = parts // len(shares)
  expected = [tuple(range(i, i + size)) for i in range(0, parts, size)]
  if shares != expected:
    return RowShare()
  mine = tuple(sorted(owned[jax.process_index()]))
  return RowShare(shares.index(mine), len(shares))


def initialise(
  make: Callable[..., PyTree], *arguments: Any, mesh: Mesh
) -> PyTree:
  """Return `make(*arguments)`, each device computing its own part alone.

  No device and no host ever holds the whole. Random numbers are those of one
  device, whatever the mesh.

  Args:
    make: a function that jit can trace.
    *arguments: of `make`.
    mesh: where its result shall lie.
  """
  with jax.set_mesh(mesh):
    where = shardings(jax.eval_shape(make, *arguments), mesh=mesh)
    return jax.jit(make, out_shardings=where)(*arguments)


def abstract(tree: PyTree, *, mesh: Mesh) -> PyTree:
  """Return shapes, dtypes and places of a tree, to be filled later."""
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=where
    ),
    tree,
    shardings(tree, mesh=mesh),
  )


def bytes_on_device(tree: PyTree, *, places: PyTree) -> int:
  """Return how many bytes of a tree every device holds.

  All hold as much, for only what divides is cut.

  Args:
    tree: anything with shapes and dtypes.
    places: a sharding for each leaf.
  """
  total = 0
  for leaf, place in zip(
    jax.tree.leaves(tree), jax.tree.leaves(places), strict=True
  ):
    part = place.shard_shape(tuple(leaf.shape))
    total += math.prod(part) * leaf.dtype.itemsize
  return total
