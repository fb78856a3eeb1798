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
"""Values as JSON, and files that are written whole or not at all."""

import dataclasses
import enum
import functools
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from eejax import storage
from eejax.errors import ArgumentError


def plain(value: Any) -> Any:
  """Return `value` as what JSON knows; NaN and infinities become None.

  Takes mappings, sequences, enums, paths, dataclasses and arrays.

  Raises:
    TypeError: it holds something else.
  """
  if value is None or isinstance(value, (bool, int, str)):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  if isinstance(value, enum.Enum):
    return plain(value.value)
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, Mapping):
    return {_key(k): plain(v) for k, v in value.items()}
  if isinstance(value, (list, tuple, set, frozenset)):
    return [plain(v) for v in value]
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = dataclasses.fields(value)
    return {f.name: plain(getattr(value, f.name)) for f in fields}
  if hasattr(value, 'tolist'):  # numpy and jax arrays and scalars
    return plain(value.tolist())
  raise TypeError(f'{type(value).__name__} cannot be written as JSON.')


def _key(key: Any) -> str:
  return str(key.value if isinstance(key, enum.Enum) else key)


@functools.cache
def _encoder(indent: int | None, sort_keys: bool) -> json.JSONEncoder:
  # `json.dumps` makes one for each call, which a stream of tokens feels.
  return json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, indent=indent, sort_keys=sort_keys
  )


def dumps(
  value: Any, *, indent: int | None = None, sort_keys: bool = False
) -> str:
  """Return `value` as JSON text, without NaN and Infinity."""
  write = _encoder(indent, sort_keys).encode
  try:
    # Most of what is written is plain, and finding that out takes longer.
    return write(value)
  except (TypeError, ValueError):
    return write(plain(value))


def write_text(path: str | os.PathLike, text: str) -> None:
  """Write a file as a whole: a reader sees the old one or the new one.

  The text goes to a hidden sibling, is flushed to the disk, and takes the
  place of `path` in one rename. The folder is made if it is not there. A
  store shows a file when it has all of it.
  """
  write_bytes(path, text.encode('utf-8'))


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Write a file as a whole, as `write_text` does."""
  path = storage.as_path(path)
  if storage.is_remote(path):
    with storage.reported(path, what='written'):
      path.write_bytes(content)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.partial')
  with partial.open('wb') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)


def write_json(
  path: str | os.PathLike, value: Any, *, indent: int | None = 2
) -> None:
  """Write `value` as a JSON file; see `plain` and `write_text`."""
  write_text(path, dumps(value, indent=indent) + '\n')


def read_object(path: str | os.PathLike, *, what: str) -> dict[str, Any]:
  """Return the JSON object in a file.

  Args:
    path: the file.
    what: it holds, as in 'policy'; error messages name it.

  Raises:
    ArgumentError: the file is missing, no JSON, or no object.
  """
  path = storage.as_path(path)
  try:
    values = json.loads(path.read_text(encoding='utf-8'))
  except storage.failures() as error:
    words = getattr(error, 'strerror', None) or storage.reason(error)
    raise ArgumentError(
      f'the {what} {path} cannot be read ({words}).'
    ) from error
  except ValueError as error:
    raise ArgumentError(f'the {what} {path} is not JSON: {error}.') from error
  if not isinstance(values, dict):
    raise ArgumentError(f'the {what} {path} is not a JSON object.')
  return values


def check_writable(path: str | os.PathLike) -> None:
  """Check, before long work is begun, that a file can be written.

  Raises:
    ArgumentError: it cannot.
  """
  path = storage.as_path(path)
  if storage.is_remote(path):
    with storage.reported(path, what='read'):
      path.exists()
    return
  if path.is_dir():
    raise ArgumentError(f'{path} is a folder; name a file.')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ArgumentError(
      f'{path} cannot be written ({error.strerror}); name another file.'
    ) from error
  if not os.access(path.parent, os.W_OK):
    raise ArgumentError(
      f'{path} cannot be written, for its folder is read-only; name another '
      'file.'
    )
