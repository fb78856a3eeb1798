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
"""Load a model, whatever it is kept as."""

import os
import pathlib
from typing import Any

from eejax import storage
from eejax.checkpoint import (
  fetched,
  folder,
  gguf_file,
  gguf_import,
  hub,
  huggingface,
  manifest,
  packaged,
  streaming,
  t5x_layout,
)
from eejax.checkpoint.model import Model
from eejax.errors import ArgumentError
from eejax.parallel.mesh import MeshChoice, devices_of
from eejax.progress import SILENT, Progress

# The name of the model that eejax brings along.


def load(
  source: str | os.PathLike,
  *,
  dtype: Any = None,
  mesh: MeshChoice | None = None,
  progress: Progress = SILENT,
) -> Model:
  """Load a model from a file, a folder, the Hugging Face hub or an index.

  Args:
    source: an eejax checkpoint, a Hugging Face folder, a GGUF file or a
      checkpoint of t5x, here or in a store (`gs://bucket/model`); a name
      `organisation/model` where the hub can be reached, `smollm2`, a small
      model for conversations that is fetched from the package index once, or
      `default`, which eejax brings along.
    dtype: what every array is converted to; by default each stays as stored.
    mesh: lays every array over devices, each of which reads its own part of
      the files, where these are an eejax checkpoint or safetensors: axes as in
      `fsdp=4` or `data=2,model=4`, a name in `configs/meshes`, a `MeshConfig`
      or a mesh of jax. None takes the default device.
    progress: is told while files are read.

  Returns:
    The model: configuration, parameters, tokenizer, provenance.

  Raises:
    ArgumentError: `source` is none of these.
    CheckpointError: its files are missing, cut short or misshapen, or the hub
      or the index cannot be reached.
    EejaxError: the mesh does not fit the devices.

  Example:
    >>> import eejax
    >>> model = eejax.load('default')
    >>> model.config.model.num_layers
    12
  """
  if mesh is not None:
    mapped = map_source(source, progress=progress)
    return streaming.on_mesh(mapped, mesh=devices_of(mesh), dtype=dtype)
  source = fetched.local_copy(source, progress=progress)
  if storage.is_remote(source):
    with progress.waiting(f'reading {source}'):
      return folder.load(source, dtype=dtype)
  path = packaged.resolve(source, progress=progress)
  with progress.waiting(f'reading {source}'):
    if (path / manifest.NAME).is_file():
      return folder.load(path, dtype=dtype)
    if (path / huggingface.CONFIG).is_file():
      return huggingface.import_folder(path, dtype=dtype)
    if gguf_file.is_gguf(path):
      return gguf_import.import_file(path, dtype=dtype)
    if t5x_layout.is_checkpoint(path):
      return t5x_layout.load(path, dtype=dtype)
    if not path.exists() and hub.is_hub_name(str(source)):
      return huggingface.import_folder(str(source), dtype=dtype)
  raise ArgumentError(_what_is_wrong(path))


def map_source(
  source: str | os.PathLike, *, progress: Progress = SILENT
) -> Model:
  """Return a model whose arrays are views of its files, where these can be.

  They can where it is an eejax checkpoint or safetensors; of other kinds the
  arrays are loaded.

  Args:
    source: as `load` takes it.
    progress: is told while files are read.

  Raises:
    EejaxError: as `load`.
  """
  source = fetched.local_copy(source, progress=progress)
  path = packaged.resolve(source, progress=progress)
  if (path / manifest.NAME).is_file():
    return streaming.map_checkpoint(path)
  if (path / huggingface.CONFIG).is_file():
    return huggingface.map_folder(path)
  return load(source, progress=progress)


def _what_is_wrong(path: pathlib.Path) -> str:
  kinds = (
    f'an eejax checkpoint (with {manifest.NAME}), a Hugging Face folder '
    f'(with {huggingface.CONFIG}), a GGUF file or a t5x checkpoint '
    '(checkpoint_STEP)'
  )
  if not path.exists():
    return (
      f'there is no folder {path}; name {kinds}, a model of the hub, '
      f'{packaged.SMOLLM2.name!r} or {packaged.DEFAULT!r}.'
    )
  if path.is_file():
    return f'{path} is a file; name {kinds}.'
  return f'{path} is neither {kinds}.'
