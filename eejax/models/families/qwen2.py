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
"""Qwen2 and Qwen2.5: biases on query, key and value, and on nothing else."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.models.families import qwen
from eejax.models.families.family import Family, Fields, refuse


def _read(values: Mapping[str, Any]) -> Fields:
  return {'qkv_bias': True, **qwen.read_windows(values)}


def _write(config: ModelConfig) -> Fields:
  refuse(
    'qwen2',
    query_and_key_norms=config.qk_norm,
    no_query_key_and_value_biases=not config.qkv_bias,
    output_or_MLP_biases=config.output_bias or config.mlp_bias,
  )
  values = qwen.write_windows(config)
  # Theirs has no such key of its own, but heeds one that is there.
  if config.head_dim * config.num_heads != config.embed_dim:
    values['head_dim'] = config.head_dim
  return values


QWEN2 = Family(
  model_type='qwen2',
  architecture='Qwen2ForCausalLM',
  defaults=qwen.DEFAULTS,
  own_keys=qwen.KEYS,
  read=_read,
  write=_write,
)
