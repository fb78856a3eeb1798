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
"""Import from and export to the layouts of other programs.

Beside what such a program reads, an exported folder has `config.json` and the
tokenizer of a Hugging Face folder, which say what the model is, and its exits:

  config.json, tokenizer.json, exits.safetensors, exits.json
  0/items/       MaxText: Orbax, {params: {params: ...}}, a step of its own
  maxtext.yml    MaxText: settings that describe the model
  params/        gemma: Orbax

Checkpoints of EE-LLM are read alone; see `eejax.checkpoint.ee_llm`.
"""

import dataclasses
import enum
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from eejax import storage
from eejax.checkpoint import (
  arrays,
  ee_llm,
  gemma_layout,
  huggingface,
  huggingface_export,
  manifest,
  maxtext_layout,
  orbax_tree,
  shapes,
  tree,
)
from eejax.checkpoint.arrays import Path
from eejax.checkpoint.atomic import Existing, whole_folder
from eejax.checkpoint.model import Model
from eejax.checkpoint.tokenizer_files import check_vocabulary, find_tokenizer
from eejax.checkpoint.tree import Layout
from eejax.config import EarlyExitConfig, ModelConfig, architectures
from eejax.errors import ArgumentError, CheckpointError
from eejax.types import Params


class CheckpointFormat(enum.Enum):
  """Whose layout a folder has."""

  HUGGINGFACE = 'huggingface'
  MAXTEXT = 'maxtext'
  GEMMA = 'gemma'
  EE_LLM = 'ee-llm'


_TABLES = {
  CheckpointFormat.MAXTEXT: maxtext_layout,
  CheckpointFormat.GEMMA: gemma_layout,
}
# Where a tree lies in what MaxText and gemma write, the most special first.
_PLACES = {
  CheckpointFormat.MAXTEXT: ('items', ''),
  CheckpointFormat.GEMMA: ('params', 'default', ''),
}
# What stands before the names of the table.
_COLLECTIONS: Mapping[CheckpointFormat, tuple[Path, ...]] = {
  CheckpointFormat.MAXTEXT: (('params', 'params'), ('params',)),
  CheckpointFormat.GEMMA: (('params',), ()),
}
_ITEMS, _PARAMS, _SETTINGS = '0/items', 'params', 'maxtext.yml'


def import_folder(
  source: str | os.PathLike,
  *,
  format: CheckpointFormat = CheckpointFormat.HUGGINGFACE,
  config: str | os.PathLike | None = None,
  layout: Layout = Layout.STACKED,
  dtype: Any = None,
) -> Model:
  """Return the model of a folder in a layout of another program.

  Args:
    source: the folder; of Hugging Face's a hub name, too.
    format: whose layout it has.
    config: says what the model is where no `config.json` lies in `source`: a
      Hugging Face folder, an eejax checkpoint, or a name of `configs/models`.
      Its tokenizer is taken as well. A checkpoint of EE-LLM says what it is,
      and the vocabulary alone is taken from there.
    layout: whether the blocks are stacked.
    dtype: what every array is converted to; by default each stays as stored.

  Raises:
    ArgumentError: there is no such folder, or nothing says what it holds.
    CheckpointError: the folder is incomplete, broken or not supported.
  """
  model = map_folder(source, format=format, config=config)
  params = tree.on_device(
    tree.outer(model.params),
    model.params['backbone']['blocks'],
    model.params['exits'],
    layout=layout,
    dtype=dtype,
  )
  return dataclasses.replace(model, params=params)


def map_folder(
  source: str | os.PathLike,
  *,
  format: CheckpointFormat = CheckpointFormat.HUGGINGFACE,
  config: str | os.PathLike | None = None,
) -> Model:
  """Return the model with its arrays on the host, blocks apart.

  Raises:
    ArgumentError, CheckpointError: as `import_folder`.
  """
  if format is CheckpointFormat.HUGGINGFACE:
    if config is not None:
      raise ArgumentError(
        'a Hugging Face folder says itself what it is; leave out --config.'
      )
    return huggingface.map_folder(source)
  folder = storage.local_path(source)
  if not folder.is_dir():
    raise ArgumentError(f'there is no folder {source}.')
  if format is CheckpointFormat.EE_LLM:
    named = None if config is None else _describe(folder, config)
    return ee_llm.map_folder(folder, described=named)
  described = _describe(folder, config)
  leaves = _read(folder, format, described.config.model)
  backbone = _backbone(leaves, described.config.model)
  held = tree.shapes({'backbone': backbone})
  shapes.check_backbone(held, described.config.model)
  whole, exits = huggingface.read_exits(
    folder, described.config.model, backbone
  )
  return dataclasses.replace(
    described, config=whole, params={'backbone': backbone, 'exits': exits}
  )


