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
"""Mamba: state-space mixers alone, with neither attention nor MLPs."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig, PositionKind
from eejax.config.state_space import StateSpaceConfig, StateSpaceKind
from eejax.errors import CheckpointError
from eejax.models.families.family import Family, Fields
from eejax.models.families.names import Names, Packed

# The files name no longest context, and nothing in a model bounds it.
MAX_LENGTH = 32_768

# Sizes of parts that blocks do not have, and what those parts would need.
UNWRITTEN = frozenset(
  {
    'attention_dropout',
    'intermediate_size',
    'num_attention_heads',
    'num_key_value_heads',
  }
)

OWN_KEYS = frozenset(
  {
    'conv_kernel',
    'expand',
    'intermediate_size',
    'state_size',
    'use_bias',
    'use_conv_bias',
    # How steps of a fresh model are drawn, and which program runs it.
    'rescale_prenorm_residual',
    'residual_in_fp32',
    'time_step_floor',
    'time_step_max',
    'time_step_min',
    'time_step_rank',
  }
)

OUTER_NAMES = {
  'embedding/table': 'backbone.embeddings',
  'final_norm': 'backbone.norm_f',
  'head': 'lm_head',
}

BLOCK_NAMES = {
  'mixer_norm': 'norm',
  'mixer/convolution': 'mixer.conv1d',
  'mixer/skip': 'mixer.D',
  'mixer/output': 'mixer.out_proj',
}

_NAMES = Names(
  outer=OUTER_NAMES,
  blocks='backbone.layers',
  block={
    **BLOCK_NAMES,
    'mixer/selection': 'mixer.x_proj',
    'mixer/step': 'mixer.dt_proj',
    'mixer/step_bias': 'mixer.dt_proj.bias',
    'mixer/log_rates': 'mixer.A_log',
  },
  packed=(Packed('mixer.in_proj', ('mixer/inner', 'mixer/gate')),),
  prefix='backbone.',
)


def without_attention(values: Fields) -> Fields:
  """Return values that say there is neither attention nor an MLP."""
  none = ('num_attention_heads', 'num_key_value_heads', 'head_dim')
  return {**values, **dict.fromkeys(none, 0), 'intermediate_size': 0}


def positive(values: Mapping[str, Any], key: str) -> int:
  """Return a whole number above 0.

  Raises:
    CheckpointError: it is none.
  """
  value = values.get(key)
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise CheckpointError(
      f'config.json: {key!r} must be a whole number above 0, not {value!r}.'
    )
  return value


def inner_dim(values: Mapping[str, Any]) -> int:
  """Return how many channels the recurrence runs over."""
  expand = values.get('expand')
  if isinstance(expand, bool) or not isinstance(expand, int | float):
    raise CheckpointError(
      f'config.json: expand must be a number, not {expand!r}.'
    )
  return int(expand * positive(values, 'hidden_size'))


def check_activation(values: Mapping[str, Any]) -> None:
  """Refuse a mixer with another activation than the published ones have.

  Raises:
    CheckpointError: it has another one.
  """
  if values.get('hidden_act', 'silu') not in ('silu', 'swish'):
    raise CheckpointError(
      f'config.json: hidden_act {values["hidden_act"]!r} of a state-space '
      'mixer is not supported; it must be silu.'
    )


def _standard(values: Fields) -> Fields:
  stated, width = values.get('intermediate_size'), inner_dim(values)
  if stated is not None and stated != width:
    raise CheckpointError(
      f'config.json: intermediate_size is {stated}, and hidden_size times '
      f'expand is {width}; they must be equal.'
    )
  return without_attention(values)


def _read(values: Mapping[str, Any]) -> Fields:
  check_activation(values)
  rank = values.get('time_step_rank', 'auto')
  if rank == 'auto':
    rank = -(-positive(values, 'hidden_size') // 16)
  return {
    'state_space': StateSpaceConfig(
      StateSpaceKind.MAMBA,
      inner_dim=inner_dim(values),
      state_dim=positive(values, 'state_size'),
      convolution_width=positive(values, 'conv_kernel'),
      convolution_bias=bool(values['use_conv_bias']),
      projection_bias=bool(values['use_bias']),
      output_bias=bool(values['use_bias']),
      step_rank=positive({'time_step_rank': rank}, 'time_step_rank'),
    )
  }


def write_mixer(config: ModelConfig) -> Fields:
  """Return what the files of Mamba and Mamba 2 say alike of a mixer."""
  mixer = config.state_space
  if mixer is None:
    return {}
  expand = mixer.inner_dim / config.embed_dim
  return {
    'conv_kernel': mixer.convolution_width,
    'initializer_range': 0.1,
    'expand': int(expand) if expand == int(expand) else expand,
    'state_size': mixer.state_dim,
    'use_bias': mixer.projection_bias,
    'use_conv_bias': mixer.convolution_bias,
  }


def _write(config: ModelConfig) -> Fields:
  mixer = config.state_space
  return {
    **write_mixer(config),
    **({} if mixer is None else {'time_step_rank': mixer.step_rank}),
  }


MAMBA = Family(
  model_type='mamba',
  architecture='MambaForCausalLM',
  defaults={
    'conv_kernel': 4,
    'expand': 2,
    'layer_norm_epsilon': 1e-5,
    'max_position_embeddings': MAX_LENGTH,
    'state_size': 16,
    'use_bias': False,
    'use_conv_bias': True,
  },
  own_keys=OWN_KEYS
  | {
    # Names of the same in the paper's code, which transformers passes over.
    'd_inner',
    'd_model',
    'fused_add_norm',
    'n_layer',
    'pad_vocab_size_multiple',
    'rms_norm',
    'ssm_cfg',
    'time_step_init_scheme',
    'time_step_scale',
    'use_associative_scan',
    'use_mambapy',
  },
  read=_read,
  write=_write,
  names=_NAMES,
  renamed={
    'rms_norm_eps': 'layer_norm_epsilon',
  },
  fixed={'positions': PositionKind.NONE},
  standard=_standard,
  tied_head=True,
  unwritten=UNWRITTEN,
)
