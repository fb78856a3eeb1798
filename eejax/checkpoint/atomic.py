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
"""Write a folder so that it is there whole or not at all."""

import concurrent.futures
import contextlib
import enum
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping

from eejax import storage, store_folder
from eejax.errors import ArgumentError, WriteError
from eejax.storage import AnyPath


class Existing(enum.Enum):
  """What to do where the destination already holds something.

  REFUSE: leave it and raise. OVERWRITE: replace it, if it is something this
  project wrote.
  """

  REFUSE = 'refuse'
  OVERWRITE = 'overwrite'


@contextlib.contextmanager
def whole_folder(
  path: str | os.PathLike,
  *,
  existing: Existing = Existing.REFUSE,
  marker: str,
  copied: Mapping[str, AnyPath] | None = None,
) -> Iterator[pathlib.Path]:
  """Yield an empty folder that becomes `path` when the block ends well.

  The folder is a hidden sibling of `path`; its files are flushed to the disk
  before it is renamed. When the block raises, it is removed and `path` is as
  before. For a `path` in a store it is a temporary folder, whose files are
  sent when the block has ended.

  Args:
    path: the destination.
    existing: what to do when `path` is there and not empty.
    marker: a file by which a folder that may be overwritten is recognised.
    copied: folders that become a part of it as they are, by their names in
      it; the marker's writer does not find them in the folder it is given.

  Raises:
    ArgumentError: `path` is occupied.
    WriteError: the disk is full or cannot be written.
  """
  # absolute() keeps a symbolic link as the name that is replaced.
  path = storage.absolute(path)
  check_destination(path, existing=existing, marker=marker)
  if storage.is_remote(path):
    with tempfile.TemporaryDirectory(prefix='eejax-') as made:
      yield pathlib.Path(made)
      with storage.reported(path, what='written'):
        store_folder.publish(
          pathlib.Path(made), path, marker=marker, copied=copied or {}
        )
    return
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = tempfile.mkdtemp(prefix=f'.{path.name}.part-', dir=path.parent)
  except OSError as error:
    raise _cannot_write(path, error) from error
  partial_path = pathlib.Path(partial)
  try:
    yield partial_path
    for name, source in (copied or {}).items():
      store_folder.copy(source, partial_path / name)
    _flush(partial_path)
    _swap(partial_path, path)
  except Exception as error:
    if isinstance(error, OSError) or is_disk_full(error):
      raise _cannot_write(path, error) from error
    raise
  finally:
    shutil.rmtree(partial_path, ignore_errors=True)


def check_destination(
  path: str | os.PathLike, *, existing: Existing, marker: str
) -> None:
  """Check that a folder may be written, before long work is begun for it.

  Raises:
    ArgumentError: `path` is occupied.
    StoreError: the store refuses, or fails.
  """
  path = storage.as_path(path)
  with storage.reported(path, what='read'):
    _check_destination(path, existing, marker)


def _check_destination(path: AnyPath, existing: Existing, marker: str) -> None:
  if not path.exists() or store_folder.is_left_over(path, marker=marker):
    return
  if not path.is_dir():
    raise ArgumentError(f'{path} is a file; name a folder that is free.')
  if not any(path.iterdir()):
    return
  if existing is Existing.REFUSE:
    raise ArgumentError(
      f'{path} is not empty; name another folder, or ask to overwrite it.'
    )
  if not (path / marker).exists():
    raise ArgumentError(
      f'{path} will not be overwritten: it holds no {marker}, so it is not '
      'what this command writes; remove it yourself or name another folder.'
    )


def _flush(folder: pathlib.Path) -> None:
  """Force every file and folder below `folder` onto the disk."""
  # mkdtemp makes a folder that only its owner may read; a checkpoint is made
  # like any other folder.
  mask = os.umask(0)
  os.umask(mask)
  folder.chmod(0o777 & ~mask)
  paths = [str(folder), *map(str, folder.rglob('*'))]
  with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
    list(pool.map(_sync, paths))  # a list raises what a thread raised


def _sync(path: str) -> None:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def _swap(partial: pathlib.Path, path: pathlib.Path) -> None:
  """Put `partial` in the place of `path`, whose old content is removed."""
  old = None
  if path.exists() and any(path.iterdir()):
    old = tempfile.mkdtemp(prefix=f'.{path.name}.old-', dir=path.parent)
    os.rename(path, old)
  try:
    os.rename(partial, path)
  except OSError:
    if old is not None:
      os.rename(old, path)
    raise
  _sync(str(path.parent))
  if old is not None:
    shutil.rmtree(old, ignore_errors=True)


def is_disk_full(error: BaseException) -> bool:
  """Return whether an error says that there is no room, in whatever words."""
  seen: BaseException | None = error
  while seen is not None:
    if getattr(seen, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
      return True
    # TensorStore turns the system's error into text.
    if os.strerror(errno.ENOSPC) in str(seen):
      return True
    seen = seen.__cause__ or seen.__context__
  return False


def _cannot_write(path: pathlib.Path, error: BaseException) -> WriteError:
  if is_disk_full(error):
    return WriteError(
      f'the disk is full: {path} was not written; make room and try again.'
    )
  reason = getattr(error, 'strerror', None) or str(error)
  return WriteError(f'{path} was not written: {reason}.')
