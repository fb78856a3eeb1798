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
"""Llama 1, 2 and 3, and the many models that share their shape."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.models.families.family import Family, Fields, refuse


def _read(values: Mapping[str, Any]) -> Fields:
  bias = bool(values.get('attention_bias', False))
  return {
    'qkv_bias': bias,
    'output_bias': bias,
    'mlp_bias': bool(values.get('mlp_bias', False)),
  }


def _write(config: ModelConfig) -> Fields:
  refuse(
    'llama',
    query_and_key_norms=config.qk_norm,
    a_sliding_window=config.sliding_window is not None,
    biases_on_only_some_attention_projections=(
      config.qkv_bias != config.output_bias
    ),
  )
  return {
    'attention_bias': config.qkv_bias,
    'head_dim': config.head_dim,
    'mlp_bias': config.mlp_bias,
    'pretraining_tp': 1,
  }


LLAMA = Family(
  model_type='llama',
  architecture='LlamaForCausalLM',
  defaults={'max_position_embeddings': 2048, 'rms_norm_eps': 1e-6},
  own_keys=frozenset({'attention_bias', 'mlp_bias'}),
  read=_read,
  write=_write,
)
