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
"""GPT-NeoX and Pythia: parallel residuals, part of a head rotated."""

from collections.abc import Mapping
from typing import Any

from eejax.config import MLPKind, ModelConfig, NormKind, Residual
from eejax.models.families.family import Family, Fields
from eejax.models.families.names import Names, Packed

NAMES = Names(
  outer={
    'embedding/table': 'gpt_neox.embed_in',
    'final_norm': 'gpt_neox.final_layer_norm',
    'head': 'embed_out',
  },
  blocks='gpt_neox.layers',
  block={
    'attention_norm': 'input_layernorm',
    'attention/output': 'attention.dense',
    'mlp_norm': 'post_attention_layernorm',
    'mlp/up': 'mlp.dense_h_to_4h',
    'mlp/down': 'mlp.dense_4h_to_h',
  },
  packed=(
    Packed(
      'attention.query_key_value',
      ('attention/query', 'attention/key', 'attention/value'),
      per_head=True,
    ),
  ),
  ignored=(
    '.rotary_emb.inv_freq',
    '.attention.bias',
    '.attention.masked_bias',
  ),
)


def _standard(values: Fields) -> Fields:
  if 'rotary_emb_base' in values:
    values.setdefault('rope_theta', values['rotary_emb_base'])
  return values


def _read(values: Mapping[str, Any]) -> Fields:
  bias = bool(values.get('attention_bias', True))
  parallel = values.get('use_parallel_residual', True)
  return {
    'qkv_bias': bias,
    'output_bias': bias,
    'residual': Residual.PARALLEL if parallel else Residual.SEQUENTIAL,
  }


def _write(config: ModelConfig) -> Fields:
  return {
    'attention_bias': config.qkv_bias,
    'use_parallel_residual': config.residual is Residual.PARALLEL,
  }


GPT_NEOX = Family(
  model_type='gpt_neox',
  architecture='GPTNeoXForCausalLM',
  defaults={
    'max_position_embeddings': 2048,
    'layer_norm_eps': 1e-5,
    'hidden_act': 'gelu',
  },
  own_keys=frozenset(
    {
      'attention_bias',
      'use_parallel_residual',
      'rotary_pct',
      'rotary_emb_base',
      'partial_rotary_factor',
    }
  ),
  read=_read,
  write=_write,
  names=NAMES,
  renamed={'rms_norm_eps': 'layer_norm_eps'},
  fixed={'norm': NormKind.LAYER, 'mlp': MLPKind.PLAIN, 'mlp_bias': True},
  rotary_fraction=0.25,
  standard=_standard,
)
