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
"""The folder of a run: what it was made with, and who is working in it.

config.json       what decides the losses; another run is refused the folder
metrics.jsonl     a line a step, and a line a held-out evaluation
tensorboard/      the same for TensorBoard
checkpoints/      to resume from
local_steps.json  how hosts call the run where they keep steps of their own
model/            the result, an eejax checkpoint

The folder may be in a store, as in `gs://bucket/run`.
"""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax

from eejax import cache_folders, serialization, storage, store_lock
from eejax.errors import ArgumentError, EejaxError
from eejax.parallel import multihost
from eejax.storage import AnyPath
from eejax.training import metrics

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
MODEL = 'model'
LOCAL = 'local_steps.json'
_LOCK = '.lock'
_MOST_DIFFERENCES = 5
# Of the file `config.json`.
_FORMAT = 2


@contextlib.contextmanager
def claim(
  folder: str | os.PathLike, *, identity: Mapping[str, Any]
) -> Iterator[AnyPath]:
  """Lock a run folder for this process and this configuration.

  Args:
    folder: the run's folder; made if it is not there.
    identity: plain values by dotted names that decide the losses. The first
      run writes them down; a later one must bring the same.

  Raises:
    ArgumentError: the folder belongs to a run with another configuration,
      which has begun.
    EejaxError: another process is working in it.
    StoreError: its store refuses, or is not there.
  """
  folder = storage.as_path(folder)
  lock = _store_lock if storage.is_remote(folder) else _local_lock
  with lock(folder):
    _check_identity(folder, identity)
    yield folder


def local_folder(folder: AnyPath, named: str = '') -> pathlib.Path:
  """Return where this process keeps steps of a run on its host's own disk.

  A run that is begun anew in the same folder has another one. All processes
  must ask.

  Args:
    folder: the run's folder, which is held.
    named: the folder of all runs; '' is one of the user's caches.
  """

  def name() -> str:
    path = folder / LOCAL
    if not path.exists():
      serialization.write_json(path, {'name': secrets.token_hex(8)})
    return serialization.read_object(path, what='the name of a run')['name']

  own = multihost.from_first(name)
  root = (
    storage.local_path(named) if named else cache_folders.folder('local-steps')
  )
  return root / own / f'process_{jax.process_index()}'


def check_held(folder: AnyPath) -> None:
  """Check that a folder in a store is still this run's.

  A process that the store has not heard of for a while may find that another
  one has taken over.

  Raises:
    EejaxError: it is another's.
  """
  store_lock.check(folder / _LOCK)


@contextlib.contextmanager
def _local_lock(folder: AnyPath) -> Iterator[None]:
  if folder.exists() and not folder.is_dir():
    raise ArgumentError(f'{folder} is a file; name a folder for the run.')
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / _LOCK).open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise EejaxError(
        f'another process is training in {folder}; wait for it, stop it, or '
        'name another folder.'
      ) from error
    yield


def _store_lock(folder: AnyPath) -> AbstractContextManager[None]:
  return store_lock.hold(
    folder / _LOCK, say=logging.getLogger(__name__).warning
  )


def _check_identity(folder: AnyPath, identity: Mapping[str, Any]) -> None:
  path = folder / CONFIG
  mine = json.loads(json.dumps({'format': _FORMAT, **identity}))
  if not path.exists():
    serialization.write_json(path, mine)
    return
  theirs = serialization.read_object(path, what='the settings of a run')
  if theirs.pop('format', None) != _FORMAT:
    raise ArgumentError(
      f'the run in {folder} was begun by another version of eejax, whose '
      'settings cannot be compared with these; if they are the same, remove '
      f'{path} to go on with it, else name another folder.'
    )
  different = differences(theirs, mine)
  if different and not _has_begun(folder):
    # It ended before its first step, as by a text that cannot be read.
    serialization.write_json(path, mine)
  elif different:
    more = len(different) - _MOST_DIFFERENCES
    listed = '; '.join(different[:_MOST_DIFFERENCES])
    raise ArgumentError(
      f'{folder} holds a run with another configuration: {listed}'
      f'{f"; and {more} more" if more > 0 else ""}. Name another folder, or '
      'take back the change.'
    )


def _has_begun(folder: AnyPath) -> bool:
  """Return whether a run has learned anything, or measured its start."""
  return any((folder / name).exists() for name in (metrics.FILE, CHECKPOINTS))


def differences(
  theirs: Mapping[str, Any], mine: Mapping[str, Any]
) -> list[str]:
  """Return which values differ by dotted names, each in a few words.

  What `theirs` does not know is no difference: a setting that a later version
  has learned, or a part of something that is named itself.
  """
  different = []
  for name, value in theirs.items():
    if name in mine and mine[name] == value:
      continue
    now = repr(mine[name]) if name in mine else _without(name, mine)
    different.append(f'{name} was {value!r} and is now {now}')
  return different


def _without(name: str, mine: Mapping[str, Any]) -> str:
  has_parts = any(other.startswith(f'{name}.') for other in mine)
  return 'something else' if has_parts else 'not there'
