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
"""Mixtral: Mistral whose MLPs are experts of the same width."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.models.families import experts
from eejax.models.families.family import Family, Fields, refuse
from eejax.models.families.names import EXPERT, like_llama


def _read(values: Mapping[str, Any]) -> Fields:
  return {
    'sliding_window': values.get('sliding_window'),
    **experts.read_experts(
      values, width='intermediate_size', num_experts=8, renormalized=True
    ),
  }


def _write(config: ModelConfig) -> Fields:
  held = experts.experts_of(config)
  refuse(
    'mixtral',
    weights_that_do_not_add_up_to_one=not held.renormalized,
    a_shared_expert=held.shared_dim is not None,
    experts_of_another_width_than_mlp_dim=held.expert_dim != config.mlp_dim,
  )
  is_usual = config.head_dim * config.num_heads == config.embed_dim
  return {
    'head_dim': None if is_usual else config.head_dim,
    'router_jitter_noise': 0.0,
    'sliding_window': config.sliding_window,
    **experts.write_experts(config, num_key='num_local_experts'),
  }


MIXTRAL = Family(
  model_type='mixtral',
  architecture='MixtralForCausalLM',
  defaults={
    'max_position_embeddings': 131072,
    'num_experts_per_tok': 2,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-5,
    'rope_theta': 1_000_000.0,
  },
  own_keys=experts.KEYS | {'sliding_window'},
  read=_read,
  write=_write,
  names=like_llama(
    {
      'mlp/router': 'block_sparse_moe.gate',
      'mlp/experts/gate': f'block_sparse_moe.experts.{EXPERT}.w1',
      'mlp/experts/up': f'block_sparse_moe.experts.{EXPERT}.w3',
      'mlp/experts/down': f'block_sparse_moe.experts.{EXPERT}.w2',
    }
  ),
)
