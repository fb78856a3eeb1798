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
"""Granite: Llama with four factors, on embeddings, scores, sums and logits."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.errors import CheckpointError
from eejax.models.families.family import Family, Fields


def _read(values: Mapping[str, Any]) -> Fields:
  bias = bool(values.get('attention_bias', False))
  divisor = float(values.get('logits_scaling', 1.0))
  if divisor <= 0:
    raise CheckpointError(
      f'config.json: logits_scaling must be above 0, not {divisor}.'
    )
  return {
    'qkv_bias': bias,
    'output_bias': bias,
    'mlp_bias': bool(values.get('mlp_bias', False)),
    'embedding_scale': float(values.get('embedding_multiplier', 1.0)),
    'query_scale': float(values.get('attention_multiplier', 1.0)),
    'residual_scale': float(values.get('residual_multiplier', 1.0)),
    'logit_scale': 1 / divisor,
  }


def _write(config: ModelConfig) -> Fields:
  return {
    'attention_bias': config.qkv_bias,
    'mlp_bias': config.mlp_bias,
    'head_dim': config.head_dim,
    'embedding_multiplier': config.embedding_scale,
    'attention_multiplier': config.query_scale,
    'residual_multiplier': config.residual_scale,
    'logits_scaling': 1 / config.logit_scale,
  }


GRANITE = Family(
  model_type='granite',
  architecture='GraniteForCausalLM',
  defaults={'max_position_embeddings': 2048, 'rms_norm_eps': 1e-6},
  own_keys=frozenset(
    {
      'attention_bias',
      'mlp_bias',
      'embedding_multiplier',
      'attention_multiplier',
      'residual_multiplier',
      'logits_scaling',
    }
  ),
  read=_read,
  write=_write,
)
