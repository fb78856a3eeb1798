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
"""SmolLM3: Llama in which some blocks are told no positions."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.errors import CheckpointError
from eejax.models.families.family import Family, Fields

_INTERVAL = 4


def _read(values: Mapping[str, Any]) -> Fields:
  bias = bool(values.get('attention_bias', False))
  if values.get('use_sliding_window'):
    raise CheckpointError(
      'config.json: use_sliding_window is not supported for smollm3.'
    )
  return {
    'qkv_bias': bias,
    'output_bias': bias,
    'mlp_bias': bool(values.get('mlp_bias', False)),
    'unrotated_blocks': _unrotated(values),
  }


def _unrotated(values: Mapping[str, Any]) -> tuple[int, ...]:
  blocks = values['num_hidden_layers']
  rotated = values.get('no_rope_layers')
  if rotated is None:
    interval = values.get('no_rope_layer_interval', _INTERVAL)
    return tuple(range(interval - 1, blocks, interval))
  if len(rotated) != blocks:
    raise CheckpointError(
      f'config.json: no_rope_layers has {len(rotated)} entries for {blocks} '
      'blocks.'
    )
  return tuple(i for i, rotates in enumerate(rotated) if not rotates)


def _write(config: ModelConfig) -> Fields:
  without = config.unrotated_blocks
  return {
    'attention_bias': config.qkv_bias,
    'mlp_bias': config.mlp_bias,
    'head_dim': config.head_dim,
    'no_rope_layers': [int(i not in without) for i in range(config.num_layers)],
    'no_rope_layer_interval': _INTERVAL,
    'use_sliding_window': False,
    'layer_types': ['full_attention'] * config.num_layers,
  }


SMOLLM3 = Family(
  model_type='smollm3',
  architecture='SmolLM3ForCausalLM',
  defaults={
    'max_position_embeddings': 32768,
    'num_key_value_heads': 4,
    'rms_norm_eps': 1e-6,
    'rope_theta': 2_000_000.0,
  },
  own_keys=frozenset(
    {
      'attention_bias',
      'mlp_bias',
      'no_rope_layers',
      'no_rope_layer_interval',
      'use_sliding_window',
      'sliding_window',
      'max_window_layers',
      'layer_types',
    }
  ),
  read=_read,
  write=_write,
  tied_head=True,
)
