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
"""Speak to the person and to programs: notes, progress, tables, JSON.

Notes and progress go to stderr; results go to stdout. With `--json` the
command line sends everything but the one JSON object to stderr.
"""

import contextlib
import dataclasses
import enum
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from eejax.errors import EejaxError

T = TypeVar('T')

# Anything that takes longer than this tells that it is at work.
PATIENCE_S = 2.0
# Where no bar can be drawn, a line is printed this often.
LINE_EVERY_S = 10.0


class Verbosity(enum.Enum):
  """How much is said on stderr."""

  NORMAL = 'normal'
  QUIET = 'quiet'


_verbosity = Verbosity.NORMAL


class NegativeResult(EejaxError):
  """Report that what was checked does not hold; exit code 1.

  Attributes:
    result: the object that `--json` prints all the same.
  """

  def __init__(self, sentence: str, result: Mapping[str, Any]):
    """Report `sentence` and hand on `result`."""
    super().__init__(sentence)
    self.result = result


def set_verbosity(verbosity: Verbosity) -> None:
  """Choose how much is said from here on."""
  global _verbosity
  _verbosity = verbosity


def is_quiet() -> bool:
  """Return whether notes and progress are not wanted."""
  return _verbosity is Verbosity.QUIET


def say(text: str) -> None:
  """Print a note to stderr, above the progress bar if one is drawn."""
  if is_quiet():
    return
  if 'tqdm' in sys.modules:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
  else:
    print(text, file=sys.stderr)
  sys.stderr.flush()


def show(text: str) -> None:
  """Print a result to stdout."""
  print(text, flush=True)


# MARK: Progress


class Progress:
  """Show how far a known amount of work has come.

  On a terminal this is a bar with rate and time left; elsewhere a line every
  ten seconds with the same words; under `--quiet` nothing.
  """

  def __init__(self, what: str, *, total: int | None, unit: str):
    self._what = what
    self._total = total
    self._unit = unit
    self._done = 0
    self._first = 0
    self._values: dict[str, Any] = {}
    self._start = self._last_line = time.monotonic()
    self._bar = None
    if not is_quiet() and sys.stderr.isatty():
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
    say(self.line())

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def progress(
  what: str, *, total: int | None = None, unit: str = 'step'
) -> Progress:
  """Start to show progress; use it as a context manager.

  Args:
    what: what is being done, as in 'tuning'.
    total: how many units there will be, or None if nobody knows.
    unit: the singular of what is counted.
  """
  return Progress(what, total=total, unit=unit)


def track(
  items: Iterable[T],
  what: str,
  *,
  total: int | None = None,
  unit: str = 'item',
) -> Iterator[T]:
  """Yield `items` and show how many have been worked through."""
  if total is None and isinstance(items, Sequence):
    total = len(items)
  with progress(what, total=total, unit=unit) as shown:
    for item in items:
      yield item
      shown.update()


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
  """Say that `what` is under way if it takes longer than two seconds.

  For work whose amount nobody knows, such as compiling.
  """
  start = time.monotonic()
  finished = threading.Event()

  def report() -> None:
    pause = PATIENCE_S
    while not finished.wait(pause):
      say(f'{what}: {duration(time.monotonic() - start)} so far ...')
      pause = LINE_EVERY_S

  thread = threading.Thread(target=report, daemon=True)
  thread.start()
  try:
    yield
  finally:
    finished.set()
    thread.join()
  if time.monotonic() - start >= PATIENCE_S:
    say(f'{what}: took {duration(time.monotonic() - start)}')


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


# MARK: Words


def number(value: float) -> str:
  """Return a number with about three digits, as in `0.0123` or `12.3k`."""
  if not math.isfinite(value):
    return str(value)
  for scale, letter in ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if abs(value) >= max(scale, 1e4):
      return f'{value / scale:.3g}{letter}'
  return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def duration(seconds: float) -> str:
  """Return a time span as people say it, as in `42 s` or `3 min 05 s`."""
  whole = round(seconds)
  if whole < 60:
    return f'{whole} s'
  if whole < 3600:
    return f'{whole // 60} min {whole % 60:02} s'
  return f'{whole // 3600} h {whole % 3600 // 60:02} min'


def table(rows: Iterable[Mapping[str, Any]]) -> str:
  """Return `rows` as an aligned text table; the first row names the columns.

  Numbers stand on the right, words on the left, None is a dash.
  """
  rows = list(rows)
  if not rows:
    return ''
  columns = list(rows[0])
  cells = [[_cell(row.get(column)) for column in columns] for row in rows]
  widths = [
    max(len(column), *(len(line[i]) for line in cells))
    for i, column in enumerate(columns)
  ]
  right = [
    all(isinstance(row.get(c), (int, float, type(None))) for row in rows)
    for c in columns
  ]

  def line(texts: Sequence[str]) -> str:
    padded = (
      text.rjust(width) if is_right else text.ljust(width)
      for text, width, is_right in zip(texts, widths, right, strict=True)
    )
    return '  '.join(padded).rstrip()

  rule = line(['-' * width for width in widths])
  return '\n'.join([line(columns), rule, *map(line, cells)])


def _cell(value: Any) -> str:
  if value is None:
    return '-'
  return number(value) if isinstance(value, float) else str(value)


# MARK: JSON


def plain(value: Any) -> Any:
  """Return `value` as what JSON knows; NaN and infinities become None.

  Takes mappings, sequences, enums, paths, dataclasses and arrays.
  """
  if value is None or isinstance(value, (bool, int, str)):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, enum.Enum):
    return plain(value.value)
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, Mapping):
    return {_key(k): plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple, set, frozenset)):
    return [plain(v) for v in value]
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = dataclasses.fields(value)
    return {f.name: plain(getattr(value, f.name)) for f in fields}
  if hasattr(value, 'tolist'):  # numpy and jax arrays and scalars
    return plain(value.tolist())
  raise TypeError(f'{type(value).__name__} cannot be written as JSON.')


def _key(key: Any) -> str:
  return str(key.value if isinstance(key, enum.Enum) else key)


def dumps(value: Any, *, indent: int | None = None) -> str:
  """Return `value` as JSON text, without NaN and Infinity."""
  return json.dumps(
    plain(value), indent=indent, ensure_ascii=False, allow_nan=False
  )
