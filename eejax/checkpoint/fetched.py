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
"""Copies, on this machine, of models that others left in a store.

eejax reads its own checkpoints where they are. Those of other programs are
files to be mapped, so they are fetched into a cache once.
"""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Collection

from eejax import cache_folders, storage, store_folder
from eejax.checkpoint import huggingface, manifest
from eejax.errors import ArgumentError, CheckpointError
from eejax.progress import SILENT, Progress

_MEGABYTE = 10**6
# What is read of a Hugging Face folder; beside it lie the same weights in the
# formats of other programs.
_READ = ('.json', '.safetensors', '.jinja', '.model', '.txt')


def local_copy(
  source: str | os.PathLike, *, progress: Progress = SILENT
) -> str | os.PathLike:
  """Return a source that can be mapped.

  Args:
    source: a model, here or in a store.
    progress: is told how much has been fetched.

  Returns:
    `source`, or a copy of it on this machine where it lies in a store and is
    no checkpoint of eejax. It stays in `$XDG_CACHE_HOME/eejax/fetched`, and
    is fetched again when a file of it has changed.

  Raises:
    ArgumentError: there is nothing at the address.
    CheckpointError: there is no room for the copy.
    StoreError: the store refuses, or is not there.
  """
  if not storage.is_remote(source):
    return source
  path = storage.as_path(source)
  with storage.reported(path, what='read'):
    if (path / manifest.NAME).exists():
      return source
    files = store_folder.folder_facts(path)
  if not files:
    raise ArgumentError(f'there is nothing at {storage.address(source)}.')
  start = storage.address(path).rstrip('/')
  sizes = {str(at).removeprefix(start)[1:]: int(size) for at, size, _ in files}
  sizes = {name: sizes[name] for name in _wanted(sizes)}
  place = cache_folders.folder('fetched') / _digest(files) / path.name
  _fetch(path, place, sizes, progress)
  return place


def _wanted(names: Collection[str]) -> list[str]:
  is_huggingface = huggingface.CONFIG in names and any(
    name.endswith('.safetensors') for name in names
  )
  if not is_huggingface:
    return list(names)
  return [n for n in names if '/' not in n and n.endswith(_READ)]


def _digest(files: list[list[str | int]]) -> str:
  text = json.dumps(files)
  return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _fetch(
  path: storage.AnyPath,
  place: pathlib.Path,
  sizes: dict[str, int],
  progress: Progress,
) -> None:
  """Copy the files that are not there yet; an empty name is `path` itself."""
  at = lambda name: place / name if name else place
  missing = {
    name: size
    for name, size in sizes.items()
    if not at(name).is_file() or at(name).stat().st_size != size
  }
  if not missing:
    return
  _check_room(place, sum(missing.values()))
  total = -(-sum(missing.values()) // _MEGABYTE)
  with progress.bar(f'fetching {path}', total=total, unit='MB') as bar:
    done = shown = 0
    for name, size in missing.items():
      file = at(name)
      partial = file.with_name(f'.{file.name}.{os.getpid()}')
      with storage.reported(path, what='read'):
        store_folder.copy_file(path / name if name else path, partial)
      os.replace(partial, file)
      done += size
      bar.update(done // _MEGABYTE - shown)
      shown = done // _MEGABYTE


def _check_room(place: pathlib.Path, needed: int) -> None:
  place.parent.mkdir(parents=True, exist_ok=True)
  free = shutil.disk_usage(place.parent).free
  if needed > free:
    raise CheckpointError(
      f'a copy needs {needed / 1e9:.1f} GB in {place.parent}, where '
      f'{free / 1e9:.1f} GB are free; make room, or set XDG_CACHE_HOME.'
    )
