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
"""Write small trees of arrays through Orbax, and read named leaves back.

Leaves lie in one folder each, without compression (weights do not compress),
so that a missing or shortened one is found and named.
"""

import json
import logging
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from eejax import storage
from eejax.checkpoint.lazy_array import LazyArray
from eejax.errors import CheckpointError
from eejax.types import PyTree

Path = tuple[str, ...]

# Part of the name of every file of Orbax's code.
_ORBAX = f'{os.sep}orbax{os.sep}'


class _QuietOrbax(logging.Filter):
  """Drop what Orbax logs: its inner workings, and errors it raises as well."""

  def filter(self, record: logging.LogRecord) -> bool:
    return _ORBAX not in record.pathname


def keep_quiet() -> None:
  """Keep Orbax and TensorStore from writing to stderr by themselves.

  It is done when this module is imported; who puts a hook of Python's in the
  place of this one afterwards, as a test runner may, calls it again.
  """
  # Orbax logs through absl, whose logger exists once Orbax is imported.
  logging.getLogger('absl').addFilter(_QuietOrbax())
  # When one read or write fails, the others are abandoned: TensorStore's
  # threads report them to an event loop that is gone, Orbax's coroutines are
  # collected half way, and Python prints a traceback for each.
  previous = sys.unraisablehook

  def hook(unraisable: Any) -> None:
    code = getattr(unraisable.object, 'cr_code', None)
    is_theirs = code is not None and _ORBAX in code.co_filename
    if not is_theirs and str(unraisable.exc_value) != 'Event loop is closed':
      previous(unraisable)

  sys.unraisablehook = hook


keep_quiet()


def write_tree(path: str | os.PathLike, tree: PyTree) -> None:
  """Write a tree of NumPy or JAX arrays as the new folder `path`."""
  with _checkpointer() as checkpointer:
    checkpointer.save(storage.absolute(path), args=ocp.args.PyTreeSave(tree))


def write_ocdbt_tree(path: str | os.PathLike, tree: PyTree) -> None:
  """Write a tree as the new folder `path`, all leaves in one database.

  t5x and others who use Orbax's defaults write and read this form.
  """
  with _checkpointer(use_ocdbt=True) as checkpointer:
    checkpointer.save(storage.absolute(path), args=ocp.args.PyTreeSave(tree))


def is_tree(path: str | os.PathLike) -> bool:
  """Return whether `path` is a folder that Orbax wrote a tree into."""
  return (storage.as_path(path) / '_METADATA').is_file()


def read_tree(
  path: str | os.PathLike, *, root: Path = ()
) -> dict[Path, np.ndarray]:
  """Read what lies below one node of a tree that Orbax wrote, in any form.

  Args:
    path: the folder.
    root: path of the node; what lies elsewhere is not read.

  Returns:
    The leaves by their paths from `root` on.

  Raises:
    CheckpointError: a leaf is missing or cut short.
  """
  try:
    handler = ocp.PyTreeCheckpointHandler()
    metadata = handler.metadata(epath.Path(storage.absolute(path))).tree
  except (ValueError, KeyError, OSError) as error:
    raise CheckpointError(_broken(path, error)) from error
  shapes = {
    at: tuple(leaf.shape)
    for at, leaf in flatten(metadata).items()
    if at[: len(root)] == root
  }
  if not shapes:
    return {}
  found = _restore(path, shapes, _checkpointer(use_ocdbt=True))
  return {at[len(root) :]: leaf for at, leaf in found.items()}


def read_leaves(
  path: str | os.PathLike, shapes: Mapping[Path, tuple[int, ...]]
) -> dict[Path, np.ndarray]:
  """Read the leaves at the paths of `shapes` from a folder of `write_tree`.

  Other leaves are not read. The dtype is that of the file.

  Raises:
    CheckpointError: a leaf is missing, cut short or misshapen.
  """
  opened = _open_leaves(path, shapes)
  reading = {at: leaf.read() for at, leaf in opened.items()}
  try:
    return {at: future.result() for at, future in reading.items()}
  except ValueError as error:
    raise CheckpointError(_broken(path, error)) from error


def _restore(
  path: str | os.PathLike,
  shapes: Mapping[Path, tuple[int, ...]],
  checkpointer: ocp.Checkpointer,
) -> dict[Path, np.ndarray]:
  """Read leaves that are there, and check their shapes."""
  item = unflatten({at: np.empty(0) for at in shapes})
  as_stored = ocp.RestoreArgs(restore_type=np.ndarray)
  arguments = ocp.args.PyTreeRestore(
    item=item,
    restore_args=jax.tree.map(lambda _: as_stored, item),
    partial_restore=True,
  )
  try:
    with checkpointer:
      tree = checkpointer.restore(storage.absolute(path), args=arguments)
  except (ValueError, KeyError, OSError) as error:
    raise CheckpointError(_broken(path, error)) from error
  leaves = {at: np.asarray(leaf) for at, leaf in flatten(tree).items()}
  for at, shape in shapes.items():
    if leaves[at].shape != shape:
      raise CheckpointError(
        f'{path}: {"/".join(at)} has shape {leaves[at].shape}, not {shape}.'
      )
  return leaves


