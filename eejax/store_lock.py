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
"""One process at a time in a folder of a store.

A store has no lock that a process loses when it ends. It can create a file
that is not there yet, once for all who try. So a lock is a row of numbered
files: whoever creates the next number holds the lock, and writes a larger beat
into its file again and again. Where the beat stands still, the holder is gone
and the next number may be created; one that was only slow finds that number
and stops.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from eejax import storage, store_folder
from eejax.errors import EejaxError, StoreError
from eejax.storage import AnyPath

BEAT_SECONDS = 5.0
# Beats that may be missed.
PATIENCE = 3
_DIGITS = 9
_FREE: dict[str, Any] = {'owner': None}
# Of locks that this process holds, by the address of the folder.
_held: dict[str, '_Lock'] = {}
# Names by which this process has asked for locks and not let them go.
_owners: set[str] = set()


@contextlib.contextmanager
def hold(
  folder: AnyPath, *, say: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
  """Acquire the lock `folder`, whose files are its own, until the end.

  Args:
    folder: an address in a store.
    say: is told when there is reason to wait.

  Raises:
    EejaxError: another process holds it.
    StoreError: the store cannot be used.
  """
  with storage.reported(folder, what='written'):
    lock = _take(folder, say)
  _held[str(folder)] = lock
  try:
    yield
  finally:
    _held.pop(str(folder), None)
    lock.release()


def check(folder: AnyPath) -> None:
  """Check that a lock which this process took is still its own.

  Raises:
    EejaxError: another process took it when this one had been silent.
  """
  lock = _held.get(str(folder))
  if lock is not None and lock.is_lost():
    raise EejaxError(
      f'another process has taken over {folder.parent}, for this one had not '
      'been heard of; it goes on there, and this one ends.'
    )


class _Lock:
  """A number that was created, and the thread that tells it is in use."""

  def __init__(self, folder: AnyPath, number: int, record: dict[str, Any]):
    self._folder = folder
    self._number = number
    self._record = record
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._tell, daemon=True)
    self._thread.start()

  def is_lost(self) -> bool:
    """Return whether a later number is there."""
    with storage.reported(self._folder, what='read'):
      return max(_numbers(self._folder), default=0) > self._number

  def release(self) -> None:
    """Let the next one have it at once; a failing store keeps it waiting."""
    self._ended.set()
    self._thread.join()
    _owners.discard(self._record['owner'])
    with contextlib.suppress(*storage.failures()):
      _write(self._folder, self._number, _FREE)

  def _tell(self) -> None:
    while not self._ended.wait(BEAT_SECONDS):
      self._record['beat'] += 1
      with contextlib.suppress(*storage.failures()):
        _write(self._folder, self._number, self._record)


def _take(folder: AnyPath, say: Callable[[str], None]) -> _Lock:
  record = {**_this_process(), 'owner': uuid.uuid4().hex, 'beat': 0}
  _owners.add(record['owner'])
  while True:
    numbers = _numbers(folder)
    newest = max(numbers, default=0)
    if newest and not _is_free(folder, newest, say):
      raise EejaxError(
        f'another process is working in {folder.parent}; wait for it, stop '
        'it, or name another folder.'
      )
    try:
      content = json.dumps(record).encode()
      store_folder.create(_file(folder, newest + 1), content)
    except FileExistsError:
      continue  # another one was faster, and is looked at
    for number in numbers:
      with contextlib.suppress(FileNotFoundError):
        _file(folder, number).unlink()
    return _Lock(folder, newest + 1, record)


def _is_free(folder: AnyPath, number: int, say: Callable[[str], None]) -> bool:
  """Return whether the holder of a number has let it go, or is gone."""
  record = _read(folder, number)
  if record is None or record['owner'] is None or _has_ended(record):
    return True
  say(f'waiting for a sign of the process that held {folder.parent} last.')
  for _ in range(2 * PATIENCE):
    time.sleep(BEAT_SECONDS / 2)
    if _read(folder, number) != record:
      return False
  return True


def _has_ended(record: dict[str, Any]) -> bool:
  """Return whether a holder was a process of this machine that has ended."""
  mine = _this_process()
  if record['machine'] != mine['machine']:
    return False
  if record['pid'] == mine['pid']:
    return record['owner'] not in _owners
  try:
    os.kill(record['pid'], 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    return False
  return False


def _this_process() -> dict[str, Any]:
  parts = [socket.gethostname()]
  # Containers of one machine may have one name, and count for themselves.
  with contextlib.suppress(OSError):
    parts.append(os.readlink('/proc/self/ns/pid'))
    with open('/proc/sys/kernel/random/boot_id') as file:
      parts.append(file.read().strip())
  return {'machine': ' '.join(parts), 'pid': os.getpid()}


def _numbers(folder: AnyPath) -> list[int]:
  names = store_folder.list_files(folder)
  return [int(name) for name in names if name.isdigit()]


def _file(folder: AnyPath, number: int) -> AnyPath:
  return folder / f'{number:0{_DIGITS}}'


def _write(folder: AnyPath, number: int, record: dict[str, Any]) -> None:
  _file(folder, number).write_text(json.dumps(record))


def _read(folder: AnyPath, number: int) -> dict[str, Any] | None:
  try:
    return json.loads(_file(folder, number).read_text())
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise StoreError(
      f'{_file(folder, number)} is not what a process of eejax wrote; remove '
      'it if no run is working there.'
    ) from error
