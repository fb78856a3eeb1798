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
"""Read and write `eejax.json`, which says what a checkpoint folder holds."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from eejax import storage, store_folder
from eejax.checkpoint.arrays import Path
from eejax.config import EarlyExitConfig, config_json
from eejax.errors import ArgumentError, CheckpointError
from eejax.storage import AnyPath
from eejax.version import __version__

FORMAT = 1
NAME = 'eejax.json'


@dataclasses.dataclass(frozen=True)
class ArrayInfo:
  """Describe an array on disk."""

  shape: tuple[int, ...]
  dtype: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Contents of `eejax.json`.

  Attributes:
    config: the model and its exits.
    backbone_hash: hash of the whole backbone.
    arrays: what there is; an array is named by its Orbax folder and its path
      therein, as `backbone/blocks/000/mlp/up/kernel`.
    files: size in bytes of every file that the arrays lie in.
    provenance: where the model came from, plain values.
  """

  config: EarlyExitConfig
  backbone_hash: str
  arrays: dict[str, ArrayInfo]
  files: dict[str, int]
  provenance: dict[str, Any]


def read_config(path: str | os.PathLike) -> EarlyExitConfig:
  """Return the configuration of a checkpoint without reading its arrays."""
  return read_manifest(path).config


def read_manifest(path: str | os.PathLike) -> Manifest:
  """Return what a checkpoint says of itself.

  Raises:
    ArgumentError: there is no checkpoint.
    CheckpointError: it cannot be understood.
  """
  path = storage.as_path(path)
  with storage.reported(path, what='read'):
    return _read_manifest(path)


def _read_manifest(path: AnyPath) -> Manifest:
  if not (path / NAME).is_file():
    if (path / 'config.json').is_file():
      raise ArgumentError(
        f'{path} is a Hugging Face folder; make a checkpoint of it first: '
        f'eejax import {path} DEST'
      )
    raise ArgumentError(f'there is no eejax checkpoint at {path}.')
  try:
    return _parse(json.loads((path / NAME).read_text()), path)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise CheckpointError(
      f'{path / NAME} is broken ({error}); copy or make the checkpoint again.'
    ) from error


def write_manifest(path: pathlib.Path, manifest: Manifest) -> None:
  """Write `eejax.json` into the folder `path`."""
  values = {
    'format': FORMAT,
    'eejax_version': __version__,
    'config': config_json.to_json(manifest.config),
    'backbone_hash': manifest.backbone_hash,
    'provenance': manifest.provenance,
    'arrays': {
      name: {'shape': list(a.shape), 'dtype': a.dtype}
      for name, a in manifest.arrays.items()
    },
    'files': manifest.files,
  }
  (path / NAME).write_text(json.dumps(values, indent=1) + '\n')


def describe(folder: str, leaves: Mapping[Path, Any]) -> dict[str, ArrayInfo]:
  """Return the entries of arrays that lie in one Orbax folder."""
  return {
    '/'.join((folder, *path)): ArrayInfo(tuple(leaf.shape), leaf.dtype.name)
    for path, leaf in leaves.items()
  }


def check_files(path: AnyPath, manifest: Manifest, folder: str) -> None:
  """Check that the files of one Orbax folder are there and whole.

  Raises:
    CheckpointError: one is missing or of another size.
  """
  found = store_folder.list_files(path / folder)
  for name, size in manifest.files.items():
    if not name.startswith(folder + '/'):
      continue
    held = found.get(name.removeprefix(folder + '/'))
    if held is None:
      raise CheckpointError(
        f'{path} is cut short: {name} is missing; copy or make the checkpoint '
        'again.'
      )
    if held != size:
      raise CheckpointError(
        f'{path} is broken: {name} has {held} bytes, not {size}; copy or make '
        'the checkpoint again.'
      )


def _parse(values: Mapping[str, Any], path: AnyPath) -> Manifest:
  if values['format'] != FORMAT:
    raise CheckpointError(
      f'{path} has format {values["format"]}, this version of eejax reads '
      f'format {FORMAT}; update eejax.'
    )
  return Manifest(
    config=config_json.from_json(values['config']),
    backbone_hash=values['backbone_hash'],
    arrays={
      name: ArrayInfo(tuple(a['shape']), a['dtype'])
      for name, a in values['arrays'].items()
    },
    files=dict(values['files']),
    provenance=dict(values['provenance']),
  )
