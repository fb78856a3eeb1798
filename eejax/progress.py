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
"""Progress of long work: what a recipe tells, and who shows it.

A recipe takes `progress=` and tells it how far it has come. `SILENT`, the
default everywhere, shows nothing; `TerminalProgress` draws on stderr.

Example:
  >>> from eejax.progress import SILENT
  >>> sum(SILENT.track([1, 2, 3], 'adding'))
  6
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from eejax.formatting import duration, number

T = TypeVar('T')

# Anything that takes longer than this tells that it is at work.
PATIENCE_S = 2.0
# Where no bar can be drawn, a line is printed this often.
LINE_EVERY_S = 10.0


class Bar:
  """Count units of work that are done; this one shows nothing."""

  def start_at(self, done: int) -> None:
    """Say that `done` units were done before, as in a run that resumes."""

  def update(self, count: int = 1, **values: Any) -> None:
    """Count `count` more units as done and show `values` beside them."""

  def close(self) -> None:
    """End; the last state is left standing."""

  def __enter__(self) -> 'Bar':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


class Progress:
  """Receive the progress of long work; this one shows nothing."""

  def say(self, text: str) -> None:
    """Show a note."""

  def bar(
    self, what: str, *, total: int | None = None, unit: str = 'step'
  ) -> Bar:
    """Start to count units of work; use it as a context manager.

    Args:
      what: what is being done, as in 'tuning'.
      total: how many units there will be, or None if nobody knows.
      unit: the singular of what is counted.
    """
    return Bar()

  @contextlib.contextmanager
  def waiting(self, what: str) -> Iterator[None]:
    """Enclose work whose amount nobody knows, such as compiling."""
    yield

  def track(
    self,
    items: Iterable[T],
    what: str,
    *,
    total: int | None = None,
    unit: str = 'item',
  ) -> Iterator[T]:
    """Yield `items` and count how many have been worked through."""
    if total is None and isinstance(items, Sequence):
      total = len(items)
    with self.bar(what, total=total, unit=unit) as shown:
      for item in items:
        yield item
        shown.update()


SILENT = Progress()


class TerminalProgress(Progress):
  """Show progress on stderr: bars on a terminal, elsewhere a line now and then.

  Work that ends within two seconds shows nothing.
  """

  def say(self, text: str) -> None:
    """Print a note, above the progress bar if one is drawn."""
    if 'tqdm' in sys.modules:
      from tqdm import tqdm

      tqdm.write(text, file=sys.stderr)
    else:
      print(text, file=sys.stderr)
    sys.stderr.flush()

  def bar(
    self, what: str, *, total: int | None = None, unit: str = 'step'
  ) -> Bar:
    """Start a bar with rate and time left."""
    return TerminalBar(what, total=total, unit=unit, say=self.say)

  @contextlib.contextmanager
  def waiting(self, what: str) -> Iterator[None]:
    """Say that `what` is under way if it takes longer than two seconds."""
    start = time.monotonic()
    finished = threading.Event()

    def report() -> None:
      pause = PATIENCE_S
      while not finished.wait(pause):
        self.say(f'{what}: {duration(time.monotonic() - start)} so far ...')
        pause = LINE_EVERY_S

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
      yield
    finally:
      finished.set()
      thread.join()
    if time.monotonic() - start >= PATIENCE_S:
      self.say(f'{what}: took {duration(time.monotonic() - start)}')


class TerminalBar(Bar):
  """Show how far a known amount of work has come.

  On a terminal this is a bar with rate and time left; elsewhere a line every
  ten seconds with the same words.
  """

  def __init__(self, what: str, *, total: int | None, unit: str, say: Any):
    self._what = what
    self._total = total
    self._unit = unit
    self._say = say
    self._done = 0
    self._first = 0
    self._values: dict[str, Any] = {}
    self._start = self._last_line = time.monotonic()
    self._bar = None
    if sys.stderr.isatty():
      self._bar = _draw_bar(what, total, unit)

  def start_at(self, done: int) -> None:
    """Say that `done` units were done before, as in a run that resumes."""
    self._done = self._first = done
    if self._bar is not None:
      self._bar.initial = self._bar.n = done
      self._bar.refresh()

  def update(self, count: int = 1, **values: Any) -> None:
    """Count `count` more units as done and show `values` beside them."""
    self._done += count
    self._values.update(values)
    if self._bar is not None:
      self._bar.set_postfix(_texts(self._values), refresh=False)
      self._bar.update(count)
    elif time.monotonic() - self._last_line >= LINE_EVERY_S:
      self._print_line()

  def close(self) -> None:
    """Leave the last state standing."""
    if self._bar is not None:
      self._bar.close()
    elif time.monotonic() - self._start >= PATIENCE_S:
      self._print_line()

  def line(self) -> str:
    """Return the state in one line."""
    amount = str(self._done)
    if self._total is not None:
      amount += f'/{self._total}'
    parts = [f'{self._what}: {amount} {self._unit}s']
    seconds = time.monotonic() - self._start
    rate = (self._done - self._first) / seconds if seconds else 0
    if rate:
      parts.append(f'{number(rate)} {self._unit}s/s')
      if self._total is not None and self._done < self._total:
        parts.append(f'{duration((self._total - self._done) / rate)} left')
    parts += [f'{k} {v}' for k, v in _texts(self._values).items()]
    return ', '.join(parts)

  def _print_line(self) -> None:
    self._last_line = time.monotonic()
    self._say(self.line())


def _draw_bar(what: str, total: int | None, unit: str) -> Any:
  from tqdm import tqdm

  return tqdm(
    total=total,
    desc=what,
    unit=unit,
    file=sys.stderr,
    dynamic_ncols=True,
    smoothing=0.1,
  )


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
  return {
    name: number(value) if isinstance(value, float) else str(value)
    for name, value in values.items()
  }


@contextlib.contextmanager
def native_prints_on_stderr() -> Iterator[None]:
  """Keep stdout for results: gloo tells there whom it has connected."""
  sys.stdout.flush()
  own = os.dup(1)
  os.dup2(2, 1)
  try:
    yield
  finally:
    os.dup2(own, 1)
    os.close(own)
