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
"""What Gemma 2 and 3 share: norms around, alternating windows, scales."""

import math
from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig, NormPlacement
from eejax.errors import CheckpointError
from eejax.models.families.family import Fields
from eejax.models.families.names import like_llama

KEYS = frozenset(
  {
    'attention_bias',
    'attn_logit_softcapping',
    'final_logit_softcapping',
    # Early files have both activations, and mean the other one.
    'hidden_act',
    'layer_types',
    'query_pre_attn_scalar',
    'sliding_window',
    'use_bidirectional_attention',
  }
)
DEFAULTS = {
  'rms_norm_eps': 1e-6,
  'num_key_value_heads': 4,
  'head_dim': 256,
  'query_pre_attn_scalar': 256,
  'sliding_window': 4096,
  'hidden_activation': 'gelu_pytorch_tanh',
}
FIXED = {
  'norm_gain_offset': 1.0,
  'norm_placement': NormPlacement.AROUND,
}
NAMES = like_llama(
  attention_post_norm='post_attention_layernorm',
  mlp_norm='pre_feedforward_layernorm',
  mlp_post_norm='post_feedforward_layernorm',
)
RENAMED = {'hidden_act': 'hidden_activation'}
FULL, SLIDING = 'full_attention', 'sliding_attention'


def read(values: Mapping[str, Any], *, every: int) -> Fields:
  """Return the fields that both read alike.

  Args:
    values: of the file.
    every: which block sees everything, in turn, where the file does not say.

  Raises:
    CheckpointError: a value is not supported.
  """
  if values.get('use_bidirectional_attention'):
    raise CheckpointError(
      'config.json: use_bidirectional_attention is not supported.'
    )
  bias = bool(values.get('attention_bias', False))
  scalar = float(values['query_pre_attn_scalar'])
  if scalar <= 0:
    raise CheckpointError(
      f'config.json: query_pre_attn_scalar must be above 0, not {scalar}.'
    )
  return {
    'qkv_bias': bias,
    'output_bias': bias,
    'embedding_scale': math.sqrt(values['hidden_size']),
    'query_scale': scalar**-0.5,
    'attention_softcap': values.get('attn_logit_softcapping'),
    'logit_softcap': values.get('final_logit_softcapping'),
    'sliding_window': values['sliding_window'],
    'windowed_blocks': _windowed(values, every),
  }


def write(config: ModelConfig) -> Fields:
  """Return the keys that `read` reads."""
  windowed = config.windowed_blocks or ()
  scale = config.query_scale or config.head_dim**-0.5
  return {
    'attention_bias': config.qkv_bias,
    'attn_logit_softcapping': config.attention_softcap,
    'final_logit_softcapping': config.logit_softcap,
    'head_dim': config.head_dim,
    'layer_types': [
      SLIDING if i in windowed else FULL for i in range(config.num_layers)
    ],
    'query_pre_attn_scalar': _whole(scale**-2),
    'sliding_window': config.sliding_window,
  }


def _windowed(values: Mapping[str, Any], every: int) -> tuple[int, ...]:
  blocks, types = values['num_hidden_layers'], values.get('layer_types')
  if types is None:
    return tuple(i for i in range(blocks) if (i + 1) % every)
  if len(types) != blocks or set(types) - {FULL, SLIDING}:
    raise CheckpointError(
      f'config.json: layer_types must name {blocks} blocks, each '
      f'{FULL} or {SLIDING}.'
    )
  return tuple(i for i, kind in enumerate(types) if kind == SLIDING)


def _whole(value: float) -> float | int:
  nearest = round(value)
  return nearest if math.isclose(value, nearest, rel_tol=1e-12) else value
