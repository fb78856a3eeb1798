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
"""Falcon-H1: attention and a Mamba 2 mixer side by side, then an MLP."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.config.block_scales import BlockScales
from eejax.config.state_space import GatedNorm, StateSpaceConfig, StateSpaceKind
from eejax.errors import CheckpointError
from eejax.models.families.family import Family, Fields
from eejax.models.families.mamba import check_activation, positive
from eejax.models.families.mamba2 import STREAM_PARTS, check_step_limit
from eejax.models.families.names import Names, Packed

_NAMES = Names(
  outer={
    'embedding/table': 'model.embed_tokens',
    'final_norm': 'model.final_layernorm',
    'head': 'lm_head',
  },
  blocks='model.layers',
  block={
    'attention_norm': 'input_layernorm',
    'attention/query': 'self_attn.q_proj',
    'attention/key': 'self_attn.k_proj',
    'attention/value': 'self_attn.v_proj',
    'attention/output': 'self_attn.o_proj',
    'mixer/convolution': 'mamba.conv1d',
    'mixer/skip': 'mamba.D',
    'mixer/output': 'mamba.out_proj',
    'mixer/step_bias': 'mamba.dt_bias',
    'mixer/head_log_rates': 'mamba.A_log',
    'mixer/norm_scale': 'mamba.norm.weight',
    'mlp_norm': 'pre_ff_layernorm',
    'mlp/gate': 'feed_forward.gate_proj',
    'mlp/up': 'feed_forward.up_proj',
    'mlp/down': 'feed_forward.down_proj',
  },
  packed=(Packed('mamba.in_proj', STREAM_PARTS),),
)


def _read(values: Mapping[str, Any]) -> Fields:
  check_activation(values)
  check_step_limit(values)
  biased = bool(values['attention_bias'])
  width = values['mamba_d_ssm']
  if width is None:
    width = positive(values, 'mamba_expand') * positive(values, 'hidden_size')
  heads = positive(values, 'mamba_n_heads')
  head_dim = values['mamba_d_head']
  if head_dim != 'auto' and head_dim * heads != width:
    raise CheckpointError(
      f'config.json: mamba_n_heads times mamba_d_head ({heads} * {head_dim}) '
      f'must be mamba_d_ssm ({width}).'
    )
  norm = GatedNorm.NONE
  if values['mamba_rms_norm']:
    before = values['mamba_norm_before_gate']
    norm = GatedNorm.BEFORE_GATE if before else GatedNorm.AFTER_GATE
  head = (
    values.get('head_dim')
    or values['hidden_size'] // values['num_attention_heads']
  )
  return {
    'qkv_bias': biased,
    'output_bias': biased,
    'mlp_bias': bool(values['mlp_bias']),
    'embedding_scale': float(values['embedding_multiplier']),
    'logit_scale': float(values['lm_head_multiplier']),
    # A factor on keys is one on their products with queries.
    'query_scale': float(values['key_multiplier']) * head**-0.5,
    'scales': _read_scales(values),
    'state_space': StateSpaceConfig(
      StateSpaceKind.MAMBA2,
      inner_dim=positive({'mamba_d_ssm': width}, 'mamba_d_ssm'),
      state_dim=positive(values, 'mamba_d_state'),
      convolution_width=positive(values, 'mamba_d_conv'),
      convolution_bias=bool(values['mamba_conv_bias']),
      projection_bias=bool(values['mamba_proj_bias']),
      output_bias=bool(values['projectors_bias']),
      num_heads=heads,
      num_groups=positive(values, 'mamba_n_groups'),
      norm=norm,
      chunk=positive(values, 'mamba_chunk_size'),
    ),
  }


def _read_scales(values: Mapping[str, Any]) -> BlockScales:
  mlp = values.get('mlp_multipliers') or (1.0, 1.0)
  if len(mlp) != 2:
    raise CheckpointError(
      f'config.json: mlp_multipliers must be two numbers, not {mlp!r}.'
    )
  parts = values.get('ssm_multipliers') or (1.0,) * 5
  return BlockScales(
    attention_input=float(values['attention_in_multiplier']),
    attention_output=float(values['attention_out_multiplier']),
    mixer_input=float(values['ssm_in_multiplier']),
    mixer_parts=tuple(map(float, parts)),
    mixer_output=float(values['ssm_out_multiplier']),
    mlp_gate=float(mlp[0]),
    mlp_output=float(mlp[1]),
  )


def _write(config: ModelConfig) -> Fields:
  mixer, scales = config.state_space, config.scales or BlockScales()
  if mixer is None:
    return {}
  query_scale = config.query_scale or config.head_dim**-0.5
  return {
    'attention_bias': config.qkv_bias,
    'attention_in_multiplier': scales.attention_input,
    'attention_out_multiplier': scales.attention_output,
    'embedding_multiplier': config.embedding_scale,
    'head_dim': config.head_dim,
    'key_multiplier': float(f'{query_scale * config.head_dim**0.5:.12g}'),
    'lm_head_multiplier': config.logit_scale,
    'mamba_chunk_size': mixer.chunk,
    'mamba_conv_bias': mixer.convolution_bias,
    'mamba_d_conv': mixer.convolution_width,
    'mamba_d_head': mixer.head_dim if mixer.num_heads else 'auto',
    'mamba_d_ssm': mixer.inner_dim,
    'mamba_d_state': mixer.state_dim,
    'mamba_n_groups': mixer.num_groups,
    'mamba_n_heads': mixer.num_heads,
    'mamba_norm_before_gate': mixer.norm is not GatedNorm.AFTER_GATE,
    'mamba_proj_bias': mixer.projection_bias,
    'mamba_rms_norm': mixer.norm is not GatedNorm.NONE,
    'mlp_bias': config.mlp_bias,
    'mlp_multipliers': [scales.mlp_gate, scales.mlp_output],
    'projectors_bias': mixer.output_bias,
    'ssm_in_multiplier': scales.mixer_input,
    'ssm_multipliers': list(scales.mixer_parts or (1.0,) * 5),
    'ssm_out_multiplier': scales.mixer_output,
  }


_DEFAULTS: dict[str, Any] = {
  'attention_bias': False,
  'attention_in_multiplier': 1.0,
  'attention_out_multiplier': 1.0,
  'embedding_multiplier': 1.0,
  'key_multiplier': 1.0,
  'lm_head_multiplier': 1.0,
  'mamba_chunk_size': 256,
  'mamba_conv_bias': True,
  'mamba_d_conv': 4,
  'mamba_d_head': 'auto',
  'mamba_d_ssm': 1024,
  'mamba_d_state': 256,
  'mamba_expand': 2,
  'mamba_n_groups': 1,
  'mamba_n_heads': 128,
  'mamba_norm_before_gate': True,
  'mamba_proj_bias': False,
  'mamba_rms_norm': False,
  'mlp_bias': False,
  'projectors_bias': False,
  'ssm_in_multiplier': 1.0,
  'ssm_out_multiplier': 1.0,
}

FALCON_H1 = Family(
  model_type='falcon_h1',
  architecture='FalconH1ForCausalLM',
  defaults={
    **_DEFAULTS,
    'max_position_embeddings': 8192,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-5,
  },
  own_keys=frozenset(_DEFAULTS)
  | {
    'mlp_multipliers',
    'num_logits_to_keep',
    'ssm_multipliers',
    'time_step_limit',
  },
  read=_read,
  write=_write,
  names=_NAMES,
)
