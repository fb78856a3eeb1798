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
"""The eejax checkpoint: a folder that holds a backbone and its exits.

eejax.json           what is here: format, configuration, hash of the
                     backbone, shapes and dtypes, file sizes, provenance
backbone/outer/      Orbax: embedding, final norm, head
backbone/blocks/000/ Orbax: a folder a block, so that a prefix can be read
exits/exit_6/        Orbax: a folder an exit
tokenizer.json ...   as in the Hugging Face folder it came from
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from eejax import storage, store_folder
from eejax.checkpoint import arrays, partial, shapes, tree
from eejax.checkpoint import manifest as manifest_lib
from eejax.checkpoint.atomic import Existing, whole_folder
from eejax.checkpoint.manifest import (
  Manifest,
  check_files,
  read_config,
  read_manifest,
)
from eejax.checkpoint.model import Model
from eejax.checkpoint.tokenizer_files import copy_tokenizer, find_tokenizer
from eejax.checkpoint.tree import Layout, backbone_hash
from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError
from eejax.models.stacking import truncate
from eejax.parallel import multihost
from eejax.types import Params, PyTree

__all__ = [
  'Existing',
  'Layout',
  'backbone_hash',
  'load',
  'read_config',
  'read_manifest',
  'replace_exits',
  'save',
]


def load(
  path: str | os.PathLike,
  *,
  depth: int | None = None,
  layout: Layout = Layout.STACKED,
  dtype: Any = None,
) -> Model:
  """Read a checkpoint, or its first blocks alone.

  Args:
    path: the folder.
    depth: how many blocks to read, all by default. Exits beyond are left out
      of the configuration and not read; deeper blocks may even be missing.
    layout: whether the blocks are stacked.
    dtype: what every array is converted to; by default each stays as stored.

  Raises:
    ArgumentError: there is no checkpoint, or it has fewer blocks.
    CheckpointError: an array is missing, cut short or misshapen.
  """
  path = storage.as_path(path)
  manifest = read_manifest(path)
  blocks = manifest.config.model.num_layers
  depth = blocks if depth is None else depth
  if not 0 <= depth <= blocks:
    raise ArgumentError(
      f'cannot load {depth} blocks: the model at {path} has {blocks}.'
    )
  exits = tuple(e for e in manifest.config.exits if e.depth <= depth)
  # Blocks of a stack know their shapes, so a stack of none is cut from one.
  read_depth = max(depth, 1) if layout is Layout.STACKED else depth
  params = tree.on_device(
    partial.read_outer(path, manifest),
    partial.read_blocks(path, manifest, depth=read_depth),
    {e.name: partial.read_exit(path, manifest, exit=e) for e in exits},
    layout=layout,
    dtype=dtype,
  )
  if read_depth > depth:
    params = truncate(params, depth=depth)
  return Model(
    config=manifest.config.with_exits(exits),
    params=params,
    tokenizer_folder=find_tokenizer(path),
    backbone_hash=manifest.backbone_hash,
    provenance=manifest.provenance,
  )


def save(
  path: str | os.PathLike,
  checkpoint: Model,
  *,
  dtype: Any = None,
  existing: Existing = Existing.REFUSE,
) -> Model:
  """Write a checkpoint, whole or not at all.

  Args:
    path: the folder to make.
    checkpoint: what to write; its backbone must be whole, its blocks may be
      stacked or not, its arrays on a device, on the host or in mapped files;
      it is copied a block at a time.
    dtype: what every array is converted to; by default each stays as it is.
    existing: what to do when something is at `path`.

  Returns:
    `checkpoint` with the hash of what was written, and its tokenizer there.
    The arrays are those that were given, not converted.

  Raises:
    ArgumentError: `path` is occupied.
    CheckpointError: the arrays do not fit the configuration, or the disk is
      full.
  """
  params = checkpoint.params
  shapes.check_backbone(tree.shapes(params), checkpoint.config.model)
  shapes.check_exits(params['exits'], checkpoint.config)
  if not multihost.is_first():
    return _take_part(path, checkpoint)
  with whole_folder(path, existing=existing, marker=manifest_lib.NAME) as new:
    digest = tree.BackboneDigest()
    described: dict[str, manifest_lib.ArrayInfo] = {}
    for prefix, part in tree.parts(params):
      values = jax.tree.map(lambda leaf: tree.host_copy(leaf, dtype), part)
      digest.update(prefix, values)
      at = '/'.join(('backbone', *(prefix or ('outer',))))
      described |= _write(new, at, values)
    written = dataclasses.replace(checkpoint, backbone_hash=digest.hexdigest())
    _finish(new, written, described, dtype)
  multihost.barrier()
  return _at(written, path)


def replace_exits(
  path: str | os.PathLike,
  *,
  source: str | os.PathLike,
  config: EarlyExitConfig,
  exits: Params,
  provenance: Mapping[str, Any] | None = None,
  existing: Existing = Existing.REFUSE,
) -> Model:
  """Write a checkpoint with the backbone of another one and other exits.

  The backbone's files are copied as they are, byte for byte, and never held
  in memory: a run that tuned exits needs to have read no block beyond them.

  Args:
    path: the folder to make; with `existing` it may be `source` itself.
    source: the checkpoint whose backbone and tokenizer are taken.
    config: the same backbone with the new exits.
    exits: parameters by exit name, as in `params['exits']`.
    provenance: what to add to the source's.
    existing: what to do when something is at `path`.

  Returns:
    What was written; its `params` hold the exits alone.

  Raises:
    ArgumentError: `path` is occupied, or the backbones differ.
    CheckpointError: the source is broken, or the disk is full.
  """
  source = storage.as_path(source)
  manifest = read_manifest(source)
  if manifest.config.model != config.model:
    raise ArgumentError(
      f'the backbone at {source} is not the one that the new exits are for.'
    )
  check_files(source, manifest, 'backbone')
  shapes.check_exits(exits, config)
  checkpoint = Model(
    config=config,
    params={'exits': exits},
    tokenizer_folder=find_tokenizer(source),
    backbone_hash=manifest.backbone_hash,
    provenance={**manifest.provenance, **(provenance or {})},
  )
  described = {
    name: info
    for name, info in manifest.arrays.items()
    if name.startswith('backbone/')
  }
  if not multihost.is_first():
    return _take_part(path, checkpoint)
  with whole_folder(
    path,
    existing=existing,
    marker=manifest_lib.NAME,
    copied={'backbone': source / 'backbone'},
  ) as new:
    _finish(new, checkpoint, described, copied=_sizes(manifest, 'backbone'))
  multihost.barrier()
  return _at(checkpoint, path)


def _take_part(path: str | os.PathLike, checkpoint: Model) -> Model:
  """Give host 0 this host's parts of what it writes, in the same order."""
  params = checkpoint.params
  if 'backbone' in params:
    for _, part in tree.parts(params):
      jax.tree.map(tree.host_copy, part)
  for exit in checkpoint.config.exits:
    jax.tree.map(tree.host_copy, params['exits'].get(exit.name, {}))
  multihost.barrier()
  return _at(checkpoint, path)


