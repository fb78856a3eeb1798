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
"""GPT-2: learned positions, LayerNorms, a plain MLP, biases everywhere."""

from collections.abc import Mapping
from typing import Any

from eejax.config import (
  Activation,
  MLPKind,
  ModelConfig,
  NormKind,
  PositionKind,
)
from eejax.models.families.family import Family, Fields
from eejax.models.families.names import Names, Packed

NAMES = Names(
  outer={
    'embedding/table': 'transformer.wte',
    'embedding/positions': 'transformer.wpe',
    'final_norm': 'transformer.ln_f',
    'head': 'lm_head',
  },
  blocks='transformer.h',
  block={
    'attention_norm': 'ln_1',
    'attention/output': 'attn.c_proj',
    'mlp_norm': 'ln_2',
    'mlp/up': 'mlp.c_fc',
    'mlp/down': 'mlp.c_proj',
  },
  packed=(
    Packed(
      'attn.c_attn', ('attention/query', 'attention/key', 'attention/value')
    ),
  ),
  conv1d=True,
  prefix='transformer.',
  ignored=('.attn.bias', '.attn.masked_bias'),
)


def _standard(values: Fields) -> Fields:
  width = values.get('hidden_size')
  if values.get('intermediate_size') is None and isinstance(width, int):
    values['intermediate_size'] = 4 * width
  return values


def _read(values: Mapping[str, Any]) -> Fields:
  scales = values.get('scale_attn_weights', True)
  return {} if scales else {'query_scale': 1.0}


def _write(config: ModelConfig) -> Fields:
  values: Fields = {'scale_attn_weights': config.query_scale is None}
  if config.activation is Activation.GELU_TANH:
    values['hidden_act'] = 'gelu_new'
  return values


GPT2 = Family(
  model_type='gpt2',
  architecture='GPT2LMHeadModel',
  defaults={
    'n_positions': 1024,
    'layer_norm_epsilon': 1e-5,
    'activation_function': 'gelu_new',
  },
  own_keys=frozenset({'n_ctx', 'scale_attn_weights'}),
  read=_read,
  write=_write,
  names=NAMES,
  renamed={
    'hidden_size': 'n_embd',
    'num_hidden_layers': 'n_layer',
    'num_attention_heads': 'n_head',
    'max_position_embeddings': 'n_positions',
    'intermediate_size': 'n_inner',
    'rms_norm_eps': 'layer_norm_epsilon',
    'hidden_act': 'activation_function',
  },
  fixed={
    'norm': NormKind.LAYER,
    'mlp': MLPKind.PLAIN,
    'positions': PositionKind.LEARNED,
    'qkv_bias': True,
    'output_bias': True,
    'mlp_bias': True,
  },
  standard=_standard,
  tied_head=True,
)