def export_folder(
  checkpoint: Model,
  dest: str | os.PathLike,
  *,
  format: CheckpointFormat = CheckpointFormat.HUGGINGFACE,
  shard_bytes: int = huggingface_export.SHARD_BYTES,
  existing: Existing = Existing.REFUSE,
) -> None:
  """Write a model as a folder in a layout of another program.

  Args:
    checkpoint: the model; its backbone must be whole, stacked or not.
    dest: the folder to make.
    format: whose layout it gets.
    shard_bytes: above this the weights are split into several files; Hugging
      Face's layout only.
    existing: what to do when something is at `dest`.

  Raises:
    ArgumentError: `dest` is occupied, or the layout cannot have a part of the
      model.
    CheckpointError: the arrays do not fit the configuration, or the disk is
      full.
  """
  if format is CheckpointFormat.HUGGINGFACE:
    huggingface.export_folder(
      checkpoint, dest, shard_bytes=shard_bytes, existing=existing
    )
    return
  if format is CheckpointFormat.EE_LLM:
    raise ArgumentError(
      "EE-LLM's layout is read, not written; export to huggingface, maxtext or "
      'gemma.'
    )
  config, params = checkpoint.config, checkpoint.params
  shapes.check_backbone(tree.shapes(params), config.model)
  shapes.check_exits(params['exits'], config)
  ours = {
    path: np.asarray(tree.leaf(params, path)) for path in tree.shapes(params)
  }
  theirs = _TABLES[format].to_theirs(ours, config.model)
  # Some values come back rounded, and exits are bound to what comes back.
  back = _TABLES[format].from_theirs(theirs, config.model)
  with whole_folder(dest, existing=existing, marker='config.json') as new:
    huggingface_export.write_description(new, checkpoint)
    if format is CheckpointFormat.MAXTEXT:
      items = {('params', 'params', *at): x for at, x in theirs.items()}
      orbax_tree.write(new / _ITEMS, items)
      _write_settings(new / _SETTINGS, config.model)
    else:
      orbax_tree.write(new / _PARAMS, theirs)
    if config.exits:
      bound = {
        'backbone': _backbone(back, config.model),
        'exits': params['exits'],
      }
      huggingface_export.write_exits(new, bound, config)


# MARK: Reading


def _describe(folder: pathlib.Path, config: str | os.PathLike | None) -> Model:
  """Return what a model is, with its tokenizer and no arrays."""
  place = folder if config is None else storage.local_path(config)
  if (place / manifest.NAME).is_file():
    found = manifest.read_manifest(place)
    model, provenance = found.config.model, dict(found.provenance)
  elif (place / huggingface.CONFIG).is_file():
    model, values = huggingface.read_description(place)
    provenance = {'huggingface': values}
  elif config is not None and not place.is_dir():
    model, provenance = architectures.read_model(str(config)), {}
  else:
    raise ArgumentError(
      f'{place} does not say what the model is: there is no config.json; name '
      'with --config a Hugging Face folder, an eejax checkpoint or a model of '
      'configs/models that does.'
    )
  tokenizer = None
  if place.is_dir():
    check_vocabulary(place, vocab_size=model.vocab_size)
    tokenizer = find_tokenizer(place)
  return Model(
    config=EarlyExitConfig(model),
    params={},
    tokenizer_folder=tokenizer,
    provenance={'source': str(folder), **provenance},
  )


def _read(
  folder: pathlib.Path, format: CheckpointFormat, config: ModelConfig
) -> dict[Path, np.ndarray]:
  """Return the backbone's leaves by path, blocks apart."""
  place = _find(folder, format)
  held = orbax_tree.shapes(place)
  for prefix in _COLLECTIONS[format]:
    inside = {at: s for at, s in held.items() if at[: len(prefix)] == prefix}
    if inside:
      break
  else:
    raise CheckpointError(
      f'{place} has no collection `params`, so it is not of {format.value}.'
    )
  read = orbax_tree.read(place, inside)
  leaves = {at[len(prefix) :]: leaf for at, leaf in read.items()}
  return _TABLES[format].from_theirs(leaves, config)


def _find(folder: pathlib.Path, format: CheckpointFormat) -> pathlib.Path:
  """Return the folder of the tree: of the newest step, where there are some."""
  steps = [p for p in folder.iterdir() if p.is_dir() and p.name.isdigit()]
  newest = max(steps, key=lambda p: int(p.name), default=folder)
  for name in _PLACES[format]:
    if orbax_tree.is_tree(newest / name):
      return newest / name
  raise CheckpointError(
    f'{folder} holds no checkpoint of {format.value}: no folder that Orbax '
    'wrote was found in it.'
  )


def _backbone(leaves: Mapping[Path, np.ndarray], config: ModelConfig) -> Params:
  outer = {at: x for at, x in leaves.items() if at[0] != 'blocks'}
  blocks: list[dict[Path, np.ndarray]] = [{} for _ in range(config.num_layers)]
  for at, leaf in leaves.items():
    if at[0] == 'blocks':
      blocks[int(at[1])][at[2:]] = leaf
  return {
    **arrays.unflatten(outer),
    'blocks': tuple(map(arrays.unflatten, blocks)),
  }


def _write_settings(path: pathlib.Path, config: ModelConfig) -> None:
  # JSON is YAML.
  settings = maxtext_layout.settings(config)
  lines = [f'{k}: {json.dumps(v)}\n' for k, v in settings.items()]
  path.write_text(
    '# Settings of MaxText that describe this model; context and windows are '
    'yours to choose.\n' + ''.join(lines)
  )
