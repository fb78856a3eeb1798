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
"""Read and write the facts that the files of all families share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from eejax.config import Activation, ModelConfig, PositionKind, RotaryConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.families import keys
from eejax.models.families.names import LLAMA_NAMES, Names
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
    names: of the tensors.
    renamed: what the family calls a key that all have, by our name of it.
    fixed: `ModelConfig` fields that are alike in all models of the family.
    rotary_fraction: share of a head that is rotated where a file does not say
      it; None where all of it always is.
    standard: brings a file's values into the form that `read` and the parts
      that all families share expect.
    tied_head: whether the head is tied where a file does not say it.
    unwritten: keys that all files have and the family's lack.
  """

  model_type: str
  architecture: str
  defaults: Mapping[str, Any]
  own_keys: frozenset[str]
  read: Callable[[Mapping[str, Any]], Fields]
  write: Callable[[ModelConfig], Fields]
  names: Names = LLAMA_NAMES
  renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
  fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rotary_fraction: float | None = None
  standard: Callable[[Fields], Fields] = lambda values: values
  tied_head: bool = False
  unwritten: frozenset[str] = frozenset()

  @property
  def keys_read(self) -> frozenset[str]:
    """Return the keys of a file that are read."""
    read = {self.renamed.get(key, key) for key in keys.READ}
    if not self.rotates:
      read -= {'rope_parameters', 'rope_scaling', 'rope_theta'}
    return frozenset(read) | self.own_keys

  @property
  def rotates(self) -> bool:
    """Return whether heads are rotated by their positions."""
    rotary = PositionKind.ROTARY
    return self.fixed.get('positions', rotary) is rotary


_SIZES = {
  'vocab_size': 'vocab_size',
  'num_layers': 'num_hidden_layers',
  'embed_dim': 'hidden_size',
  'num_heads': 'num_attention_heads',
  'num_kv_heads': 'num_key_value_heads',
  'mlp_dim': 'intermediate_size',
}


# The name that is written, and others for the same function.
_ACTIVATIONS = {
  Activation.SILU: ('silu', 'swish'),
  Activation.GELU: ('gelu',),
  Activation.GELU_TANH: ('gelu_pytorch_tanh', 'gelu_new', 'gelu_fast'),
  Activation.RELU: ('relu',),
}


def read_config(family: Family, values: Mapping[str, Any]) -> ModelConfig:
  """Return the model that a parsed `config.json` of `family` describes.

  Raises:
    CheckpointError: a key is missing, unsupported or out of range.
  """
  keys.check_keys(values, read=family.keys_read)
  values = {**family.defaults, **values}
  values |= {
    ours: values.pop(theirs)
    for ours, theirs in family.renamed.items()
    if theirs in values
  }
  values = family.standard(values)
  if values.get('num_key_value_heads') is None:
    values['num_key_value_heads'] = values.get('num_attention_heads')
  fields: Fields = {o: integer(values, key) for o, key in _SIZES.items()}
  head_dim = values.get('head_dim')
  if head_dim is None:
    head_dim = fields['embed_dim'] // max(fields['num_heads'], 1)
  positions = integer(values, 'max_position_embeddings')
  rotary = RotaryConfig()
  try:
    if family.rotates:
      rotary = read_rotary(values, fraction=family.rotary_fraction)
    return ModelConfig(
      **fields,
      activation=_read_activation(values.get('hidden_act', 'silu')),
      head_dim=head_dim,
      max_length=usable_length(rotary, positions),
      norm_epsilon=float(values['rms_norm_eps']),
      rotary=rotary,
      tied_head=bool(values.get('tie_word_embeddings', family.tied_head)),
      bos_id=values.get('bos_token_id'),
      eos_ids=read_eos(values.get('eos_token_id')),
      family=family.model_type,
      **family.fixed,
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
    'hidden_act': _ACTIVATIONS[config.activation][0],
    'initializer_range': 0.02,
    'max_position_embeddings': stated_length(config.rotary, config.max_length),
    'model_type': family.model_type,
    'pad_token_id': None,
    'rms_norm_eps': config.norm_epsilon,
    'tie_word_embeddings': config.tied_head,
    'use_cache': True,
  }
  if family.rotates:
    values['rope_parameters'] = write_rotary(config.rotary)
  values.update({key: getattr(config, ours) for ours, key in _SIZES.items()})
  values.update(family.write(config))
  values = {
    family.renamed.get(k, k): v
    for k, v in values.items()
    if k not in family.unwritten
  }
  return dict(sorted(values.items()))


def _read_activation(name: Any) -> Activation:
  for activation, names in _ACTIVATIONS.items():
    if name in names:
      return activation
  known = ', '.join(names[0] for names in _ACTIVATIONS.values())
  raise CheckpointError(
    f'config.json: hidden_act {name!r} is not supported; supported are {known}.'
  )


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


def integer(values: Mapping[str, Any], key: str) -> int:
  """Return a number of a file.

  Raises:
    CheckpointError: it is missing, or no whole number.
  """
  value = values.get(key)
  if value is None:
    raise CheckpointError(f'config.json lacks {key!r}.')
  if not isinstance(value, int) or isinstance(value, bool):
    raise CheckpointError(
      f'config.json: {key!r} must be an integer, not {value!r}.'
    )
  return value
