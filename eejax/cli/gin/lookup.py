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
"""Values of a gin file that follow from others, by a table in the file."""

from collections.abc import Mapping
from typing import Any

from eejax.errors import ArgumentError


def lookup(
  table: Mapping[Any, Any], *, key: Any, item: int | None = None
) -> Any:
  """Return the entry of a table, or one item of it.

  Args:
    table: entries by their keys, as a gin file writes a dict.
    key: a text, or a tuple of several.
    item: which item of the entry; None returns the entry.

  Raises:
    ArgumentError: there is no such entry.
  """
  if key not in table:
    words = [_words(k) for k in table]
    raise ArgumentError(
      f'the run has no settings for {_words(key)}; it has them for '
      f'{", ".join(words)}.'
    )
  entry = table[key]
  return entry if item is None else entry[item]


def _words(key: Any) -> str:
  return ' on '.join(map(str, key)) if isinstance(key, tuple) else str(key)
