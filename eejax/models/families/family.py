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
"""Read and write the facts that Llama, Mistral and Qwen files share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.families import keys
from eejax.models.families.rotary import (
  read_rotary,
  stated_length,
  usable_length,
  write_rotary,
)

# A family's own facts, as `ModelConfig` fields or as config.json keys.
Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
  """Describe how one `model_type` says what it is.

  Attributes:
    model_type: the name in config.json.
    architecture: the class that transformers writes beside it.
    defaults: what transformers takes an absent key for; null is a value.
    own_keys: keys that only `read` below looks at.
    read: returns the `ModelConfig` fields that are the family's own.
    write: returns the config.json keys that `read` reads; raises
      `ArgumentError` for a model that the family cannot be.
  """

  model_type: str
  architecture: str
  defaults: Mapping[str, Any]
  own_keys: frozenset[str]
  read: Callable[[Mapping[str, Any]], Fields]
  write: Callable[[ModelConfig], Fields]


_SIZES = {
  'vocab_size': 'vocab_size',
  'num_layers': 'num_hidden_layers',
  'embed_dim': 'hidden_size',
  'num_heads': 'num_attention_heads',
  'num_kv_heads': 'num_key_value_heads',
  'mlp_dim': 'intermediate_size',
}


def read_config(family: Family, values: Mapping[str, Any]) -> ModelConfig:
  """Return the model that a parsed `config.json` of `family` describes.

  Raises:
    CheckpointError: a key is missing, unsupported or out of range.
  """
  keys.check_keys(values, read=keys.READ | family.own_keys)
  values = {**family.defaults, **values}
  if values.get('num_key_value_heads') is None:
    values['num_key_value_heads'] = values.get('num_attention_heads')
  fields: Fields = {o: _integer(values, key) for o, key in _SIZES.items()}
  head_dim = values.get('head_dim')
  if head_dim is None:
    head_dim = fields['embed_dim'] // max(fields['num_heads'], 1)
  positions = _integer(values, 'max_position_embeddings')
  try:
    rotary = read_rotary(values)
    return ModelConfig(
      **fields,
      head_dim=head_dim,
      max_length=usable_length(rotary, positions),
      norm_epsilon=float(values['rms_norm_eps']),
      rotary=rotary,
      tied_head=bool(values.get('tie_word_embeddings', False)),
      bos_id=values.get('bos_token_id'),
      eos_ids=read_eos(values.get('eos_token_id')),
      family=family.model_type,
      **family.read(values),
    )
  except ArgumentError as error:
    raise CheckpointError(f'config.json: {error}') from error


def write_config(family: Family, config: ModelConfig) -> dict[str, Any]:
  """Return `config.json` as transformers 5 writes it, without the dtype.

  Raises:
    ArgumentError: the model has a part that `family` cannot have.
  """
  values: dict[str, Any] = {
    'architectures': [family.architecture],
    'attention_dropout': 0.0,
    'bos_token_id': config.bos_id,
    'eos_token_id': write_eos(config.eos_ids),
    'hidden_act': 'silu',
    'initializer_range': 0.02,
    'max_position_embeddings': stated_length(config.rotary, config.max_length),
    'model_type': family.model_type,
    'pad_token_id': None,
    'rms_norm_eps': config.norm_epsilon,
    'rope_parameters': write_rotary(config.rotary),
    'tie_word_embeddings': config.tied_head,
    'use_cache': True,
  }
  values.update({key: getattr(config, ours) for ours, key in _SIZES.items()})
  values.update(family.write(config))
  return dict(sorted(values.items()))


def read_eos(value: int | list[int] | None) -> tuple[int, ...]:
  """Return `eos_token_id`, a number or a list, as a tuple."""
  if value is None:
    return ()
  return (value,) if isinstance(value, int) else tuple(value)


def write_eos(ids: tuple[int, ...]) -> int | list[int] | None:
  """Return `eos_token_id` as a number where there is one, else a list."""
  if len(ids) > 1:
    return list(ids)
  return ids[0] if ids else None


def refuse(family: str, **parts: bool) -> None:
  """Refuse to write a model as `family` when it has any of `parts`.

  Raises:
    ArgumentError: a part is there; it is named.
  """
  for name, is_there in parts.items():
    if is_there:
      raise ArgumentError(
        f'a model with {name.replace("_", " ")} cannot be written as '
        f'{family!r}; set another family in its configuration.'
      )


def _integer(values: Mapping[str, Any], key: str) -> int:
  value = values.get(key)
  if value is None:
    raise CheckpointError(f'config.json lacks {key!r}.')
  if not isinstance(value, int) or isinstance(value, bool):
    raise CheckpointError(
      f'config.json: {key!r} must be an integer, not {value!r}.'
    )
  return value
