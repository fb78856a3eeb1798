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
"""Descriptions of models as JSON, and back."""

import dataclasses
import enum
import json
from typing import Any

from eejax.config.block import (
  Activation,
  MLPKind,
  NormKind,
  NormPlacement,
  PositionKind,
  QKNormSpan,
  Residual,
)
from eejax.config.block_scales import BlockScales
from eejax.config.exits import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  GateKind,
  OutputMatrix,
)
from eejax.config.experts import ExpertsConfig
from eejax.config.model import NUM_FIRST_FIELDS, ModelConfig
from eejax.config.rotary import RotaryConfig, RotaryScaling
from eejax.config.state_space import GatedNorm, StateSpaceConfig, StateSpaceKind
from eejax.errors import ArgumentError

_ENUMS: dict[str, type[enum.Enum]] = {
  'norm': NormKind,
  'norm_placement': NormPlacement,
  'residual': Residual,
  'mlp': MLPKind,
  'activation': Activation,
  'positions': PositionKind,
  'qk_norm_span': QKNormSpan,
}
# Files say them only where they are not the default, as files did that were
# written before these fields were there.
_LATER_ROTARY_FIELDS = ('fraction', 'short_factors', 'long_factors')


def to_json(config: EarlyExitConfig) -> dict[str, Any]:
  """Return `config` as plain values that `json` can write."""

  def plain(x):
    if isinstance(x, enum.Enum):
      return x.value
    if isinstance(x, dict):
      return {k: plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
      return [plain(v) for v in x]
    return x

  values = plain(dataclasses.asdict(config))
  for field in dataclasses.fields(ModelConfig)[NUM_FIRST_FIELDS:]:
    if getattr(config.model, field.name) == field.default:
      del values['model'][field.name]
  for name in ('rotary', 'window_rotary'):
    rotary = values['model'].get(name, {})
    for later in _LATER_ROTARY_FIELDS:
      if rotary.get(later) in (1, []):
        del rotary[later]
  return values


def from_json(values: dict[str, Any]) -> EarlyExitConfig:
  """Rebuild a configuration that `to_json` wrote.

  Raises:
    ArgumentError: a field is unknown, missing or out of range.
  """
  try:
    return EarlyExitConfig(
      model=model_from_json(values['model']),
      exits=tuple(exit_from_json(e) for e in values['exits']),
    )
  except (KeyError, TypeError, ValueError) as error:
    if isinstance(error, ArgumentError):
      raise
    raise ArgumentError(f'the model description is broken: {error}.') from error


def model_from_json(values: dict[str, Any]) -> ModelConfig:
  """Rebuild a backbone from fields as JSON has them; others are defaults.

  Raises:
    ArgumentError: a field is out of range.
    TypeError: a field is unknown or missing.
    ValueError: a name is unknown.
  """
  model = dict(values)
  for name in ('rotary', 'window_rotary'):
    if model.get(name) is not None:
      rotary = dict(model[name])
      if 'scaling' in rotary:
        rotary['scaling'] = RotaryScaling(rotary['scaling'])
      for factors in ('short_factors', 'long_factors'):
        if factors in rotary:
          rotary[factors] = tuple(rotary[factors])
      model[name] = RotaryConfig(**rotary)
  if model.get('experts') is not None:
    model['experts'] = ExpertsConfig(**model['experts'])
  if model.get('scales') is not None:
    scales = dict(model['scales'])
    scales['mixer_parts'] = tuple(scales.get('mixer_parts', ()))
    model['scales'] = BlockScales(**scales)
  if model.get('state_space') is not None:
    mixer = dict(model['state_space'])
    recurrence = StateSpaceKind(mixer.pop('kind'))
    mixer['norm'] = GatedNorm(mixer.get('norm', 'none'))
    model['state_space'] = StateSpaceConfig(recurrence, **mixer)
  for name, kind in _ENUMS.items():
    if name in model:
      model[name] = kind(model[name])
  for name in ('eos_ids', 'unrotated_blocks', 'windowed_blocks'):
    if model.get(name) is not None:
      model[name] = tuple(model[name])
  return ModelConfig(**model)


def exit_from_json(values: dict[str, Any]) -> ExitConfig:
  """Rebuild one exit that `to_json` wrote."""
  return ExitConfig(
    depth=values['depth'],
    head=ExitHeadKind(values['head']),
    output=OutputMatrix(values['output']),
    rank=values['rank'],
    gate=GateKind(values['gate']),
  )


def dumps(config: EarlyExitConfig) -> str:
  """Return `config` as indented JSON text."""
  return json.dumps(to_json(config), indent=2)
