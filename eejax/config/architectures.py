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
"""Read the facts kept in `configs/`: architectures and exit placements."""

import json
from typing import Any

from eejax import resources, storage
from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ModelConfig,
  parse_exits,
)
from eejax.config.config_json import model_from_json
from eejax.errors import ArgumentError


def read_model(name: str) -> ModelConfig:
  """Return an architecture of `configs/models`, or of a file like those.

  Args:
    name: a file's name without `.json`, or the path of a JSON file that has
      fields of `ModelConfig`.

  Example:
    >>> read_model('llama_3_8b').num_kv_heads
    8

  Raises:
    ArgumentError: there is no such file, or it is not a model.
  """
  values = _read('models', name)
  try:
    return model_from_json(values)
  except (TypeError, ValueError) as error:
    if isinstance(error, ArgumentError):
      raise
    raise ArgumentError(f'{name} does not describe a model: {error}.') from None


def read_exits(name: str) -> tuple[ExitConfig, ...]:
  """Return an exit placement of `configs/exits`, or of a file like those.

  Raises:
    ArgumentError: there is no such file, or it has no exits.
  """
  values = _read('exits', name)
  if 'exits' not in values:
    raise ArgumentError(f'{name} has no field exits, as in "6:mlp,12:norm".')
  return parse_exits(values['exits'])


def read_early_exit(model: str, *, exits: str) -> EarlyExitConfig:
  """Return a model of `configs/models` with exits of `configs/exits`."""
  return EarlyExitConfig(read_model(model), read_exits(exits))


def _read(kind: str, name: str) -> dict[str, Any]:
  folder = resources.folder('configs') / kind
  path = storage.local_path(name)
  if path.suffix != '.json':
    path = folder / f'{name}.json'
  try:
    values = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    known = ', '.join(sorted(p.stem for p in folder.glob('*.json')))
    raise ArgumentError(
      f'there is no configuration {name!r}; known are {known}.'
    ) from None
  except ValueError as error:
    raise ArgumentError(f'{path} is not JSON: {error}.') from None
  values.pop('source', None)
  return values
