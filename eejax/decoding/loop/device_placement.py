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
"""Where parameters, caches and rows of the decode loop lie on a mesh.

Kernels lie as in training (`eejax.axes.RULES`): heads, F and vocabularies
along `model`, D along `fsdp`; kernels of experts, which are arrays of their
own here, are cut in F along `expert`, too. Caches are cut along their heads
and, over all batch axes, along their rows. The stream of a window is whole on
every device of a copy of the model, so that it, and no kernel, is what
devices send one another. Everything else, a few numbers a row, is on all
devices: whether a segment runs is known to each without a message, and any
process may read what was emitted.

Without a mesh nothing here has any effect.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.axes import MODEL, STAGE, Axes, Kind, parameter_axes, partition
from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError
from eejax.models.quantized import NUM_INPUTS
from eejax.ops.matmul import FlatKernel, KernelsApart
from eejax.ops.quant import Quantized
from eejax.parallel import sharding
from eejax.types import Array, Float, Params, PyTree

Tree = TypeVar('Tree')

_STREAMS = ('waiting', 'verify_hidden')


def check_no_stages(mesh: Mesh) -> None:
  """Check that a mesh has no pipeline stages.

  Raises:
    ArgumentError: it has some.
  """
  if mesh.shape.get(STAGE, 1) > 1:
    raise ArgumentError(
      f'this runs without pipeline stages, and the mesh has {STAGE}='
      f'{mesh.shape[STAGE]}; give its devices to the axis {MODEL} or fsdp, or '
      f'decode in a pipeline with eejax generate --mesh {STAGE}=N.'
    )


def check_mesh(mesh: Mesh, *, config: EarlyExitConfig) -> None:
  """Check that a model can be decoded on a mesh.

  Raises:
    ArgumentError: the mesh has stages, or its axis `model` does not divide
      the heads.
  """
  check_no_stages(mesh)
  parts, heads = mesh.shape.get(MODEL, 1), config.model.num_heads
  if heads % parts:
    whole = [n for n in range(1, heads + 1) if not heads % n]
    raise ArgumentError(
      f'the {heads} heads of the model do not divide among {MODEL}={parts}; '
      f'make it one of {", ".join(map(str, whole))}, and give other devices to '
      'fsdp or data.'
    )


# MARK: Parameters


def place_prepared(tree: Tree, *, mesh: Mesh | None) -> Tree:
  """Return parameters as decoding reads them, on their devices.

  Args:
    tree: a part of them, kernels flat.
    mesh: where they shall lie; None leaves them where they are.
  """
  if mesh is None:
    return tree

  def put(path, leaf) -> PyTree:
    names = sharding.path_names(path)
    if isinstance(leaf, KernelsApart):
      return KernelsApart(
        tuple(_placed_kernel(names, k, mesh) for k in leaf.kernels)
      )
    if isinstance(leaf, FlatKernel):
      return _placed_kernel(names, leaf, mesh)
    axes = _axes_of(names, leaf.ndim)
    return jax.device_put(leaf, _cut(axes, leaf.shape, mesh, Kind.PARAMETER))

  is_kernel = lambda leaf: isinstance(leaf, FlatKernel | KernelsApart)
  return jax.tree_util.tree_map_with_path(put, tree, is_leaf=is_kernel)


def place_parameters(params: Params, *, mesh: Mesh | None) -> Params:
  """Return parameters as they are stored on their devices.

  Args:
    params: a part of the tree, from its root; arrays, or views of files.
    mesh: where they shall lie; None leaves them where they are.
  """
  if mesh is None:
    return params
  return sharding.place(params, sharding.shardings(params, mesh=mesh))


def _axes_of(names: tuple[str, ...], ndim: int) -> Axes:
  if names[-1] in ('table', 'position_table'):
    return ('V', 'D') if names[-1] == 'table' else (None, 'D')
  return parameter_axes(names, ndim=ndim) or (None,) * ndim


def _placed_kernel(
  names: tuple[str, ...], kernel: FlatKernel, mesh: Mesh
) -> FlatKernel:
  """Return a matrix, whose rows join the kernel's outputs, on its devices."""
  inputs = 1
  if names[0] == 'kernels':
    axes: Axes = ('D', 'V')
  elif 'experts' in names:
    axes = ('Y', 'D') if names[-2] == 'down' else ('D', 'Y')
  else:
    axes = _axes_of(names, len(kernel.shape))
    inputs = NUM_INPUTS.get(names[-3], {}).get(names[-2], 1)
  spec = partition(
    axes, shape=kernel.shape, mesh=_several(mesh), kind=Kind.PARAMETER
  )
  # Of joined dimensions the first is the one that may be cut.
  one, out = spec[0], spec[inputs]
  matrix = kernel.matrix
  if isinstance(matrix, Quantized):
    matrix = Quantized(
      jax.device_put(matrix.values, _named(mesh, one, out)),
      jax.device_put(matrix.scale, _named(mesh, out)),
    )
  else:
    matrix = jax.device_put(matrix, _named(mesh, out, one))
  return dataclasses.replace(kernel, matrix=matrix, mesh=mesh)


