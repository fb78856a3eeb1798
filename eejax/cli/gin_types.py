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
"""Compare what gin binds with what parameters say they take.

gin passes on any value, and the mistake shows where it is used, if it does:
`STEPS = 'many'` ends in a comparison of a text with a number. Here every
plain value that a run may use is held against the annotation of its parameter
before anything is called. Annotations that promise nothing about plain values
(callables, arrays, `Any`) accept all of them.
"""

import dataclasses
import enum
import inspect
import os
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from eejax.errors import ArgumentError

_SEVERAL = (tuple, list, Sequence)
_WORDS: dict[Any, str] = {
  str: 'a text in quotes',
  int: 'a whole number',
  float: 'a number',
  bool: 'True or False',
  type(None): 'None',
}


@dataclasses.dataclass(frozen=True)
class Binding:
  """Hold a plain value that gin binds.

  Attributes:
    name: what the user writes to set it: a macro, or `configurable.parameter`.
    hint: annotation of the parameter.
    value: what is bound to it.
  """

  name: str
  hint: Any
  value: Any


def check_types() -> None:
  """Check every binding of gin's present configuration.

  Raises:
    ArgumentError: a value does not fit its parameter; both are named.
  """
  for binding in _bindings():
    if not accepts(binding.hint, binding.value):
      raise ArgumentError(
        f'{binding.name} must be {describe(binding.hint)}, not '
        f'{binding.value!r}.'
      )


def accepts(hint: Any, value: Any) -> bool:
  """Return whether an annotation lets a plain value pass."""
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    return any(accepts(part, value) for part in typing.get_args(hint))
  if typing.get_origin(hint) in _SEVERAL:
    return isinstance(value, tuple | list) and _accepts_items(hint, value)
  if hint is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  if hint is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if hint in _WORDS:
    return isinstance(value, hint)
  # What is plain is neither a member of an enum nor one of our configs.
  return not _is_structured(hint)


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
    return _either(f'%{hint.__name__}.{member.name}' for member in hint)
  if inspect.isclass(hint) and dataclasses.is_dataclass(hint):
    return f'@{hint.__name__}()'
  return _WORDS.get(hint, str(hint))


def _either(words: Iterable[str]) -> str:
  *others, last = words
  return f'{", ".join(others)} or {last}' if others else last


def _bindings() -> Iterator[Binding]:
  """Yield the plain values that parameters of ours are bound to."""
  # gin shows neither bindings nor configurables in its public interface.
  from gin import config

  for (scope, selector), values in config._CONFIG.items():
    if selector in ('gin.macro', 'gin.constant'):
      continue
    hints = _hints(config._REGISTRY[selector].wrapped)
    short = config._REGISTRY.minimal_selector(selector)
    where = f'{scope}/{short}' if scope else short
    for parameter, bound in values.items():
      name, value = _resolved(f'{where}.{parameter}', bound)
      if parameter in hints and _is_plain(value):
        yield Binding(name, hints[parameter], value)


def _resolved(name: str, value: Any) -> tuple[str, Any]:
  """Follow macros; return the last one's name and what stands there."""
  from gin import config

  seen: set[str] = set()
  while isinstance(value, config.ConfigurableReference):
    macro = value.scoped_selector.rpartition('/')[0]
    bound = config._CONFIG.get((macro, 'gin.macro'))
    # Macros that name one another in a circle have no value to check.
    if value.selector != 'gin.macro' or not bound or macro in seen:
      break
    seen.add(macro)
    name, value = macro, bound.get('value')
  return name, value


def _is_plain(value: Any) -> bool:
  if isinstance(value, tuple | list):
    return all(map(_is_plain, value))
  return value is None or isinstance(value, str | int | float | bool)


def _hints(configurable: Any) -> dict[str, Any]:
  """Return the annotations of what can be bound, none if they are broken."""
  target = configurable
  if inspect.isclass(configurable):
    target = configurable.__init__
  try:
    hints = typing.get_type_hints(target)
  except (NameError, TypeError):
    return {}
  if inspect.isclass(configurable) and not hints:
    hints = typing.get_type_hints(configurable)
  return {k: _with_paths(v) for k, v in hints.items() if k != 'return'}


def _with_paths(hint: Any) -> Any:
  """Return an annotation in which a path is a text."""
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    parts = tuple(map(_with_paths, typing.get_args(hint)))
    return typing.Union[parts]  # noqa: UP007  of a number that varies
  origin = typing.get_origin(hint) or hint
  is_path = inspect.isclass(origin) and issubclass(origin, os.PathLike)
  return str if is_path else hint
