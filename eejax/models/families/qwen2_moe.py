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
"""Qwen2-MoE: Qwen2 with experts, and one expert that all tokens share."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.errors import CheckpointError
from eejax.models.families import experts, qwen
from eejax.models.families.family import Family, Fields, integer, refuse
from eejax.models.families.names import like_llama

_SHARED = 'shared_expert_intermediate_size'
_FULL, _SLIDING = 'full_attention', 'sliding_attention'


def _read(values: Mapping[str, Any]) -> Fields:
  return {
    'qkv_bias': bool(values.get('qkv_bias')),
    **_read_windows(values),
    **experts.read_qwen_experts(values, num_experts=60, shared=_SHARED),
  }


def _read_windows(values: Mapping[str, Any]) -> Fields:
  """Return which blocks have a window: every second one below a limit."""
  blocks, uses = values['num_hidden_layers'], values.get('use_sliding_window')
  types = values.get('layer_types')
  if types is None:
    limit = integer(values, 'max_window_layers') if uses else 0
    windowed = tuple(range(0, min(blocks, limit), 2))
  else:
    kinds = list(types)
    if len(kinds) != blocks or not set(kinds) <= {_FULL, _SLIDING}:
      raise CheckpointError(
        f'config.json: layer_types must say {_FULL} or {_SLIDING} for each of '
        f'{blocks} blocks.'
      )
    windowed = tuple(i for i, kind in enumerate(types) if kind == _SLIDING)
  if not windowed:
    return {}
  if not uses or values.get('sliding_window') is None:
    raise CheckpointError(
      'config.json: layer_types has sliding_attention but use_sliding_window '
      'is off or sliding_window is missing.'
    )
  return {
    'sliding_window': values['sliding_window'],
    'windowed_blocks': windowed,
  }


def _write(config: ModelConfig) -> Fields:
  held = experts.experts_of(config)
  refuse(
    'qwen2_moe',
    query_and_key_norms=config.qk_norm,
    output_biases=config.output_bias,
    no_shared_expert=held.shared_dim is None,
  )
  window = config.sliding_window
  blocks = range(config.num_layers)
  types = [_SLIDING if config.window_of(i) else _FULL for i in blocks]
  values = {
    'layer_types': types,
    'qkv_bias': config.qkv_bias,
    'sliding_window': window or 0,
    'use_sliding_window': window is not None,
    _SHARED: held.shared_dim,
    **experts.write_qwen_experts(config, num_key='num_experts'),
  }
  # Theirs has no such key of its own, but heeds one that is there.
  if config.head_dim * config.num_heads != config.embed_dim:
    values['head_dim'] = config.head_dim
  return values


QWEN2_MOE = Family(
  model_type='qwen2_moe',
  architecture='Qwen2MoeForCausalLM',
  defaults={
    **qwen.DEFAULTS,
    'decoder_sparse_step': 1,
    'intermediate_size': 5632,
    'moe_intermediate_size': 1408,
    'num_experts_per_tok': 4,
    'num_key_value_heads': 16,
    'qkv_bias': True,
    _SHARED: 5632,
  },
  own_keys=qwen.KEYS | experts.QWEN_KEYS | {'qkv_bias', _SHARED},
  read=_read,
  write=_write,
  names=like_llama(
    {
      **experts.QWEN_NAMES,
      'mlp/shared/gate': 'mlp.shared_expert.gate_proj',
      'mlp/shared/up': 'mlp.shared_expert.up_proj',
      'mlp/shared/down': 'mlp.shared_expert.down_proj',
      'mlp/shared_gate': 'mlp.shared_expert_gate',
    },
  ),
)
