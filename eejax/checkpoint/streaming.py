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
"""Read a model straight onto a mesh, a part of an array at a time.

Files are mapped, not loaded; each device gets its own part of each array, one
after the other. So a host never holds more than about the part of one device,
whether the model lies in an eejax checkpoint or in safetensors of any number
of files.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from eejax import storage
from eejax.checkpoint import huggingface, manifest, partial
from eejax.checkpoint.arrays import Path, flatten, unflatten
from eejax.checkpoint.model import Model
from eejax.checkpoint.tokenizer_files import find_tokenizer
from eejax.errors import ArgumentError
from eejax.models.quantized import quantize_block
from eejax.parallel import sharding
from eejax.types import Params, PyTree


def load(
  path: str | os.PathLike,
  *,
  mesh: Mesh,
  depth: int | None = None,
  dtype: Any = None,
) -> Model:
  """Read an eejax checkpoint, or its first blocks, onto a mesh.

  Args:
    path: the folder.
    mesh: where its arrays shall lie, as `sharding.shardings` says.
    depth: how many blocks to read, at least 1; all by default. Exits beyond
      are left out.
    dtype: what every array is converted to; by default each stays as stored.

  Raises:
    ArgumentError: there is no checkpoint, or it has fewer blocks.
    CheckpointError: an array is missing, cut short or misshapen.
  """
  mapped = map_checkpoint(path, depth=depth)
  return dataclasses.replace(
    mapped, params=place(mapped.params, mesh=mesh, dtype=dtype)
  )


def import_folder(
  source: str | os.PathLike, *, mesh: Mesh, dtype: Any = None
) -> Model:
  """Read a Hugging Face folder or hub name onto a mesh.

  Args:
    source: as `huggingface.import_folder` takes it.
    mesh: where its arrays shall lie.
    dtype: what every array is converted to; by default each stays as stored.

  Raises:
    ArgumentError: there is no such folder.
    CheckpointError: the folder is incomplete, broken or not supported.
  """
  mapped = huggingface.map_folder(source)
  return dataclasses.replace(
    mapped, params=place(mapped.params, mesh=mesh, dtype=dtype)
  )


def map_checkpoint(
  path: str | os.PathLike, *, depth: int | None = None
) -> Model:
  """Return a checkpoint whose leaves are views of its files, unstacked.

  Raises:
    ArgumentError: there is no checkpoint, or it has fewer blocks.
    CheckpointError: an array is missing, cut short or misshapen.
  """
  path = storage.as_path(path)
  held = manifest.read_manifest(path)
  blocks = held.config.model.num_layers
  depth = blocks if depth is None else depth
  if not 1 <= depth <= blocks:
    raise ArgumentError(
      f'cannot load {depth} blocks: the model at {path} has {blocks}.'
    )
  exits = tuple(e for e in held.config.exits if e.depth <= depth)
  how = partial.LoadMethod.MAP
  backbone = {
    **partial.read_outer(path, held, how=how),
    'blocks': tuple(partial.read_blocks(path, held, depth=depth, how=how)),
  }
  return Model(
    config=held.config.with_exits(exits),
    params={
      'backbone': backbone,
      'exits': {
        e.name: partial.read_exit(path, held, exit=e, how=how) for e in exits
      },
    },
    tokenizer_folder=find_tokenizer(path),
    backbone_hash=held.backbone_hash,
    provenance=held.provenance,
  )


def on_mesh(model: Model, *, mesh: Mesh, dtype: Any = None) -> Model:
  """Return a model whose arrays lie on a mesh.

  Args:
    model: its leaves may be views of files, of which each device reads its own
      part.
    mesh: where they shall lie.
    dtype: what every array is converted to; by default each stays as it is.
  """
  params = model.params
  if isinstance(params['backbone']['blocks'], Mapping):
    cast = lambda x: x if dtype is None else x.astype(dtype)
    params = sharding.place(
      jax.tree.map(cast, params), sharding.shardings(params, mesh=mesh)
    )
  else:
    params = place(params, mesh=mesh, dtype=dtype)
  return dataclasses.replace(model, params=params)


def place(params: Params, *, mesh: Mesh, dtype: Any = None) -> Params:
  """Return views of files as the arrays of a stacked tree on a mesh.

  Args:
    params: the whole tree, blocks unstacked, leaves that can be indexed.
    mesh: where its arrays shall lie.
    dtype: what every array is converted to.
  """
  backbone = params['backbone']
  outer = {k: v for k, v in backbone.items() if k != 'blocks'}
  return {
    'backbone': {
      **_place_tree({'backbone': outer}, mesh, dtype)['backbone'],
      'blocks': unflatten(dict(_stacked(backbone['blocks'], mesh, dtype))),
    },
    'exits': _place_tree({'exits': params['exits']}, mesh, dtype)['exits'],
  }


def place_quantized(params: Params, *, mesh: Mesh, dtype: Any) -> Params:
  """Return a frozen backbone on a mesh, kernels of its blocks in int8.

  A kernel is in `dtype` only until the next one is read.

  Args:
    params: as `place` takes it.
    mesh: where its arrays shall lie.
    dtype: of everything else.
  """
  blocks: Sequence[PyTree] = params['backbone']['blocks']
  small = {**params, 'backbone': {**params['backbone'], 'blocks': ({},)}}
  placed = place(small, mesh=mesh, dtype=dtype)
  leaves = {
    path: _quantized(path, leaf, mesh)
    for path, leaf in _stacked(blocks, mesh, dtype)
  }
  placed['backbone']['blocks'] = unflatten(leaves)
  return placed


def _quantized(path: Path, leaf: jax.Array, mesh: Mesh) -> PyTree:
  """Quantise one stacked leaf if it is a kernel."""
  if path[-1] != 'kernel':
    return leaf

  def quantize(kernel: jax.Array) -> PyTree:
    block = {'attention': {}, 'mlp': {}, **unflatten({path: kernel})}
    return {'backbone': {'blocks': quantize_block(block, leading=1)}}

  tree: PyTree = sharding.initialise(quantize, leaf, mesh=mesh)
  node = tree['backbone']['blocks']
  for key in path:
    node = node[key]
  jax.block_until_ready(node)
  leaf.delete()
  return node


def _stacked(
  blocks: Sequence[PyTree], mesh: Mesh, dtype: Any
) -> Iterator[tuple[Path, jax.Array]]:
  """Yield the leaves of a stack, each on its devices."""
  by_block = [flatten(block) for block in blocks]
  for path in by_block[0]:
    leaves = [block[path] for block in by_block]
    kind = jnp.result_type(*{leaf.dtype for leaf in leaves})

    def read(index, leaves=leaves):
      return np.stack([leaf[index[1:]] for leaf in leaves[index[0]]])

    shape = (len(leaves), *leaves[0].shape)
    at = ('backbone', 'blocks', *path)
    yield path, _array(read, at, shape, dtype or kind, mesh)


def _place_tree(tree: PyTree, mesh: Mesh, dtype: Any) -> PyTree:
  def one(path, leaf) -> jax.Array:
    names = sharding.path_names(path)
    read = lambda index: leaf[index]
    return _array(read, names, leaf.shape, dtype or leaf.dtype, mesh)

  return jax.tree_util.tree_map_with_path(one, tree)


def _array(
  read: Callable[[tuple[slice, ...]], np.ndarray],
  path: Sequence[str],
  shape: tuple[int, ...],
  dtype: Any,
  mesh: Mesh,
) -> jax.Array:
  """Return an array of which every device has read its own part."""
  dtype = jnp.dtype(dtype)
  leaf = jax.ShapeDtypeStruct(shape, dtype)
  where: NamedSharding = jax.tree.leaves(
    sharding.shardings(unflatten({tuple(path): leaf}), mesh=mesh)
  )[0]
  return sharding.read_parts(read, shape=shape, dtype=dtype, where=where)
