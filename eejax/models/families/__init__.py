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
"""Hugging Face's names for what a decoder is made of.

`read_config` and `write_config` go between `config.json` and `ModelConfig`;
`eejax.models.families.tensors` between tensor names and the parameter tree.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.families import family as _family
from eejax.models.families.falcon_h1 import FALCON_H1
from eejax.models.families.family import Family, read_eos, write_eos
from eejax.models.families.gemma2 import GEMMA2
from eejax.models.families.gemma3 import GEMMA3
from eejax.models.families.gpt2 import GPT2
from eejax.models.families.gpt_neox import GPT_NEOX
from eejax.models.families.granite import GRANITE
from eejax.models.families.llama import LLAMA
from eejax.models.families.mamba import MAMBA
from eejax.models.families.mamba2 import MAMBA2
from eejax.models.families.mistral import MISTRAL
from eejax.models.families.mixtral import MIXTRAL
from eejax.models.families.olmo2 import OLMO2
from eejax.models.families.opt import OPT
from eejax.models.families.phi3 import PHI3
from eejax.models.families.qwen2 import QWEN2
from eejax.models.families.qwen2_moe import QWEN2_MOE
from eejax.models.families.qwen3 import QWEN3
from eejax.models.families.qwen3_moe import QWEN3_MOE
from eejax.models.families.smollm3 import SMOLLM3

__all__ = [
  'FAMILIES',
  'Family',
  'read_config',
  'read_eos',
  'write_config',
  'write_eos',
]

FAMILIES: dict[str, Family] = {
  f.model_type: f
  for f in (
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    PHI3,
    SMOLLM3,
    GRANITE,
    OLMO2,
    GPT2,
    OPT,
    GPT_NEOX,
    GEMMA2,
    GEMMA3,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    MAMBA,
    MAMBA2,
    FALCON_H1,
  )
}


def read_config(values: Mapping[str, Any]) -> ModelConfig:
  """Return the model that a parsed `config.json` describes.

  Raises:
    CheckpointError: the architecture or one of the keys is not supported.
  """
  return _family.read_config(_find(values), values)


def write_config(config: ModelConfig) -> dict[str, Any]:
  """Return the `config.json` of a model, without the dtype.

  Raises:
    ArgumentError: the model's family is unknown, or cannot have one of the
      model's parts.
  """
  if config.family not in FAMILIES:
    raise ArgumentError(
      f'the family {config.family!r} is not one of: {", ".join(FAMILIES)}.'
    )
  family = FAMILIES[config.family]
  values = _family.write_config(family, config)
  _check_same(config, _family.read_config(family, values))
  return values


def _check_same(config: ModelConfig, read: ModelConfig) -> None:
  """Refuse a model of which the family's files cannot say everything."""
  for field in dataclasses.fields(config):
    if getattr(config, field.name) != getattr(read, field.name):
      raise ArgumentError(
        f'a model whose {field.name} is {getattr(config, field.name)} cannot '
        f'be written as {config.family!r}; set another family in its '
        'configuration.'
      )


def _find(values: Mapping[str, Any]) -> Family:
  """Return the family of a file by its type, checked against its class."""
  name = values.get('model_type')
  family = FAMILIES.get(str(name))
  architectures = values.get('architectures') or []
  if family is not None and architectures in ([], [family.architecture]):
    return family
  found = ', '.join(map(str, architectures)) or f'model_type {name!r}'
  supported = ', '.join(f.architecture for f in FAMILIES.values())
  raise CheckpointError(
    f'the architecture {found} is not supported; supported are {supported}.'
  )
