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
"""Orbax checkpoints that other programs write and read."""

import os
import pathlib
from collections.abc import Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp

from eejax.checkpoint import arrays
from eejax.checkpoint.arrays import Path
from eejax.errors import CheckpointError

_METADATA = ('_METADATA', '_sharding', 'manifest.ocdbt')


def is_tree(path: pathlib.Path) -> bool:
  """Return whether Orbax wrote a tree of arrays as the folder `path`."""
  return any((path / name).exists() for name in _METADATA)


def shapes(path: str | os.PathLike) -> dict[Path, tuple[int, ...]]:
  """Return the shape of every array of a tree; nothing else is read.

  Raises:
    CheckpointError: it is no checkpoint of Orbax.
  """
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      found = checkpointer.metadata(os.path.abspath(path))
    tree = found.item_metadata.tree
  except (ValueError, KeyError, OSError, AttributeError) as error:
    raise CheckpointError(
      f'{path} cannot be read as a checkpoint of Orbax '
      f'({" ".join(str(error).split())}).'
    ) from error
  flat, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda node: hasattr(node, 'shape')
  )
  return {
    tuple(map(_key, path)): tuple(leaf.shape)
    for path, leaf in flat
    if getattr(leaf, 'shape', None) is not None
  }


def read(
  path: str | os.PathLike, wanted: Mapping[Path, tuple[int, ...]]
) -> dict[Path, np.ndarray]:
  """Read the arrays at the paths of `wanted`, and no others.

  Raises:
    CheckpointError: one of them is broken.
  """
  item = arrays.unflatten({at: np.empty(0) for at in wanted})
  as_stored = ocp.RestoreArgs(restore_type=np.ndarray)
  arguments = ocp.args.PyTreeRestore(
    item=item,
    restore_args=jax.tree.map(lambda _: as_stored, item),
    partial_restore=True,
  )
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      tree = checkpointer.restore(os.path.abspath(path), args=arguments)
  except (ValueError, KeyError, OSError) as error:
    raise CheckpointError(
      f'{path} is broken; copy it again ({" ".join(str(error).split())}).'
    ) from error
  return {at: np.asarray(leaf) for at, leaf in arrays.flatten(tree).items()}


def write(path: str | os.PathLike, leaves: Mapping[Path, np.ndarray]) -> None:
  """Write arrays as a tree in one database, which others read by default."""
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(
      os.path.abspath(path), args=ocp.args.PyTreeSave(arrays.unflatten(leaves))
    )


def _key(entry: object) -> str:
  for name in ('key', 'idx', 'name'):
    if hasattr(entry, name):
      return str(getattr(entry, name))
  return str(entry)
