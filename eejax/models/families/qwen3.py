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
"""Qwen3 (dense): RMS norms on the heads of queries and keys."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.models.families import qwen
from eejax.models.families.family import Family, Fields, refuse


def _read(values: Mapping[str, Any]) -> Fields:
  bias = bool(values.get('attention_bias', False))
  return {
    'qk_norm': True,
    'qkv_bias': bias,
    'output_bias': bias,
    **qwen.read_windows(values),
  }


def _write(config: ModelConfig) -> Fields:
  refuse(
    'qwen3',
    no_query_and_key_norms=not config.qk_norm,
    biases_on_only_some_attention_projections=(
      config.qkv_bias != config.output_bias
    ),
    MLP_biases=config.mlp_bias,
  )
  return {
    'attention_bias': config.qkv_bias,
    'head_dim': config.head_dim,
    **qwen.write_windows(config),
  }


QWEN3 = Family(
  model_type='qwen3',
  architecture='Qwen3ForCausalLM',
  defaults={**qwen.DEFAULTS, 'head_dim': 128},
  own_keys=qwen.KEYS | {'attention_bias'},
  read=_read,
  write=_write,
)
