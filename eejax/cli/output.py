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
"""Speak to the person: notes and progress on stderr, results on stdout.

With `--json` the command line sends everything but the one JSON object to
stderr.
"""

import contextlib
import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from eejax.errors import EejaxError
from eejax.progress import SILENT, Bar, Progress, TerminalProgress

T = TypeVar('T')


class Verbosity(enum.Enum):
  """How much is said on stderr."""

  NORMAL = 'normal'
  QUIET = 'quiet'


_verbosity = Verbosity.NORMAL
_TERMINAL = TerminalProgress()


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


def reporter() -> Progress:
  """Return what recipes report their progress to."""
  return SILENT if is_quiet() else _TERMINAL


def say(text: str) -> None:
  """Print a note to stderr, above the progress bar if one is drawn."""
  reporter().say(text)


def show(text: str) -> None:
  """Print a result to stdout."""
  print(text, flush=True)


def progress(what: str, *, total: int | None = None, unit: str = 'step') -> Bar:
  """Start to show progress; see `Progress.bar`."""
  return reporter().bar(what, total=total, unit=unit)


def track(
  items: Iterable[T],
  what: str,
  *,
  total: int | None = None,
  unit: str = 'item',
) -> Iterator[T]:
  """Yield `items` and show how many have been worked through."""
  return reporter().track(items, what, total=total, unit=unit)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
  """Say that `what` is under way if it takes longer than two seconds."""
  with reporter().waiting(what):
    yield
