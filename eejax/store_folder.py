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
"""Folders of files in a store: listed, fetched, and written whole.

A store has no folders and renames nothing, so a folder is whole when the file
that is written last, its marker, is there.
"""

import concurrent.futures
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eejax import storage
from eejax.storage import AnyPath

# Says that what lies beside it was not, or is not yet, written to the end.
PARTIAL = '.eejax-partial'
# Where files wait that are to take the place of others.
_NEW = '.eejax-new'
_THREADS = 16


def list_files(path: AnyPath) -> dict[str, int]:
  """Return the size of every file below `path`, by its name from there."""
  if not storage.is_remote(path):
    return {
      file.relative_to(path).as_posix(): file.stat().st_size
      for file in sorted(path.rglob('*'))
      if file.is_file()
    }
  files, root = _client(path)
  try:
    found = files.find(root, detail=True)
  except FileNotFoundError:
    return {}
  return {
    name.removeprefix(root.rstrip('/') + '/'): int(entry['size'])
    for name, entry in sorted(found.items())
    if name != root and not name.endswith('/')
  }


def glob(pattern: AnyPath) -> list[AnyPath]:
  """Return the files in a store that a pattern means; `**` goes deep."""
  files, name = _client(pattern)
  store = storage.store_of(pattern)
  return [storage.as_path(f'{store}://{found}') for found in files.glob(name)]


def file_facts(path: AnyPath) -> list[str | int]:
  """Return what changes when a file has changed, its contents unread."""
  if not storage.is_remote(path):
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]
  files, name = _client(path)
  info = files.info(name)
  return [str(path), int(info['size']), _mark(info)]


def _mark(info: Mapping[str, Any]) -> str:
  """Return what a store gives to a file each time it is written."""
  return str(info.get('generation') or info.get('ETag') or info.get('etag'))


def folder_facts(path: AnyPath) -> list[list[str | int]]:
  """Return the same of every file in a store below `path`, or of that file."""
  files, root = _client(path)
  found = files.find(root, detail=True)
  return [
    [f'{storage.store_of(path)}://{name}', int(info['size']), _mark(info)]
    for name, info in sorted(found.items())
  ]


def copy(source: AnyPath, dest: AnyPath) -> None:
  """Copy a folder between this machine and a store, in any direction."""
  if not storage.is_remote(source) and not storage.is_remote(dest):
    shutil.copytree(source, dest)
    return
  _each(lambda name: copy_file(source / name, dest / name), list_files(source))


def copy_file(source: AnyPath, dest: AnyPath) -> None:
  """Copy a file between this machine and a store, in any direction."""
  if storage.is_remote(source):
    files, name = _client(source)
    if storage.is_remote(dest):
      files.cp_file(name, _client(dest)[1])
    else:
      dest.parent.mkdir(parents=True, exist_ok=True)
      files.get_file(name, str(dest))
  elif storage.is_remote(dest):
    files, name = _client(dest)
    files.put_file(str(source), name)
  else:
    dest.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, dest)


def remove(path: AnyPath) -> None:
  """Remove a folder with all that is in it, if it is there."""
  if not storage.is_remote(path):
    shutil.rmtree(path, ignore_errors=True)
    return
  files, root = _client(path)
  names = [f'{root}/{name}' for name in list_files(path)]
  if names:
    files.rm(names)


def publish(
  local: pathlib.Path,
  path: AnyPath,
  *,
  marker: str,
  copied: Mapping[str, AnyPath] | None = None,
) -> None:
  """Write a local folder to a store; readers see it once it is whole.

  A folder that is there stays as it is until all files of the new one have
  arrived; they then take its place within the store, the marker last.

  Args:
    local: the files.
    path: where they go.
    marker: the file by which a reader knows that all are there.
    copied: folders that belong in it as they are, by their names there.
  """
  sources = {name: local / name for name in list_files(local)}
  for folder, source in (copied or {}).items():
    for name in list_files(source):
      sources[f'{folder}/{name}'] = source / name
  names = [name for name in sources if name != marker]
  before = list_files(path)
  (path / PARTIAL).write_text(marker)
  waiting = path / _NEW if marker in before else path
  _each(lambda name: copy_file(sources[name], waiting / name), names)
  if marker in before:
    (path / marker).unlink()
    _each(lambda name: copy_file(waiting / name, path / name), names)
  old = set(before) - {*names, marker, PARTIAL}
  _each(lambda name: (path / name).unlink(), sorted(old))
  copy_file(local / marker, path / marker)
  remove(path / _NEW)
  (path / PARTIAL).unlink()


def is_left_over(path: AnyPath, *, marker: str) -> bool:
  """Return whether a folder in a store is what `publish` left half way."""
  return (
    storage.is_remote(path)
    and (path / PARTIAL).exists()
    and not (path / marker).exists()
  )


def create(path: AnyPath, content: bytes) -> None:
  """Write a file that is not there yet, in one step for all who try.

  Raises:
    FileExistsError: it is there.
  """
  files, name = _client(path)
  files.pipe_file(name, content, mode='create')


def _client(path: AnyPath) -> tuple[Any, str]:
  """Return fsspec's file system of an address, and the name in it."""
  import fsspec

  return fsspec.core.url_to_fs(str(path))


def _each(act: Any, names: Sequence[str] | Iterator[str] | dict) -> None:
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    list(pool.map(act, names))  # a list raises what a thread raised
