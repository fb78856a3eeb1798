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
"""Mistral: Llama's shape with a sliding window in every block."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.models.families.family import Family, Fields, refuse


def _read(values: Mapping[str, Any]) -> Fields:
  return {'sliding_window': values.get('sliding_window')}


def _write(config: ModelConfig) -> Fields:
  refuse(
    'mistral',
    query_and_key_norms=config.qk_norm,
    biases=config.qkv_bias or config.output_bias or config.mlp_bias,
    blocks_without_the_window=(
      config.sliding_window is not None and config.full_attention_blocks > 0
    ),
  )
  return {
    'head_dim': config.head_dim,
    'sliding_window': config.sliding_window,
  }


MISTRAL = Family(
  model_type='mistral',
  architecture='MistralForCausalLM',
  defaults={
    'max_position_embeddings': 131072,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-6,
    'sliding_window': 4096,
  },
  own_keys=frozenset({'sliding_window'}),
  read=_read,
  write=_write,
)
