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
"""Phi-3: Llama with packed projections, and part of a head rotated."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig, RotaryScaling
from eejax.models.families.family import Family, Fields
from eejax.models.families.names import Packed, like_llama


def _read(values: Mapping[str, Any]) -> Fields:
  return {'sliding_window': values.get('sliding_window')}


def _write(config: ModelConfig) -> Fields:
  values: Fields = {'sliding_window': config.sliding_window}
  # transformers reads it here, and takes 4096 where it is only with the rule.
  if config.rotary.scaling is RotaryScaling.LONGROPE:
    length = config.rotary.original_max_length
    values['original_max_position_embeddings'] = length
  return values


PHI3 = Family(
  model_type='phi3',
  architecture='Phi3ForCausalLM',
  defaults={'max_position_embeddings': 4096, 'rms_norm_eps': 1e-5},
  own_keys=frozenset({'sliding_window', 'partial_rotary_factor'}),
  read=_read,
  write=_write,
  names=like_llama(
    packed=(
      Packed(
        'self_attn.qkv_proj',
        ('attention/query', 'attention/key', 'attention/value'),
      ),
      Packed('mlp.gate_up_proj', ('mlp/gate', 'mlp/up')),
    )
  ),
  rotary_fraction=1.0,
)
