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
"""OLMo2: norms after attention and MLP, queries and keys normalised whole."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig, NormPlacement, QKNormSpan
from eejax.models.families.family import Family, Fields
from eejax.models.families.names import like_llama


def _read(values: Mapping[str, Any]) -> Fields:
  bias = bool(values.get('attention_bias', False))
  return {'qkv_bias': bias, 'output_bias': bias}


def _write(config: ModelConfig) -> Fields:
  return {'attention_bias': config.qkv_bias}


OLMO2 = Family(
  model_type='olmo2',
  architecture='Olmo2ForCausalLM',
  defaults={'max_position_embeddings': 2048, 'rms_norm_eps': 1e-5},
  own_keys=frozenset({'attention_bias'}),
  read=_read,
  write=_write,
  names=like_llama(
    attention_post_norm='post_attention_layernorm',
    mlp_post_norm='post_feedforward_layernorm',
  ),
  fixed={
    'norm_placement': NormPlacement.AFTER,
    'qk_norm': True,
    'qk_norm_span': QKNormSpan.ALL_HEADS,
  },
)
