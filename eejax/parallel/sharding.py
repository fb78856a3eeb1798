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
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.axes import (
  BATCH_AXES,
  MESH_AXES,
  STAGE,
  Kind,
  parameter_spec,
  partition,
)
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
    spec = parameter_spec(
      path_names(path), shape=tuple(leaf.shape), mesh=mesh.shape
    )
    return replicated(mesh) if spec is None else NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(one, tree)


def replicated(mesh: Mesh) -> NamedSharding:
  """Return the sharding of what every device has whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Return the sharding of arrays whose first dimension is rows."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def mesh_of(params: PyTree) -> Mesh | None:
  """Return the devices that all of a tree lies on as `shardings` says.

  None where that is one device, or where pipeline stages share the tree.
  Leaves that jax may put anywhere do not count; while a function is traced the
  compiler decides, and nobody knows.
  """
  meshes = set()
  for leaf in jax.tree.leaves(params):
    if isinstance(leaf, jax.core.Tracer):
      return None
    if not getattr(leaf, 'committed', True):
      continue
    where = getattr(leaf, 'sharding', None)
    meshes.add(where.mesh if isinstance(where, NamedSharding) else None)
  mesh = meshes.pop() if len(meshes) == 1 else None
  if not isinstance(mesh, Mesh) or mesh.axis_names != MESH_AXES:
    return None
  return mesh if mesh.size > 1 and mesh.shape[STAGE] == 1 else None


def call_where_it_lies(
  function: Callable[..., PyTree],
  params: PyTree,
  rows: PyTree,
  *arguments: Any,
  **options: Any,
) -> PyTree:
  """Return what a compiled function makes of rows, on the devices still.

  On a mesh rows are shared out over its batch axes, if these divide them.

  Args:
    function: of `params`, `rows` and options; it was compiled by `jax.jit`.
    params: on one device or on a mesh.
    rows: arrays whose first dimension is rows.
    *arguments: of the function, on all devices.
    **options: of the function.
  """
  mesh = mesh_of(params)
  if mesh is None:
    return function(params, rows, *arguments, **options)

  def put(leaf) -> jax.Array:
    spec = partition(
      ('B',), shape=leaf.shape[:1], mesh=mesh.shape, kind=Kind.ACTIVATION
    )
    return jax.device_put(leaf, NamedSharding(mesh, spec))

  with jax.set_mesh(mesh):
    return function(params, jax.tree.map(put, rows), *arguments, **options)


def fetch(tree: PyTree) -> PyTree:
  """Return arrays on the host, whole in every process."""
  if jax.process_count() > 1:
    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.device_get(tree)


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


def read_parts(
  read: Callable[[tuple[slice, ...]], np.ndarray],
  *,
  shape: tuple[int, ...],
  dtype: Any,
  where: NamedSharding,
) -> jax.Array:
  """Return an array of which every device has got its own part alone.

  Args:
    read: returns a part, given where it lies in the whole.
    shape: of the whole.
    dtype: that parts are converted to.
    where: which device gets what.
  """
  placed: dict[str, jax.Array] = {}
  parts = []
  for device, index in where.addressable_devices_indices_map(shape).items():
    assert index is not None
    key = str(index)
    if key in placed:  # copies of a part go from device to device
      parts.append(jax.device_put(placed[key], device))
      continue
    part = np.array(read(index), dtype=dtype, order='C')
    placed[key] = jax.block_until_ready(jax.device_put(part, device))
    parts.append(placed[key])
  return jax.make_array_from_single_device_arrays(shape, where, parts)


def place(tree: PyTree, where: PyTree) -> PyTree:
  """Return arrays, or views of files, on their devices.

  Args:
    tree: every process has the same, or its part of arrays on several devices.
    where: a sharding for each leaf.
  """

  def put(leaf, at: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array):
      # One of a process alone would be compared with those of the others.
      is_own = leaf.is_fully_addressable and not at.is_fully_addressable
      if not is_own:
        return jax.device_put(leaf, at)
      leaf = np.asarray(leaf)
    read = lambda index: leaf[index]
    return read_parts(read, shape=tuple(leaf.shape), dtype=leaf.dtype, where=at)

  return jax.tree.map(put, tree, where)


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
