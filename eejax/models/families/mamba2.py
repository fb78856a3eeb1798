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
"""Mamba 2: Mamba with heads, groups and a norm behind its gate."""

import math
from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig, PositionKind
from eejax.config.state_space import GatedNorm, StateSpaceConfig, StateSpaceKind
from eejax.errors import CheckpointError
from eejax.models.families.family import Family, Fields
from eejax.models.families.mamba import (
  BLOCK_NAMES,
  MAX_LENGTH,
  OUTER_NAMES,
  OWN_KEYS,
  UNWRITTEN,
  check_activation,
  inner_dim,
  positive,
  without_attention,
  write_mixer,
)
from eejax.models.families.names import Names, Packed

# All of them are one tensor of the file.
STREAM_PARTS = tuple(
  f'mixer/{part}' for part in ('gate', 'inner', 'input', 'readout', 'step')
)

_NAMES = Names(
  outer=OUTER_NAMES,
  blocks='backbone.layers',
  block={
    **BLOCK_NAMES,
    'mixer/step_bias': 'mixer.dt_bias',
    'mixer/head_log_rates': 'mixer.A_log',
    'mixer/norm_scale': 'mixer.norm.weight',
  },
  packed=(Packed('mixer.in_proj', STREAM_PARTS),),
  prefix='backbone.',
)


def check_step_limit(values: Mapping[str, Any]) -> None:
  """Refuse a model whose steps are cut off somewhere.

  Raises:
    CheckpointError: they are.
  """
  limit = values.get('time_step_limit')
  # transformers writes infinity as an object, JSON having no number for it.
  forms = ([0.0, math.inf], [0.0, {'__float__': 'Infinity'}])
  if limit is not None and limit not in forms:
    raise CheckpointError(
      f'config.json: time_step_limit {limit!r} is not supported; steps must be '
      'without limits, [0.0, Infinity].'
    )


def _standard(values: Fields) -> Fields:
  values['mixer_heads'] = values.get('num_heads')
  values['mixer_head_dim'] = values.get('head_dim')
  return without_attention(values)


def _read(values: Mapping[str, Any]) -> Fields:
  check_activation(values)
  check_step_limit(values)
  width, heads = inner_dim(values), positive(values, 'mixer_heads')
  head_dim = positive(values, 'mixer_head_dim')
  if width != heads * head_dim:
    raise CheckpointError(
      f'config.json: hidden_size times expand ({width}) must be num_heads '
      f'times head_dim ({heads} * {head_dim}).'
    )
  return {
    'state_space': StateSpaceConfig(
      StateSpaceKind.MAMBA2,
      inner_dim=width,
      state_dim=positive(values, 'state_size'),
      convolution_width=positive(values, 'conv_kernel'),
      convolution_bias=bool(values['use_conv_bias']),
      projection_bias=bool(values['use_bias']),
      output_bias=bool(values['use_bias']),
      num_heads=heads,
      num_groups=positive(values, 'n_groups'),
      norm=GatedNorm.AFTER_GATE,
      chunk=positive(values, 'chunk_size'),
    )
  }


def _write(config: ModelConfig) -> Fields:
  mixer = config.state_space
  if mixer is None or not mixer.num_heads:
    return {}
  return {
    **write_mixer(config),
    'chunk_size': mixer.chunk,
    'head_dim': mixer.head_dim,
    'n_groups': mixer.num_groups,
    'num_heads': mixer.num_heads,
  }


MAMBA2 = Family(
  model_type='mamba2',
  architecture='Mamba2ForCausalLM',
  defaults={
    'chunk_size': 256,
    'conv_kernel': 4,
    'expand': 2,
    'head_dim': 64,
    'layer_norm_epsilon': 1e-5,
    'max_position_embeddings': MAX_LENGTH,
    'n_groups': 8,
    'num_heads': 128,
    'state_size': 128,
    'use_bias': False,
    'use_conv_bias': True,
  },
  own_keys=OWN_KEYS
  | {'chunk_size', 'n_groups', 'num_heads', 'time_step_limit'},
  read=_read,
  write=_write,
  names=_NAMES,
  renamed={'rms_norm_eps': 'layer_norm_epsilon'},
  fixed={'positions': PositionKind.NONE},
  standard=_standard,
  unwritten=UNWRITTEN,
)