# MARK: State


def place_state(state: Tree, *, mesh: Mesh | None) -> Tree:
  """Return a state, or its segments, on the devices.

  Call it outside compiled programs.

  Args:
    state: of a batch.
    mesh: the devices; None leaves it where it is.
  """
  return _laid_out(state, mesh, jax.device_put)


def keep_state(state: Tree, *, mesh: Mesh | None) -> Tree:
  """Return a state that the compiler leaves where `place_state` puts it."""
  return _laid_out(state, mesh, jax.lax.with_sharding_constraint)


def _laid_out(
  state: Tree, mesh: Mesh | None, put: Callable[..., list[jax.Array]]
) -> Tree:
  if mesh is None:
    return state
  leaves, structure = jax.tree_util.tree_flatten_with_path(state)
  where = [
    _state_sharding(sharding.path_names(path), leaf.shape, mesh)
    for path, leaf in leaves
  ]
  placed = put([leaf for _, leaf in leaves], where)
  return jax.tree.unflatten(structure, placed)


def _state_sharding(
  names: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh
) -> NamedSharding:
  rest = (None,) * len(shape)
  if 'keys' in names or 'values' in names:
    return _cut(('B', 'K', *rest)[: len(shape)], shape, mesh)
  if 'states' in names:
    return _cut(_ring_axes(names[-1], len(shape)), shape, mesh)
  if names[-1] in _STREAMS:
    return _cut(('B', *rest)[: len(shape)], shape, mesh, Kind.WINDOW)
  return sharding.replicated(mesh)


def _ring_axes(part: str, ndim: int) -> Axes:
  """Return the letters of a ring of states, [B, ring, ...]."""
  rest: Axes = (None,) * (ndim - 2)
  if part == 'memory':
    # Heads first, of channels and numbers; or numbers of channels.
    rest = ('I', None, None) if ndim == 5 else (None, 'I')
  return ('B', None, *rest)


def _cut(
  axes: Axes, shape: tuple[int, ...], mesh: Mesh, kind: Kind = Kind.ACTIVATION
) -> NamedSharding:
  spec = partition(axes, shape=shape, mesh=_several(mesh), kind=kind)
  return _named(mesh, *spec)


def _several(mesh: Mesh) -> dict[str, int]:
  return {name: size for name, size in mesh.shape.items() if size > 1}


def _named(mesh: Mesh, *entries: Any) -> NamedSharding:
  """Return a sharding as compiled programs write down that of a result.

  So the next call, which is given that result, is not another program: no axis
  of one device, no dimension at the end that is whole.
  """
  cut = list(entries)
  while cut and cut[-1] is None:
    cut.pop()
  return NamedSharding(mesh, PartitionSpec(*cut))


def replicate(tree: Tree, *, mesh: Mesh | None) -> Tree:
  """Return a tree on all devices; call it outside compiled programs."""
  if mesh is None:
    return tree
  return jax.device_put(tree, sharding.replicated(mesh))


def keep_replicated(tree: Tree, *, mesh: Mesh | None) -> Tree:
  """Return what the compiler puts on all devices."""
  if mesh is None:
    return tree
  return jax.lax.with_sharding_constraint(tree, sharding.replicated(mesh))


def keep_stream(
  x: Float[Array, 'B T D'], *, mesh: Mesh | None
) -> Float[Array, 'B T D']:
  """Return a stream that is whole along the axes that cut kernels."""
  if mesh is None:
    return x
  where = _cut(('B', None, None), x.shape, mesh, Kind.WINDOW)
  return jax.lax.with_sharding_constraint(x, where)
