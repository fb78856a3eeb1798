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
"""Text of a row as it grows: incremental decoding, and stop strings."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from eejax.errors import ArgumentError


@runtime_checkable
class Detokenizer(Protocol):
  """What turns ids into text one by one; see `eejax.data.tokenizer`."""

  def push(self, token_id: int) -> str:
    """Take the next id; return the text that is certain now, maybe none."""

  def flush(self) -> str:
    """Return what was held back, after the last id."""


class TextStream:
  """The text of a row's tokens, which ends before the first stop string.

  Text that may yet turn out to begin a stop string is held back, so nothing
  is shown that would have to be taken back.

  Attributes:
    text: all text that was returned.
    stop_string: the stop string that was met; None where none was.
  """

  def __init__(
    self,
    detokenizer: Detokenizer,
    *,
    stop: Sequence[str] = (),
    min_tokens: int = 0,
  ):
    """Start a text.

    Args:
      detokenizer: turns ids into text.
      stop: strings that end it.
      min_tokens: stop strings are looked for behind the text of so many
        tokens.

    Raises:
      ArgumentError: a stop string is empty.
    """
    if any(not s for s in stop):
      raise ArgumentError('a stop string must not be empty.')
    self._detokenizer = detokenizer
    self._stop = tuple(stop)
    self._tokens_to_skip = min_tokens
    self._held = ''
    self.text = ''
    self.stop_string: str | None = None

  @property
  def stopped(self) -> bool:
    """Return whether a stop string was met; no text follows."""
    return self.stop_string is not None

  @property
  def may_stop(self) -> bool:
    """Return whether there are stop strings to look for."""
    return bool(self._stop)

  def push(self, token: int) -> str:
    """Take the next token; return the text that is certain now."""
    piece = self._detokenizer.push(token)
    if self._tokens_to_skip:
      self._tokens_to_skip -= 1
      self.text += piece
      return piece
    return self._take(piece)

  def finish(self) -> str:
    """Return what was held back, after the last token."""
    shown = self._take(self._detokenizer.flush())
    if self.stopped:
      return shown
    rest, self._held = self._held, ''
    self.text += rest
    return shown + rest

  def _take(self, piece: str) -> str:
    if self.stopped:
      return ''
    text = self._held + piece
    found = [(text.find(stop), stop) for stop in self._stop]
    found = [(start, stop) for start, stop in found if start >= 0]
    if found:
      certain, self.stop_string = min(found, key=lambda pair: pair[0])
    else:
      held = max((_overlap(text, s) for s in self._stop), default=0)
      certain = len(text) - held
    self._held = '' if self.stopped else text[certain:]
    self.text += text[:certain]
    return text[:certain]


def _overlap(text: str, stop: str) -> int:
  """Return the length of the longest end of `text` that begins `stop`."""
  longest = min(len(text), len(stop) - 1)
  for length in range(longest, 0, -1):
    if stop.startswith(text[-length:]):
      return length
  return 0
