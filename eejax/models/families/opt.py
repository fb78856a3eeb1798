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
"""OPT: GPT-2 with separate projections, positions from row 2 on, ReLU."""

from collections.abc import Mapping
from typing import Any

from eejax.config import MLPKind, ModelConfig, NormKind, PositionKind
from eejax.errors import CheckpointError
from eejax.models.families.family import Family, Fields
from eejax.models.families.names import Names

NAMES = Names(
  outer={
    'embedding/table': 'model.decoder.embed_tokens',
    'embedding/positions': 'model.decoder.embed_positions',
    'final_norm': 'model.decoder.final_layer_norm',
    'head': 'lm_head',
  },
  blocks='model.decoder.layers',
  block={
    'attention_norm': 'self_attn_layer_norm',
    'attention/query': 'self_attn.q_proj',
    'attention/key': 'self_attn.k_proj',
    'attention/value': 'self_attn.v_proj',
    'attention/output': 'self_attn.out_proj',
    'mlp_norm': 'final_layer_norm',
    'mlp/up': 'fc1',
    'mlp/down': 'fc2',
  },
  prefix='model.',
)
# Keys and the only value with which they are supported.
_ONLY = {
  'do_layer_norm_before': True,
  '_remove_final_layer_norm': False,
  'enable_bias': True,
  'layer_norm_elementwise_affine': True,
}


def _read(values: Mapping[str, Any]) -> Fields:
  for key, value in _ONLY.items():
    if values.get(key, value) != value:
      raise CheckpointError(
        f'config.json: {key} {values[key]!r} is not supported; only {value} is.'
      )
  width = values['hidden_size']
  if values.get('word_embed_proj_dim', width) != width:
    raise CheckpointError(
      'config.json: word_embed_proj_dim other than hidden_size is not '
      'supported.'
    )
  return {}


def _write(config: ModelConfig) -> Fields:
  return {**_ONLY, 'word_embed_proj_dim': config.embed_dim}


OPT = Family(
  model_type='opt',
  architecture='OPTForCausalLM',
  defaults={
    'max_position_embeddings': 2048,
    'rms_norm_eps': 1e-5,
    'activation_function': 'relu',
  },
  own_keys=frozenset({*_ONLY, 'word_embed_proj_dim'}),
  read=_read,
  write=_write,
  names=NAMES,
  renamed={
    'intermediate_size': 'ffn_dim',
    'hidden_act': 'activation_function',
  },
  fixed={
    'norm': NormKind.LAYER,
    'mlp': MLPKind.PLAIN,
    'positions': PositionKind.LEARNED,
    'position_offset': 2,
    'qkv_bias': True,
    'output_bias': True,
    'mlp_bias': True,
  },
  tied_head=True,
)