def _finish(
  new: pathlib.Path,
  checkpoint: Model,
  described: dict[str, manifest_lib.ArrayInfo],
  dtype: Any = None,
  *,
  copied: Mapping[str, int] | None = None,
) -> None:
  """Write what follows the backbone: exits, tokenizer, manifest.

  Args:
    new: the folder.
    checkpoint: what is written.
    described: the arrays so far; those of exits are added.
    dtype: what every array is converted to.
    copied: sizes of files that are put into the folder afterwards.
  """
  exits = checkpoint.params['exits']
  for exit in checkpoint.config.exits:
    # An embedding exit with a shared head has no parameters of its own.
    if exits.get(exit.name):
      convert = lambda leaf: tree.host_copy(leaf, dtype)
      values = jax.tree.map(convert, exits[exit.name])
      described |= _write(new, partial.exit_folder(exit), values)
  files = {**(copied or {}), **store_folder.list_files(new)}
  copy_tokenizer(checkpoint.tokenizer_folder, new)
  assert checkpoint.backbone_hash is not None
  manifest_lib.write_manifest(
    new,
    Manifest(
      config=checkpoint.config,
      backbone_hash=checkpoint.backbone_hash,
      arrays=described,
      files=files,
      provenance=checkpoint.provenance,
    ),
  )


def _sizes(manifest: Manifest, folder: str) -> dict[str, int]:
  return {
    name: size
    for name, size in manifest.files.items()
    if name.startswith(folder + '/')
  }


def _at(checkpoint: Model, path: str | os.PathLike) -> Model:
  found = find_tokenizer(storage.as_path(path))
  return dataclasses.replace(checkpoint, tokenizer_folder=found)


def _write(
  new: pathlib.Path, name: str, values: PyTree
) -> dict[str, manifest_lib.ArrayInfo]:
  arrays.write_tree(new / name, values)
  return manifest_lib.describe(name, arrays.flatten(values))
