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
"""Qwen3-MoE: Qwen3 with experts."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.models.families import experts, qwen
from eejax.models.families.family import Family, Fields, refuse
from eejax.models.families.names import like_llama


def _read(values: Mapping[str, Any]) -> Fields:
  bias = bool(values.get('attention_bias', False))
  has_window = bool(values.get('use_sliding_window'))
  return {
    'qk_norm': True,
    'qkv_bias': bias,
    'output_bias': bias,
    'sliding_window': values['sliding_window'] if has_window else None,
    **experts.read_qwen_experts(values, num_experts=128),
  }


def _write(config: ModelConfig) -> Fields:
  held = experts.experts_of(config)
  refuse(
    'qwen3_moe',
    no_query_and_key_norms=not config.qk_norm,
    biases_on_only_some_attention_projections=(
      config.qkv_bias != config.output_bias
    ),
    a_shared_expert=held.shared_dim is not None,
  )
  return {
    'attention_bias': config.qkv_bias,
    'head_dim': config.head_dim,
    'sliding_window': config.sliding_window,
    'use_sliding_window': config.sliding_window is not None,
    **experts.write_qwen_experts(config, num_key='num_local_experts'),
  }


QWEN3_MOE = Family(
  model_type='qwen3_moe',
  architecture='Qwen3MoeForCausalLM',
  defaults={
    **qwen.DEFAULTS,
    'decoder_sparse_step': 1,
    'intermediate_size': 6144,
    'moe_intermediate_size': 768,
    'num_experts_per_tok': 8,
    'num_key_value_heads': 4,
  },
  own_keys=experts.QWEN_KEYS
  # transformers heeds no number of blocks with a window here.
  | {
    'attention_bias',
    'max_window_layers',
    'sliding_window',
    'use_sliding_window',
  },
  read=_read,
  write=_write,
  names=like_llama(experts.QWEN_NAMES),
)
