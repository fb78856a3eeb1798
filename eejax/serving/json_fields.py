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
"""Reading typed fields of a JSON object, with the errors of the protocol."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from eejax.serving.api_error import ApiError, wrong_field

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
  (bool, 'a boolean'),
  (str, 'a string'),
  (int, 'a number'),
  (float, 'a decimal number'),
  (list, 'an array'),
  (dict, 'an object'),
)


def parse_object(body: bytes) -> dict[str, Any]:
  """Return the JSON object of a body.

  Raises:
    ApiError: it is not UTF-8, no JSON, or no object.
  """
  try:
    text = body.decode('utf-8')
  except UnicodeDecodeError:
    raise ApiError('the body is not valid UTF-8 text.') from None
  try:
    values = json.loads(text, parse_constant=_no_number)
  # Numbers and nesting without an end are ValueErrors and RecursionErrors.
  except (ValueError, RecursionError):
    raise ApiError(
      'the body is not valid JSON; send one JSON object.'
    ) from None
  # An escape may stand for half a character, which no UTF-8 can say.
  if '\\ud' in text or '\\uD' in text:
    _check_text(values)
  if not isinstance(values, dict):
    raise ApiError(f'the body must be a JSON object, not {kind_of(values)}.')
  return values


def _check_text(values: Any) -> None:
  try:
    json.dumps(values, ensure_ascii=False).encode('utf-8')
  except UnicodeEncodeError:
    raise ApiError(
      'the body has half of a surrogate pair; send whole characters.'
    ) from None


def kind_of(value: Any) -> str:
  """Return what a JSON value is, in words."""
  if value is None:
    return 'null'
  return next(words for kind, words in _KINDS if isinstance(value, kind))


def _no_number(name: str) -> NoReturn:
  raise ValueError(name)


class Fields:
  """The fields of a request, each read once with its type and range.

  A field that is null counts as left out.
  """

  def __init__(self, values: Mapping[str, Any], *, inside: str = ''):
    """Read the fields of an object.

    Args:
      values: the object.
      inside: the field that holds it, as errors name it; '' at the top.
    """
    self._values = values
    self._inside = f'{inside}.' if inside else ''
    self._read: set[str] = set()

  def name(self, name: str) -> str:
    """Return a field as errors name it."""
    return self._inside + name

  def get(self, name: str) -> Any:
    """Return the value of a field as it came; None where there is none."""
    self._read.add(name)
    return self._values.get(name)

  def unread(self) -> tuple[str, ...]:
    """Return the fields that nobody has asked for, in their order."""
    return tuple(
      self.name(n)
      for n, v in self._values.items()
      if n not in self._read and v is not None
    )

  def refuse(self, name: str, words: str, *allowed: Any) -> None:
    """Raise `words` where a field has a value that is not `allowed`."""
    value = self.get(name)
    if value is not None and value not in allowed:
      raise wrong_field(self.name(name), words)

  def boolean(self, name: str, *, default: bool = False) -> bool:
    """Return a boolean."""
    value = self.get(name)
    if value is None:
      return default
    if not isinstance(value, bool):
      self._wrong(name, 'a boolean', value)
    return value

  def integer(
    self,
    name: str,
    *,
    default: Any = None,
    low: int | None = None,
    high: int | None = None,
  ) -> Any:
    """Return a whole number in [low, high], or the default."""
    value = self.get(name)
    if value is None:
      return default
    if isinstance(value, bool) or not isinstance(value, int):
      self._wrong(name, 'a whole number', value)
    self._check_range(name, value, low, high)
    return value

  def number(
    self,
    name: str,
    *,
    default: Any = None,
    low: float | None = None,
    high: float | None = None,
  ) -> Any:
    """Return a number in [low, high], or the default."""
    value = self.get(name)
    if value is None:
      return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      self._wrong(name, 'a number', value)
    # Of integers as well, for some are more than any float.
    self._check_range(name, value, low, high)
    if not math.isfinite(value):
      self._wrong(name, 'a finite number', value)
    return float(value)

  def text(self, name: str, *, default: Any = None) -> Any:
    """Return a string, or the default."""
    value = self.get(name)
    if value is None:
      return default
    if not isinstance(value, str):
      self._wrong(name, 'a string', value)
    return value

  def texts(self, name: str, *, most: int) -> tuple[str, ...]:
    """Return a string or an array of strings as a tuple, at most so many."""
    value = self.get(name)
    if value is None:
      return ()
    found = [value] if isinstance(value, str) else value
    if not is_list_of(found, str):
      self._wrong(name, 'a string or an array of strings', value)
    if len(found) > most:
      raise wrong_field(
        self.name(name), f'{self.name(name)} has at most {most} strings.'
      )
    return tuple(found)

  def stop_strings(self, name: str, *, most: int) -> tuple[str, ...]:
    """Return strings as `texts` does, none of which is empty."""
    found = self.texts(name, most=most)
    if '' in found:
      raise wrong_field(self.name(name), 'a stop string must not be empty.')
    return found

  def token_ids(self, name: str, *, vocab_size: int) -> tuple[int, ...]:
    """Return an array of token ids as a tuple."""
    value = self.get(name)
    if value is None:
      return ()
    if not is_list_of(value, int):
      self._wrong(name, 'an array of token ids', value)
    for token in value:
      if not 0 <= token < vocab_size:
        raise wrong_field(
          self.name(name),
          f'{self.name(name)} has token {token}, and the model only tokens 0 '
          f'to {vocab_size - 1}.',
        )
    return tuple(value)

  def object(self, name: str) -> Mapping[str, Any]:
    """Return an object; an empty one where there is none."""
    value = self.get(name)
    if value is None:
      return {}
    if not isinstance(value, dict):
      self._wrong(name, 'an object', value)
    return value

  def _check_range(
    self, name: str, value: float, low: float | None, high: float | None
  ) -> None:
    is_low = low is not None and value < low
    if is_low or (high is not None and value > high):
      bounds = [
        *([f'at least {low:g}'] if low is not None else []),
        *([f'at most {high:g}'] if high is not None else []),
      ]
      raise wrong_field(
        self.name(name),
        f'{self.name(name)} must be {" and ".join(bounds)}, not {value:g}.'
        if abs(value) < 1e15
        else f'{self.name(name)} must be {" and ".join(bounds)}.',
      )

  def _wrong(self, name: str, wanted: str, value: Any) -> NoReturn:
    raise wrong_field(
      self.name(name),
      f'{self.name(name)} must be {wanted}, not {kind_of(value)}.',
      code='invalid_type',
    )


def is_list_of(values: Any, kind: type) -> bool:
  """Return whether a value is an array of `kind`; true is no number."""
  return (
    isinstance(values, Sequence)
    and not isinstance(values, str)
    and all(
      isinstance(v, kind) and not (kind is int and isinstance(v, bool))
      for v in values
    )
  )
