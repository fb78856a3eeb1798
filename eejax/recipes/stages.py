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
"""Stages of a long command, each kept when it is done.

A stage's result is plain values in a file of its own, with a stamp of what it
was made from: its inputs and the stamps of the stages before. A command that
is run again takes up what still holds and goes on from there.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from eejax import formatting, serialization, storage, store_folder
from eejax.errors import ArgumentError, EejaxError
from eejax.progress import SILENT, Progress

FOLDER = 'stages'
_LOCK = '.lock'


class Stages:
  """Run stages in order, and tell how far they have come.

  Attributes:
    seconds: what each stage took when it was run, by its name.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    titles: Mapping[str, tuple[str, float]],
    progress: Progress = SILENT,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Begin with no stage done.

    Args:
      folder: where everything of the command goes.
      titles: of each stage, in order: what is being done, and about how many
        seconds it takes on two cores.
      progress: is told which stage begins.
      clock: in seconds.
    """
    self.folder = folder
    self.seconds: dict[str, float] = {}
    self._titles = dict(titles)
    self._progress, self._clock = progress, clock
    self._stamp = ''
    self._expected = self._taken = 0.0
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)

  def run(
    self,
    name: str,
    work: Callable[[], Any],
    *,
    inputs: Any = None,
    products: Sequence[str] = (),
  ) -> Any:
    """Return the result of a stage, from its file if that still holds.

    Args:
      name: of the stage, a key of the titles.
      work: does it; what it returns must be plain, see `serialization.plain`.
        Its products may lie around half done if it was interrupted before,
        and only then.
      inputs: plain values that it depends on, besides earlier stages.
      products: files or folders of its own that later stages need.
    """
    self._stamp = _digest([self._stamp, name, serialization.plain(inputs)])
    file = self.folder / FOLDER / f'{name}.json'
    kept = _read(file)
    paths = [self.folder / p for p in products]
    holds = kept.get('stamp') == self._stamp and all(p.exists() for p in paths)
    self._tell(name, is_done=holds and 'result' in kept)
    if holds and 'result' in kept:
      self.seconds[name] = kept['seconds']
      return kept['result']
    if kept.get('stamp') != self._stamp:
      for path in paths:
        _remove(path)
    serialization.write_json(file, {'stamp': self._stamp})
    start = self._clock()
    # Through JSON, so that a result is the same whether it is new or kept.
    result = json.loads(serialization.dumps(work()))
    self.seconds[name] = self._clock() - start
    self._expected += self._titles[name][1]
    self._taken += self.seconds[name]
    kept = {'stamp': self._stamp, 'seconds': self.seconds[name]}
    serialization.write_json(file, {**kept, 'result': result})
    return result

  def _tell(self, name: str, *, is_done: bool) -> None:
    names = list(self._titles)
    number = names.index(name) + 1
    title = self._titles[name][0]
    if is_done:
      self._progress.say(f'[{number}/{len(names)}] {title}: done before')
      return
    # This machine against the one of the estimates, by what is done so far.
    pace = self._taken / self._expected if self._expected else 1.0
    left = pace * sum(self._titles[n][1] for n in names[number - 1 :])
    time_left = formatting.duration(left)
    self._progress.say(
      f'[{number}/{len(names)}] {title} (about {time_left} left in all)'
    )


@contextlib.contextmanager
def claimed(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Lock a folder of stages for this process; make it if it is not there.

  Raises:
    ArgumentError: something else is there.
    EejaxError: another process is at work in it.
  """
  path = storage.local_path(folder)
  if path.exists() and not path.is_dir():
    raise ArgumentError(f'{path} is a file; name a folder.')
  if path.is_dir() and any(path.iterdir()) and not (path / FOLDER).is_dir():
    raise ArgumentError(
      f'{path} is not empty and holds something else; name another folder.'
    )
  (path / FOLDER).mkdir(parents=True, exist_ok=True)
  with (path / _LOCK).open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise EejaxError(
        f'another process is at work in {path}; wait for it, or name another '
        'folder.'
      ) from error
    yield path


def forget(folder: pathlib.Path) -> None:
  """Make all stages run again."""
  _remove(folder / FOLDER)


def fingerprint(path: str | os.PathLike) -> list[Any]:
  """Return what tells whether the files at `path` have changed.

  Names, sizes and times of change; contents are not read.
  """
  if storage.is_remote(path):
    root = storage.as_path(path)
    with storage.reported(root, what='read'):
      return store_folder.folder_facts(root)
  root = storage.local_path(path)
  files = [root] if root.is_file() else sorted(root.rglob('*'))
  return [
    [f.relative_to(root.parent).as_posix(), s.st_size, s.st_mtime_ns]
    for f in files
    if f.is_file()
    for s in [f.stat()]
  ]


def _digest(values: Any) -> str:
  text = json.dumps(values, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(file: pathlib.Path) -> dict[str, Any]:
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return {}
  return values if isinstance(values, dict) else {}


def _remove(path: pathlib.Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
