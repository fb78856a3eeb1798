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
"""Compare models: a manifest names them, their texts and their facts.

A manifest is JSON:

  {"models": [{"name": "tiny-dense", "checkpoint": "models/tiny",
               "release": "2026-11", "family": "tiny", "kind": "dense",
               "tuning": "base", "parameters": 1e7}, ...],
   "data": [{"name": "library", "path": "stdlib"}, ...],
   "reference": "tiny-dense"}

Of a model, `name` and `checkpoint` are needed. A model without a fact is in no
group of it. A model or text that cannot be read does not stop the others: the
report says which failed and why.
"""

import dataclasses
import enum
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from eejax import storage
from eejax.errors import ArgumentError


class ModelKind(enum.Enum):
  """What a block is made of."""

  DENSE = 'dense'
  MOE = 'moe'
  SSM = 'ssm'


class Tuning(enum.Enum):
  """Whether a model was trained further to follow instructions."""

  BASE = 'base'
  INSTRUCT = 'instruct'


@dataclasses.dataclass(frozen=True)
class ModelEntry:
  """Model of a manifest and what is known of it.

  Attributes:
    name: unique in the manifest.
    checkpoint: an eejax checkpoint or a Hugging Face folder.
    release: date as YYYY, YYYY-MM or YYYY-MM-DD, '' where unknown.
    family: such as 'llama', '' where unknown.
    kind: dense, moe or ssm, None where unknown.
    tuning: base or instruct, None where unknown.
    parameters: how many, None where unknown.
  """

  name: str
  checkpoint: str
  release: str = ''
  family: str = ''
  kind: ModelKind | None = None
  tuning: Tuning | None = None
  parameters: float | None = None

  @property
  def year(self) -> float | None:
    """Return the release date in years, 2024.5 for July 2024."""
    if not self.release:
      return None
    year, month, day = ([*map(int, self.release.split('-')), 1, 1])[:3]
    return year + (month - 1) / 12 + (day - 1) / 365

  @property
  def size(self) -> str:
    """Return the class of its size, '' where unknown."""
    if self.parameters is None:
      return ''
    for limit, name in _SIZES:
      if self.parameters < limit:
        return name
    return _LARGEST


_SIZES = (
  (1e8, 'under 0.1 billion'),
  (1e9, '0.1 to 1 billion'),
  (1e10, '1 to 10 billion'),
  (2e10, '10 to 20 billion'),
)
_LARGEST = '20 billion and more'


@dataclasses.dataclass(frozen=True)
class DataEntry:
  """Text of a manifest.

  Attributes:
    name: unique in the manifest.
    path: as `--data` takes it.
    split: which part, None for the usual one.
    unit: what one document of a text file is.
    field: where the text is in the objects of a `.jsonl` file.
  """

  name: str
  path: str
  split: str | None = None
  unit: str = 'file'
  field: str = 'text'


@dataclasses.dataclass(frozen=True)
class ComparisonManifest:
  """Models and texts to compare.

  Attributes:
    models: at least one.
    data: at least one.
    reference: name of the model that scores are relative to, '' for none.
  """

  models: tuple[ModelEntry, ...]
  data: tuple[DataEntry, ...]
  reference: str = ''


def read_manifest(path: str | pathlib.Path) -> ComparisonManifest:
  """Read a manifest; paths in it are as seen from its folder.

  Raises:
    ArgumentError: it is missing, empty, or says something unknown.
  """
  path = storage.local_path(path)
  try:
    text = path.read_text(encoding='utf-8')
  except FileNotFoundError:
    raise ArgumentError(f'there is no manifest {path}.') from None
  except UnicodeDecodeError as error:
    raise ArgumentError(
      f'{path} is not UTF-8 text: byte {error.start} is wrong.'
    ) from error
  except OSError as error:
    raise ArgumentError(f'{path} cannot be read: {error.strerror}.') from error
  if not text.strip():
    raise ArgumentError(_EMPTY.format(path))
  try:
    values = json.loads(text)
  except ValueError as error:
    raise ArgumentError(f'{path} is not JSON: {error}.') from error
  return parse_manifest(values, name=str(path), folder=path.parent)


_EMPTY = (
  '{} names no model; write {{"models": [{{"name": ..., "checkpoint": ...}}]}} '
  'into it.'
)


