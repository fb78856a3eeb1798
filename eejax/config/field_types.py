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
"""Types of the fields of frozen configurations, checked when one is made.

gin and JSON pass on any value, and a mistake would show where it is used, if
it does: `steps='many'` would end in a comparison of a text with a number.
"""

import dataclasses
import enum
import functools
import inspect
import numbers
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from eejax.errors import ArgumentError

_SEVERAL = (tuple, list, Sequence)
_NAMES: dict[Any, str] = {
  str: 'a text',
  int: 'a whole number',
  float: 'a number',
  bool: 'True or False',
  type(None): 'None',
}


def check_fields(config: Any) -> None:
  """Check the fields of a dataclass against their annotations.

  Call it first in `__post_init__`. Annotations that are no numbers, texts,
  enums, dataclasses or sequences of these accept everything.

  Raises:
    ArgumentError: a value does not fit; it and its field are named.
  """
  kind: Any = type(config)
  for name, hint in _hints(kind).items():
    value = getattr(config, name)
    if not accepts(hint, value):
      raise ArgumentError(
        f'{kind.__name__}.{name} must be {describe(hint)}, not {value!r}.'
      )


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
  hints = typing.get_type_hints(kind)
  return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def accepts(hint: Any, value: Any) -> bool:
  """Return whether an annotation lets a value pass."""
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    return any(accepts(part, value) for part in typing.get_args(hint))
  if typing.get_origin(hint) in _SEVERAL:
    return isinstance(value, tuple | list) and _accepts_items(hint, value)
  if hint is bool:
    return isinstance(value, bool)
  if hint in (int, float):
    kind = numbers.Integral if hint is int else numbers.Real
    return isinstance(value, kind) and not isinstance(value, bool)
  if hint in _NAMES or _is_structured(hint):
    return isinstance(value, hint)
  return True


def _accepts_items(hint: Any, values: tuple | list) -> bool:
  parts = typing.get_args(hint)
  if typing.get_origin(hint) is not tuple or parts[1:] == (Ellipsis,):
    return all(accepts(parts[0], value) for value in values)
  return len(parts) == len(values) and all(map(accepts, parts, values))


def _is_structured(hint: Any) -> bool:
  return inspect.isclass(hint) and (
    issubclass(hint, enum.Enum) or dataclasses.is_dataclass(hint)
  )


def describe(hint: Any) -> str:
  """Return in words what an annotation lets pass."""
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    return _either(dict.fromkeys(map(describe, typing.get_args(hint))))
  if typing.get_origin(hint) in _SEVERAL:
    return f'({describe(typing.get_args(hint)[0])}, ...)'
  if inspect.isclass(hint) and issubclass(hint, enum.Enum):
    return _either(f'{hint.__name__}.{member.name}' for member in hint)
  return _NAMES.get(hint, getattr(hint, '__name__', str(hint)))


def _either(names: Iterable[str]) -> str:
  *others, last = names
  return f'{", ".join(others)} or {last}' if others else last
