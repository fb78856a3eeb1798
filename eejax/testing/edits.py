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
"""Every edit of one entry of a JSON file."""

import copy
import functools
from collections.abc import Iterator
from typing import Any

_Path = tuple[str | int, ...]


def single_edits(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
  """Yield what a file becomes by one edit, with the edit's name.

  Each entry of nested objects and lists is changed once and deleted once.

  Args:
    values: plain values; they stay as they are.

  Example:
    >>> dict(single_edits({'a': 1}))
    {'a changed': {'a': 2}, 'a deleted': {}}
  """
  for path in _paths(values):
    name = '.'.join(map(str, path))
    for change in ('changed', 'deleted'):
      edited: Any = copy.deepcopy(values)
      *parents, last = path
      node = functools.reduce(lambda node, key: node[key], parents, edited)
      if change == 'changed':
        node[last] = _other(node[last])
      else:
        del node[last]
      yield f'{name} {change}', edited


def _paths(values: Any, path: _Path = ()) -> Iterator[_Path]:
  entries: Any = ()
  if isinstance(values, dict):
    entries = values.items()
  elif isinstance(values, list):
    entries = enumerate(values)
  for key, value in entries:
    yield (*path, key)
    yield from _paths(value, (*path, key))


def _other(value: Any) -> Any:
  """Return another value, of the same kind where there is one."""
  if value is None or isinstance(value, bool):
    return 1
  if isinstance(value, int):
    return value + 1
  if isinstance(value, float):
    return value * 0.99
  if isinstance(value, str):
    return f'{value[:-1]}{"1" if value.endswith("0") else "0"}'
  return type(value)()
