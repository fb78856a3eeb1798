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
"""What `eejax generate` shows: a stream, texts, exits."""

from typing import TYPE_CHECKING

from eejax.cli import output
from eejax.progress import Bar, Progress, TerminalProgress

if TYPE_CHECKING:
  from eejax.cli.exit_colours import Painter
  from eejax.decoding.results import GeneratedRow, TokenUpdate


class _WithoutBars(TerminalProgress):
  """Progress beside a stream, which shows by itself how far it is."""

  def bar(
    self, what: str, *, total: int | None = None, unit: str = 'step'
  ) -> Bar:
    """Return a bar that shows nothing."""
    return Bar()


def reporter(*, is_streaming: bool) -> Progress:
  """Return what the recipe reports its progress to."""
  if is_streaming and not output.is_quiet():
    return _WithoutBars()
  return output.reporter()


class Stream:
  """A text that is printed as it grows."""

  def __init__(self, prompt: str, painter: 'Painter | None'):
    """Start a stream; `painter` colours it unless it is None."""
    self._prompt: str | None = prompt
    self._painter = painter

  def take(self, update: 'TokenUpdate') -> None:
    """Print what the text grew by."""
    text = ''.join(update.pieces)
    if self._painter is not None:
      text = self._painter.paint(update.pieces, update.exit_depths)
    print((self._prompt or '') + text, end='', flush=True)
    self._prompt = None

  def close(self) -> None:
    """End the line."""
    print()


def show_row(
  row: 'GeneratedRow', painter: 'Painter | None', *, is_streamed: bool
) -> None:
  """Print a row's text, unless it was streamed, and its exits."""
  text = row.text or ''
  if painter is not None:
    text = painter.paint(row.pieces, row.exit_depths)
  if not is_streamed:
    output.show((row.prompt or '') + text)
  if painter is not None and not painter.has_colours:
    output.show(f'exit depths: {" ".join(map(str, row.exit_depths))}')
