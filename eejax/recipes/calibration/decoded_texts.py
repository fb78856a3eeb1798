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
"""Continuations that `calibrate` has decoded, kept until it is done.

A file of JSON lines: the first says what the others belong to, each of them
holds one batch. A run that was stopped takes up what is there.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from eejax.analysis.certify import Text
from eejax.errors import ArgumentError


class DecodedTexts:
  """Hold decoded batches by what was decoded, on disk and in memory."""

  def __init__(self, path: pathlib.Path, identity: Mapping[str, Any]):
    """Open the file; one that belongs to something else is begun anew.

    Args:
      path: where it is; it need not be there.
      identity: plain values that decide every text, besides the policy.

    Raises:
      ArgumentError: it cannot be written.
    """
    self.path = path
    text = json.dumps(identity, sort_keys=True)
    self._stamp = hashlib.sha256(text.encode()).hexdigest()
    self._held: dict[str, dict[int, list[Text]]] = {}
    lines = self._read()
    if lines and lines[0] == {'stamp': self._stamp}:
      for line in lines[1:]:
        self._keep(line)
      return
    try:
      path.write_text(json.dumps({'stamp': self._stamp}) + '\n')
    except OSError as error:
      raise ArgumentError(
        f'{path} cannot be written ({error.strerror}); give another --out.'
      ) from error

  def batches(self, key: str) -> dict[int, list[Text]]:
    """Return the batches of `key` that were decoded before."""
    return self._held.get(key, {})

  def add(self, key: str, number: int, texts: list[Text]) -> None:
    """Keep one batch."""
    line = {
      'key': key,
      'batch': number,
      'texts': [dataclasses.astuple(text) for text in texts],
    }
    with self.path.open('a') as file:
      file.write(json.dumps(line) + '\n')

  def remove(self) -> None:
    """Remove the file."""
    self.path.unlink(missing_ok=True)

  def _read(self) -> list[dict[str, Any]]:
    """Return the lines up to the first that is broken."""
    try:
      text = self.path.read_text(encoding='utf-8', errors='replace')
    except OSError:
      return []
    found: list[dict[str, Any]] = []
    for line in text.splitlines(keepends=True):
      try:
        found.append(json.loads(line))
      except ValueError:
        break
      if not line.endswith('\n'):
        # Its end was not written; the next line has to begin a line.
        found.pop()
        break
    kept = ''.join(json.dumps(line) + '\n' for line in found)
    if kept != text:
      self.path.write_text(kept)
    return found

  def _keep(self, line: Mapping[str, Any]) -> None:
    texts = [Text(tuple(t), tuple(d)) for t, d in line['texts']]
    self._held.setdefault(line['key'], {})[line['batch']] = texts
