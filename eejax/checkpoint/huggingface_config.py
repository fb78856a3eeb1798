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
"""Read a `config.json` that comes from anywhere."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import families

# Far more than any model has; lists as long as this are harmless.
MOST_BLOCKS = 10_000


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Return the JSON object in a file.

  Raises:
    CheckpointError: there is none.
  """
  try:
    values = json.loads(path.read_text(), parse_constant=_no_number)
  except (OSError, ValueError, RecursionError) as error:
    raise CheckpointError(f'{path} cannot be read: {error}.') from error
  if not isinstance(values, dict):
    raise CheckpointError(f'{path} does not hold a JSON object.')
  return values


def _no_number(name: str) -> float:
  raise ValueError(f'{name} is no number')


def read_model(values: Mapping[str, Any]) -> ModelConfig:
  """Return the model that a `config.json` from anywhere describes.

  Raises:
    CheckpointError: it names code, is not supported, or contradicts itself.
  """
  if values.get('auto_map'):
    raise CheckpointError(
      'config.json names code that comes with the model (auto_map); eejax runs '
      'no code of others, so a model that is only what its own code makes of '
      'it cannot be read.'
    )
  blocks = values.get('num_hidden_layers')
  if isinstance(blocks, int) and blocks > MOST_BLOCKS:
    raise CheckpointError(
      f'config.json says that there are {blocks} blocks, more than any model '
      'has; download it again.'
    )
  try:
    return families.read_config(values)
  except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
    raise CheckpointError(_senseless(error)) from error
  except ValueError as error:  # which an ArgumentError is
    words = str(error) if isinstance(error, ArgumentError) else None
    raise CheckpointError(words or _senseless(error)) from error


def _senseless(error: Exception) -> str:
  words = ' '.join(str(error).split())[:120]
  return (
    'config.json has a value that no model can have '
    f'({type(error).__name__}: {words}); download it again.'
  )
