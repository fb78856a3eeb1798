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
"""A name with numbers, as policies and flags write it: `schedule(256, 2)`."""

import dataclasses
import re
from typing import Any

from eejax.errors import ArgumentError

Number = int | float

_FORM = re.compile(r'\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*', re.DOTALL)


def parse_notation(text: str) -> tuple[str, tuple[Number, ...]]:
  """Part a name from the numbers in the brackets after it.

  Example:
    >>> parse_notation('schedule(256, 0.5)')
    ('schedule', (256, 0.5))
    >>> parse_notation('margin')
    ('margin', ())

  Raises:
    ArgumentError: it is not of that form.
  """
  match = _FORM.fullmatch(text)
  if match is None:
    raise ArgumentError(f'{text!r} is neither a name nor of the form name(2).')
  name, inner = match.groups()
  if inner is None:
    return name, ()
  return name, tuple(_parse_number(part, text) for part in inner.split(','))


def write_notation(name: str, *numbers: Number) -> str:
  """Return the text that `parse_notation` reads."""
  if not numbers:
    return name
  return f'{name}({", ".join(map(str, numbers))})'


def make(kind: type, numbers: tuple[Number, ...], *, what: str) -> Any:
  """Return an instance of a dataclass whose first fields are `numbers`.

  Args:
    kind: the class; one that is no dataclass takes none.
    numbers: for its fields, in their order.
    what: what it is called in errors.

  Raises:
    ArgumentError: there are too many, or a whole number is wanted.
  """
  fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
  if len(numbers) > len(fields):
    raise ArgumentError(
      f'{what} takes {len(fields)} numbers at most, and {len(numbers)} were '
      'given.'
    )
  for field, number in zip(fields, numbers, strict=False):
    if field.type is int and not isinstance(number, int):
      raise ArgumentError(
        f'{what}: {field.name} must be a whole number, not {number}.'
      )
  return kind(*numbers)


def _parse_number(part: str, text: str) -> Number:
  try:
    return int(part)
  except ValueError:
    pass
  try:
    return float(part)
  except ValueError:
    raise ArgumentError(
      f'{part.strip()!r} in {text!r} is not a number.'
    ) from None
