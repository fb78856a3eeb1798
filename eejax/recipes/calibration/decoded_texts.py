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
"""Continuations that calibration has decoded, kept so that it can resume.

Each JSON line of the file holds a batch of continuations and a hash of
everything that decides them, so texts of several models, policies and settings
can share a folder.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from eejax import serialization
from eejax.analysis.certify import Continuation
from eejax.errors import ArgumentError, EejaxError

FILE = 'decoded_texts.jsonl'


class DecodedTexts:
  """Decoded batches by a hash of what decides them, in memory and in a file.

  Example:
    >>> texts = DecodedTexts(None)
    >>> texts.add('a hash', [Continuation((5,), (4,))])
    >>> texts.get('a hash')
    [Continuation(tokens=(5,), depths=(4,))]
  """

  def __init__(self, folder: pathlib.Path | None):
    """Read what the file of a folder has.

    Args:
      folder: made if it is not there; None keeps nothing on the disk.

    Raises:
      ArgumentError: the file cannot be read or written.
    """
    self._batches: dict[str, list[Continuation]] = {}
    self._path = None if folder is None else folder / FILE
    if self._path is None:
      return
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._read(self._path)
    except OSError as error:
      raise ArgumentError(
        f'decoded texts cannot be kept in {self._path.parent} '
        f'({error.strerror}); name another folder.'
      ) from error

  def get(self, key: str) -> list[Continuation] | None:
    """Return the batch of a key, or None where it was not decoded yet."""
    return self._batches.get(key)

  def add(self, key: str, batch: Sequence[Continuation]) -> None:
    """Keep a batch.

    Raises:
      EejaxError: the disk is full, or the file can no longer be written.
    """
    self._batches[key] = list(batch)
    if self._path is None:
      return
    line = {'key': key, 'texts': [dataclasses.astuple(c) for c in batch]}
    try:
      with self._path.open('a', encoding='utf-8') as file:
        file.write(serialization.dumps(line) + '\n')
    except OSError as error:
      raise EejaxError(
        f'decoded texts can no longer be kept in {self._path.parent} '
        f'({error.strerror}); make room there and calibrate again, which goes '
        'on from here.'
      ) from error

  def _read(self, path: pathlib.Path) -> None:
    """Take the lines that are whole; drop damaged ones from the file."""
    text = ''
    if path.is_file():
      text = path.read_text(encoding='utf-8', errors='replace')
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if self._take(line)]
    if kept != lines or not path.is_file():
      serialization.write_text(path, ''.join(kept))

  def _take(self, line: str) -> bool:
    """Take the batch of a line; return whether the line is whole."""
    # A line whose end was not written would swallow the next one.
    if not line.endswith('\n'):
      return False
    try:
      values = json.loads(line)
      self._batches[values['key']] = [
        Continuation(tuple(tokens), tuple(depths))
        for tokens, depths in values['texts']
      ]
    except (ValueError, TypeError, KeyError):
      return False
    return True