def parse_manifest(
  values: Any, *, name: str = 'the manifest', folder: pathlib.Path | None = None
) -> ComparisonManifest:
  """Turn plain values into a manifest.

  Args:
    values: what JSON holds.
    name: of the manifest, for complaints.
    folder: what relative paths start from; the working folder by default.

  Raises:
    ArgumentError: it names no model, or says something unknown.
  """
  if not isinstance(values, dict):
    raise ArgumentError(f'{name} must be a JSON object with "models".')
  _no_others(values, ('models', 'data', 'reference'), name)
  models = tuple(
    _model(v, f'{name}, model {i},', folder)
    for i, v in enumerate(_list(values, 'models', name), start=1)
  )
  if not models:
    raise ArgumentError(_EMPTY.format(name))
  data = tuple(
    _data(v, f'{name}, text {i},', folder)
    for i, v in enumerate(_list(values, 'data', name), start=1)
  ) or (DataEntry('stdlib', 'stdlib'),)
  for what, entries in (('model', models), ('text', data)):
    names = [e.name for e in entries]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
      raise ArgumentError(f'{name} has two {what}s named {twice[0]!r}.')
  reference = values.get('reference', '')
  if reference and reference not in [m.name for m in models]:
    raise ArgumentError(
      f'{name} has the reference {reference!r}, which is none of its models.'
    )
  return ComparisonManifest(models, data, reference)


def _list(values: Mapping[str, Any], key: str, name: str) -> Sequence[Any]:
  found = values.get(key, [])
  if not isinstance(found, list):
    raise ArgumentError(f'{name}: {key} must be a list.')
  return found


def _model(values: Any, where: str, folder) -> ModelEntry:
  known = [f.name for f in dataclasses.fields(ModelEntry)]
  texts = _texts(values, where, known, needed=('name', 'checkpoint'))
  release = texts.get('release', '')
  if not re.fullmatch(r'(\d{4}(-(0[1-9]|1[0-2])(-\d{2})?)?)?', release):
    raise ArgumentError(
      f'{where} has the release {release!r}; write YYYY-MM-DD, YYYY-MM or YYYY.'
    )
  parameters = values.get('parameters')
  if parameters is not None and (
    isinstance(parameters, bool)
    or not isinstance(parameters, (int, float))
    or parameters <= 0
  ):
    raise ArgumentError(f'{where} has no number of parameters above 0.')
  return ModelEntry(
    name=texts['name'],
    checkpoint=_path(texts['checkpoint'], folder),
    release=release,
    family=texts.get('family', ''),
    kind=_member(ModelKind, values.get('kind'), 'kind', where),
    tuning=_member(Tuning, values.get('tuning'), 'tuning', where),
    parameters=None if parameters is None else float(parameters),
  )


def _data(values: Any, where: str, folder) -> DataEntry:
  known = [f.name for f in dataclasses.fields(DataEntry)]
  texts = _texts(values, where, known, needed=('path',))
  path = texts['path']
  is_name = path == 'stdlib' or re.match(r'(seqio|tfds):', path)
  return DataEntry(
    name=texts.get('name', storage.local_path(path).name),
    path=path if is_name else _path(path, folder),
    split=texts.get('split'),
    unit=texts.get('unit', 'file'),
    field=texts.get('field', 'text'),
  )


def _texts(values: Any, where: str, known, *, needed) -> dict[str, str]:
  """Return the texts of an entry, each of them checked to be one."""
  if not isinstance(values, dict):
    raise ArgumentError(f'{where} is not a JSON object.')
  _no_others(values, known, where)
  for key in needed:
    if not values.get(key):
      raise ArgumentError(f'{where} has no {key}.')
  found = {}
  for key, value in values.items():
    if key != 'parameters' and value is not None:
      if not isinstance(value, str):
        raise ArgumentError(f'{where} has a {key} that is no text.')
      found[key] = value
  return found


def _no_others(values, known: Sequence[str], where: str) -> None:
  others = sorted(set(values) - set(known))
  if others:
    raise ArgumentError(
      f'{where} has {others[0]!r}, which means nothing; it may have '
      f'{", ".join(known)}.'
    )


def _member(kind, value: Any, key: str, where: str):
  if value is None:
    return None
  try:
    return kind(value)
  except ValueError:
    names = ' or '.join(m.value for m in kind)
    raise ArgumentError(
      f'{where} has the {key} {value!r}; it is {names}.'
    ) from None


def _path(text: str, folder: pathlib.Path | None) -> str:
  path = storage.local_path(text).expanduser()
  return str(path if folder is None else folder / path)