def _broken(path: str | os.PathLike, error: Exception) -> str:
  reason = ' '.join(str(error).split()).split(' [')[0]
  return f'{path} is broken; copy or make the checkpoint again ({reason}).'


def map_leaves(
  path: str | os.PathLike, shapes: Mapping[Path, tuple[int, ...]]
) -> dict[Path, np.ndarray | LazyArray]:
  """Return the same leaves as read-only views of their files.

  Of a leaf in a store, each use reads what it needs. A leaf that some other
  program has cut up or compressed is read.

  Raises:
    CheckpointError: a leaf is missing, cut short or misshapen.
  """
  if storage.is_remote(path):
    opened = _open_leaves(path, shapes)
    return {at: _lazy(path, leaf) for at, leaf in opened.items()}
  mapped: dict[Path, np.ndarray | LazyArray] = {}
  for at, shape in shapes.items():
    view = _view(storage.local_path(path) / '.'.join(at), shape)
    mapped[at] = read_leaves(path, {at: shape})[at] if view is None else view
  return mapped


def _view(folder: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray | None:
  """Return a leaf's only file as an array, None if it is not that simple."""
  try:
    header = json.loads((folder / '.zarray').read_text())
    dtype = jnp.dtype(header['dtype'])
    chunk = header['dimension_separator'].join('0' * len(shape)) or '0'
    if (
      tuple(header['shape']) != shape
      or tuple(header['chunks']) != shape
      or header['compressor'] is not None
      or header['filters']
      or header['order'] != 'C'
    ):
      return None
    data = np.memmap(folder / chunk, np.uint8, mode='r')
    return np.asarray(data).view(dtype).reshape(shape)
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _open_leaves(
  path: str | os.PathLike, shapes: Mapping[Path, tuple[int, ...]]
) -> dict[Path, ts.TensorStore]:
  """Open leaves of `write_tree`, all at a time.

  Orbax takes twenty times as long for a small model on a disk, and asks a
  store ten times for each leaf.
  """
  opening = {at: ts.open(_zarr(path, '.'.join(at)), read=True) for at in shapes}
  found = {}
  for at, future in opening.items():
    try:
      found[at] = future.result()
    except ValueError as error:
      if str(error).startswith('NOT_FOUND'):
        raise CheckpointError(
          f'{path} lacks the array {"/".join(at)}.'
        ) from error
      raise CheckpointError(_broken(path, error)) from error
    if found[at].shape != shapes[at]:
      raise CheckpointError(
        f'{path}: {"/".join(at)} has shape {found[at].shape}, not {shapes[at]}.'
      )
  return found


def _zarr(path: str | os.PathLike, name: str) -> dict[str, Any]:
  """Return where TensorStore finds a leaf."""
  kvstore: str | dict[str, str] = f'{storage.address(path)}/{name}/'
  if not storage.is_remote(path):
    folder = storage.absolute(path) / name
    kvstore = {'driver': 'file', 'path': f'{folder}/'}
  # A file that is gone would be read as zeros.
  return {
    'driver': 'zarr',
    'kvstore': kvstore,
    'fill_missing_data_reads': False,
  }


def _lazy(path: str | os.PathLike, leaf: ts.TensorStore) -> LazyArray:
  """Return a leaf in a store of which each use reads what it needs."""

  def read(index: Any = ...) -> np.ndarray:
    try:
      return leaf[index].read().result()
    except ValueError as error:
      raise CheckpointError(_broken(path, error)) from error

  return LazyArray(leaf.shape, leaf.dtype.numpy_dtype, read, read_part=read)


def flatten(tree: PyTree) -> dict[Path, Any]:
  """Return the arrays of nested dicts by their path, in path order."""
  flat, _ = jax.tree.flatten_with_path(tree)
  return {tuple(key.key for key in path): leaf for path, leaf in flat}


def unflatten(leaves: Mapping[Path, object]) -> PyTree:
  """Return the nested dicts that `flatten` took apart."""
  tree: dict = {}
  for path, leaf in leaves.items():
    node = tree
    for key in path[:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = leaf
  return tree


def _checkpointer(**form: bool) -> ocp.Checkpointer:
  """Return what reads and writes trees, by default a folder a leaf.

  Args:
    **form: of the files; see `ocp.PyTreeCheckpointHandler`.
  """
  # Each process reads and writes by itself; none waits for the others.
  own = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=own,
    active_processes={own},
    barrier_sync_key_prefix=f'eejax_{own}',
  )
  apart = {'use_ocdbt': False, 'use_zarr3': False, 'use_compression': False}
  handler = ocp.PyTreeCheckpointHandler(
    **(form or apart), multiprocessing_options=alone
  )
  return ocp.Checkpointer(handler, multiprocessing_options=alone)
