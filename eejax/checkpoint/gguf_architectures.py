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
"""What the architectures of GGUF files are called in Hugging Face's folders.

A GGUF file is read as the folder that it was converted from would be: its
metadata become a `config.json`, its tensors get their old names and layout,
and the rest is done by `eejax.models.families`. So an architecture is one
entry of the table below.

Reference: llama.cpp's convert_hf_to_gguf.py, gguf's tensor_mapping.py.
"""

import functools
from collections.abc import Mapping
from typing import Any

from eejax.checkpoint.gguf_architecture import (
  CONVOLUTION,
  RATES,
  TRANSPOSED,
  Architecture,
  heads,
  plus,
)
from eejax.errors import CheckpointError

_KEYS = {
  'hidden_size': 'embedding_length',
  'num_hidden_layers': 'block_count',
  'num_attention_heads': 'attention.head_count',
  'num_key_value_heads': 'attention.head_count_kv',
  'head_dim': 'attention.key_length',
  'intermediate_size': 'feed_forward_length',
  'max_position_embeddings': 'context_length',
  'rms_norm_eps': 'attention.layer_norm_rms_epsilon',
  'rope_theta': 'rope.freq_base',
}
_SILU = {'hidden_act': 'silu'}
_OUTER = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  'lm_head': 'output',
}
_BLOCKS = {
  'input_layernorm': 'attn_norm',
  'post_attention_layernorm': 'ffn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}

LLAMA = Architecture(
  name='llama',
  model_type='llama',
  class_name='LlamaForCausalLM',
  keys=_KEYS,
  outer=_OUTER,
  blocks=_BLOCKS,
  changes={
    'attn_q': heads('num_attention_heads'),
    'attn_k': heads('num_key_value_heads'),
  },
  biases={'attention_bias': 'attn_q', 'mlp_bias': 'ffn_gate'},
  fixed=_SILU,
)
QWEN2 = Architecture(
  name='qwen2',
  model_type='qwen2',
  class_name='Qwen2ForCausalLM',
  keys=_KEYS,
  outer=_OUTER,
  blocks=_BLOCKS,
  fixed={**_SILU, 'use_sliding_window': False},
)
QWEN3 = Architecture(
  name='qwen3',
  model_type='qwen3',
  class_name='Qwen3ForCausalLM',
  keys=_KEYS,
  outer=_OUTER,
  blocks={
    **_BLOCKS,
    'self_attn.q_norm': 'attn_q_norm',
    'self_attn.k_norm': 'attn_k_norm',
  },
  biases={'attention_bias': 'attn_q'},
  fixed={**_SILU, 'use_sliding_window': False},
)


def _complete_phi3(values: dict[str, Any], keys: Mapping[str, Any]) -> None:
  heads, width = values.get('num_attention_heads'), values.get('hidden_size')
  rotated = keys.get('rope.dimension_count')
  if heads and width and rotated and isinstance(rotated, int):
    head_dim = values.get('head_dim') or width // heads
    values['partial_rotary_factor'] = rotated / head_dim
  # Zero is none.
  values['sliding_window'] = values.get('sliding_window') or None


def _complete_gemma(
  values: dict[str, Any], keys: Mapping[str, Any], *, largest: int
) -> None:
  """Add how queries are scaled, which llama.cpp knows by the model's size."""
  heads, width = values.get('num_attention_heads'), values.get('hidden_size')
  is_largest = values.get('num_hidden_layers') == largest
  if is_largest and heads and width:
    values['query_pre_attn_scalar'] = width // heads
  elif values.get('head_dim'):
    values['query_pre_attn_scalar'] = values['head_dim']


PHI3 = Architecture(
  name='phi3',
  model_type='phi3',
  class_name='Phi3ForCausalLM',
  keys={**_KEYS, 'sliding_window': 'attention.sliding_window'},
  outer=_OUTER,
  blocks={
    'input_layernorm': 'attn_norm',
    'post_attention_layernorm': 'ffn_norm',
    'self_attn.qkv_proj': 'attn_qkv',
    'self_attn.o_proj': 'attn_output',
    'mlp.gate_up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down',
  },
  fixed=_SILU,
  complete=_complete_phi3,
)
_GEMMA_KEYS = {**_KEYS, 'sliding_window': 'attention.sliding_window'}
_GEMMA_BLOCKS = {
  **_BLOCKS,
  'post_attention_layernorm': 'post_attention_norm',
  'pre_feedforward_layernorm': 'ffn_norm',
  'post_feedforward_layernorm': 'post_ffw_norm',
}
_GEMMA_NORMS = (
  *('output_norm', 'attn_norm', 'post_attention_norm', 'ffn_norm'),
  *('post_ffw_norm', 'attn_q_norm', 'attn_k_norm'),
)
_GEMMA_CHANGES = {name: plus(1.0) for name in _GEMMA_NORMS}
_GEMMA_FIXED = {'hidden_activation': 'gelu_pytorch_tanh'}
GEMMA2 = Architecture(
  name='gemma2',
  model_type='gemma2',
  class_name='Gemma2ForCausalLM',
  keys={
    **_GEMMA_KEYS,
    'attn_logit_softcapping': 'attn_logit_softcapping',
    'final_logit_softcapping': 'final_logit_softcapping',
  },
  outer=_OUTER,
  blocks=_GEMMA_BLOCKS,
  changes=_GEMMA_CHANGES,
  fixed=_GEMMA_FIXED,
  complete=functools.partial(_complete_gemma, largest=46),
)
GEMMA3 = Architecture(
  name='gemma3',
  model_type='gemma3_text',
  class_name='Gemma3ForCausalLM',
  keys={
    **_GEMMA_KEYS,
    'rope_local_base_freq': 'rope.freq_base_swa',
    'attn_logit_softcapping': 'attn_logit_softcapping',
    'final_logit_softcapping': 'final_logit_softcapping',
  },
  outer=_OUTER,
  blocks={
    **_GEMMA_BLOCKS,
    'self_attn.q_norm': 'attn_q_norm',
    'self_attn.k_norm': 'attn_k_norm',
  },
  changes=_GEMMA_CHANGES,
  fixed=_GEMMA_FIXED,
  complete=functools.partial(_complete_gemma, largest=62),
)
GPT2 = Architecture(
  name='gpt2',
  model_type='gpt2',
  class_name='GPT2LMHeadModel',
  keys={
    'n_embd': 'embedding_length',
    'n_layer': 'block_count',
    'n_head': 'attention.head_count',
    'n_inner': 'feed_forward_length',
    'n_positions': 'context_length',
    'layer_norm_epsilon': 'attention.layer_norm_epsilon',
  },
  outer={
    'transformer.wte': 'token_embd',
    'transformer.wpe': 'position_embd',
    'transformer.ln_f': 'output_norm',
    'lm_head': 'output',
  },
  blocks={
    'ln_1': 'attn_norm',
    'ln_2': 'ffn_norm',
    'attn.c_attn': 'attn_qkv',
    'attn.c_proj': 'attn_output',
    'mlp.c_fc': 'ffn_up',
    'mlp.c_proj': 'ffn_down',
  },
  changes={
    name: TRANSPOSED
    for name in ('attn_qkv', 'attn_output', 'ffn_up', 'ffn_down')
  },
  fixed={'activation_function': 'gelu_new'},
  layers='transformer.h',
  stores_tied_head=True,
)


# Files that llama.cpp's converter made say this, whatever the model.
_ANY_LENGTH = 2**20


def _complete_mamba(values: dict[str, Any], keys: Mapping[str, Any]) -> None:
  inner, width = values.get('intermediate_size'), values.get('hidden_size')
  if inner and width:
    values['expand'] = inner / width
  if values.get('max_position_embeddings') == _ANY_LENGTH:
    del values['max_position_embeddings']
  values['use_conv_bias'] = True
  values['use_bias'] = False


MAMBA = Architecture(
  name='mamba',
  model_type='mamba',
  class_name='MambaForCausalLM',
  keys={
    'hidden_size': 'embedding_length',
    'num_hidden_layers': 'block_count',
    'max_position_embeddings': 'context_length',
    'layer_norm_epsilon': 'attention.layer_norm_rms_epsilon',
    'conv_kernel': 'ssm.conv_kernel',
    'intermediate_size': 'ssm.inner_size',
    'state_size': 'ssm.state_size',
    'time_step_rank': 'ssm.time_step_rank',
  },
  outer={
    'backbone.embeddings': 'token_embd',
    'backbone.norm_f': 'output_norm',
    'lm_head': 'output',
  },
  blocks={
    'norm': 'attn_norm',
    'mixer.in_proj': 'ssm_in',
    'mixer.conv1d': 'ssm_conv1d',
    'mixer.x_proj': 'ssm_x',
    'mixer.dt_proj': 'ssm_dt',
    'mixer.A_log': 'ssm_a',
    'mixer.D': 'ssm_d',
    'mixer.out_proj': 'ssm_out',
  },
  changes={'ssm_conv1d': CONVOLUTION, 'ssm_a': RATES},
  written={'feed_forward_length': 0, 'attention.head_count': 0},
  layers='backbone.layers',
  complete=_complete_mamba,
)

ARCHITECTURES: dict[str, Architecture] = {
  a.name: a for a in (LLAMA, QWEN2, QWEN3, PHI3, GEMMA2, GEMMA3, GPT2, MAMBA)
}
# Families that are written as another architecture.
WRITTEN_AS = {'mistral': 'llama'}


def find(name: str) -> Architecture:
  """Return the architecture of a file.

  Raises:
    CheckpointError: it is not one of the table.
  """
  if name not in ARCHITECTURES:
    known = ', '.join(ARCHITECTURES)
    raise CheckpointError(
      f'the architecture {name!r:.80} is not supported in GGUF files; '
      f'supported are {known}.'
    )
  return ARCHITECTURES[name]
