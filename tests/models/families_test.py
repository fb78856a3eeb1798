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
"""Tests of the tables that name a model in Hugging Face's words."""

import re

import jax
import numpy as np
import pytest

from eejax.config import RotaryConfig, RotaryScaling
from eejax.config.experts import ExpertsConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import families
from eejax.models.families.rotary import read_rotary, write_rotary
from eejax.models.families.tensors import tensors
from eejax.testing.tiny import tiny_model_config

# Heads are 6 wide below: three pairs are rotated.
LONGROPE = {
  'rope_type': 'longrope',
  'factor': 4.0,
  'original_max_position_embeddings': 12,
  'short_factor': [1.0, 1.5, 2.0],
  'long_factor': [1.0, 3.0, 9.0],
}
LLAMA = {
  'architectures': ['LlamaForCausalLM'],
  'model_type': 'llama',
  'vocab_size': 29,
  'hidden_size': 16,
  'intermediate_size': 20,
  'num_hidden_layers': 4,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 6,
  'max_position_embeddings': 48,
  'rms_norm_eps': 1e-5,
  'bos_token_id': 1,
  'eos_token_id': 2,
}
QWEN = {**LLAMA, 'model_type': 'qwen2', 'architectures': ['Qwen2ForCausalLM']}
MODELS = {
  'llama': tiny_model_config(),
  'llama biases': tiny_model_config(
    qkv_bias=True, output_bias=True, mlp_bias=True
  ),
  'llama tied': tiny_model_config(tied_head=True, eos_ids=(2, 5)),
  'mistral': tiny_model_config(family='mistral', sliding_window=3),
  'qwen2': tiny_model_config(family='qwen2', qkv_bias=True),
  'qwen2 window': tiny_model_config(
    family='qwen2', qkv_bias=True, sliding_window=3, full_attention_blocks=2
  ),
  'qwen3': tiny_model_config(family='qwen3', qk_norm=True),
  'mixtral': tiny_model_config(
    family='mixtral', experts=ExpertsConfig(5, 2, 20)
  ),
  'qwen2_moe': tiny_model_config(
    family='qwen2_moe',
    qkv_bias=True,
    sliding_window=3,
    windowed_blocks=(0, 3),
    experts=ExpertsConfig(5, 2, 12, renormalized=False, shared_dim=7),
  ),
  'qwen3_moe': tiny_model_config(
    family='qwen3_moe', qk_norm=True, experts=ExpertsConfig(6, 3, 12)
  ),
}


def test_a_llama_is_read():
  assert families.read_config(LLAMA) == tiny_model_config()


def test_several_end_tokens_are_read():
  read = families.read_config({**LLAMA, 'eos_token_id': [7, 8]})
  assert read.eos_ids == (7, 8)


@pytest.mark.parametrize('model', MODELS.values(), ids=MODELS)
def test_what_is_written_reads_the_same(model):
  assert families.read_config(families.write_config(model)) == model


@pytest.mark.parametrize(
  ('family', 'overrides', 'named'),
  [
    ('llama', {'sliding_window': 3}, 'sliding window'),
    ('llama', {'qk_norm': True}, 'norms'),
    ('llama', {'qkv_bias': True}, 'biases'),
    ('mistral', {'mlp_bias': True}, 'biases'),
    (
      'mistral',
      {'sliding_window': 3, 'full_attention_blocks': 1},
      'without the window',
    ),
    ('qwen2', {}, 'no query key and value biases'),
    ('qwen3', {}, 'no query and key norms'),
    ('gpt9', {}, 'gpt9'),
    ('llama', {'logit_softcap': 3.0}, 'logit_softcap'),
    ('gemma2', {}, 'norm_gain_offset'),
    ('gpt2', {}, 'head_dim'),
    ('mixtral', {}, 'without experts'),
    ('llama', {'experts': ExpertsConfig(5, 2, 20)}, 'experts'),
    (
      'mixtral',
      {'experts': ExpertsConfig(5, 2, 20, renormalized=False)},
      'add up to one',
    ),
    (
      'qwen3_moe',
      {'qk_norm': True, 'experts': ExpertsConfig(5, 2, 20, shared_dim=7)},
      'shared expert',
    ),
    ('qwen2_moe', {'experts': ExpertsConfig(5, 2, 20)}, 'no shared expert'),
  ],
)
def test_a_family_that_cannot_have_a_part_says_so(family, overrides, named):
  model = tiny_model_config(family=family, **overrides)
  with pytest.raises(ArgumentError, match=named):
    families.write_config(model)


@pytest.mark.parametrize(
  ('changes', 'named'),
  [
    (
      {'model_type': 'bert', 'architectures': ['BertLMHeadModel']},
      'BertLMHeadModel is not supported.*LlamaForCausalLM.*Qwen3ForCausalLM',
    ),
    ({'model_type': 'gemma', 'architectures': None}, "'gemma'"),
    (
      {'architectures': ['LlamaForSequenceClassification']},
      'LlamaForSequenceClassification',
    ),
    ({'hidden_act': 'quick_gelu'}, "hidden_act 'quick_gelu'.*silu"),
    ({'attn_logit_softcapping': 50.0}, 'attn_logit_softcapping'),
    ({'final_logit_softcapping': 30.0}, 'final_logit_softcapping'),
    ({'quantization_config': {'bits': 4}}, 'quantization_config'),
    ({'partial_rotary_factor': 0.5}, 'partial_rotary_factor'),
    ({'sliding_window': 8}, 'sliding_window'),
    ({'num_local_experts': 8}, 'num_local_experts'),
    ({'auto_map': {'AutoModel': 'code.py'}}, 'auto_map.*no code'),
    ({'rope_scaling': {'type': 'ntk'}}, "'ntk'.*llama3"),
    ({'rope_scaling': {'type': 'longrope'}}, "'short_factor'"),
    ({'rope_scaling': {**LONGROPE, 'long_factor': [1.0]}}, '1 long'),
    ({'rope_scaling': {**LONGROPE, 'short_factor': 4}}, 'list of numbers'),
    ({'rope_scaling': {**LONGROPE, 'short_factor': [0.0] * 3}}, 'above 0'),
    ({'rope_scaling': LONGROPE, 'head_dim': 16}, '3 rotary factors'),
    (
      {'rope_scaling': {'rope_type': 'default', 'mrope_section': [1, 2]}},
      'mrope_section',
    ),
    ({'rope_scaling': {'type': 'linear'}}, "'factor'"),
    (
      {
        'rope_scaling': {
          'type': 'dynamic',
          'factor': 2.0,
          'original_max_position_embeddings': 16,
        }
      },
      'dynamic',
    ),
    ({'hidden_size': None}, "lacks 'hidden_size'"),
    ({'num_hidden_layers': 2.5}, 'num_hidden_layers'),
    ({'num_key_value_heads': 3}, 'multiple'),
  ],
)
def test_what_is_not_supported_is_named(changes, named):
  with pytest.raises(CheckpointError, match=named) as caught:
    families.read_config({**LLAMA, **changes})
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'changes',
  [
    {'attn_logit_softcapping': None},
    {'partial_rotary_factor': 1.0},
    {'sliding_window': None},
    {'hidden_act': 'silu'},
    {'attention_dropout': 0.1},
    {'pad_token_id': 28},
    {'torch_dtype': 'bfloat16'},
    {'_name_or_path': 'somebody/something'},
    {'rope_scaling': None, 'rope_theta': 10_000},
  ],
)
def test_what_changes_nothing_is_passed_over(changes):
  assert families.read_config({**LLAMA, **changes}) == tiny_model_config()


@pytest.mark.parametrize(
  ('changes', 'window', 'full'),
  [
    ({}, None, 0),
    ({'use_sliding_window': False, 'sliding_window': 8}, None, 0),
    (
      {
        'use_sliding_window': True,
        'sliding_window': 8,
        'max_window_layers': 1,
      },
      8,
      1,
    ),
    (
      {
        'use_sliding_window': True,
        'sliding_window': 8,
        'max_window_layers': 4,
      },
      None,
      0,
    ),
    (
      {
        'use_sliding_window': True,
        'sliding_window': 8,
        'max_window_layers': 0,
        'layer_types': ['full_attention'] * 3 + ['sliding_attention'],
      },
      8,
      3,
    ),
  ],
)
def test_windows_of_qwen(changes, window, full):
  read = families.read_config({**QWEN, **changes})
  assert (read.sliding_window, read.full_attention_blocks) == (window, full)


@pytest.mark.parametrize(
  'types',
  [
    ['sliding_attention', 'full_attention'] * 2,
    ['full_attention'] * 3,
    ['full_attention'] * 3 + ['chunked_attention'],
  ],
)
def test_patterns_of_windows_that_cannot_be_had(types):
  values = {
    **QWEN,
    'layer_types': types,
    'use_sliding_window': True,
    'sliding_window': 8,
  }
  with pytest.raises(CheckpointError, match='layer_types'):
    families.read_config(values)


def test_windows_without_a_size():
  values = {**QWEN, 'layer_types': ['sliding_attention'] * 4}
  with pytest.raises(CheckpointError, match='use_sliding_window'):
    families.read_config(values)


# MARK: Rotary

LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8192,
}


@pytest.mark.parametrize(
  'values',
  [
    {'rope_theta': 5e5, 'rope_scaling': LLAMA3},
    {'rope_parameters': {**LLAMA3, 'rope_theta': 5e5}},
  ],
  ids=['old form', 'new form'],
)
def test_both_forms_of_rotary_settings(values):
  assert read_rotary({'max_position_embeddings': 131072, **values}) == (
    RotaryConfig(
      theta=5e5,
      scaling=RotaryScaling.LLAMA3,
      factor=8.0,
      original_max_length=8192,
      low_frequency_factor=1.0,
      high_frequency_factor=4.0,
    )
  )


def test_the_original_length_defaults_to_the_stated_one():
  rope = {'type': 'yarn', 'factor': 4.0}
  rotary = read_rotary({'max_position_embeddings': 32, 'rope_scaling': rope})
  assert rotary.original_max_length == 32
  assert rotary.attention_factor is None


def test_mscale_is_folded_into_the_attention_factor():
  rope = {'type': 'yarn', 'factor': np.e**10, 'mscale': 2.0}
  rope['mscale_all_dim'] = 1.0
  rotary = read_rotary({'max_position_embeddings': 32, 'rope_scaling': rope})
  # (0.1 * 2 * ln factor + 1) / (0.1 * 1 * ln factor + 1)
  assert rotary.attention_factor == pytest.approx(3 / 2)


@pytest.mark.parametrize(
  ('rope', 'length'),
  [
    ({'rope_type': 'default'}, 48),
    ({'rope_type': 'linear', 'factor': 4.0}, 192),
    ({'rope_type': 'dynamic', 'factor': 4.0}, 48),
    (LONGROPE, 12),
    ({**LLAMA3, 'original_max_position_embeddings': 6}, 48),
    (
      {
        'rope_type': 'yarn',
        'factor': 4.0,
        'original_max_position_embeddings': 48,
      },
      192,
    ),
    (
      {
        'rope_type': 'yarn',
        'factor': 4.0,
        'original_max_position_embeddings': 12,
      },
      48,
    ),
  ],
)
def test_how_long_a_text_may_be(rope, length):
  read = families.read_config({**LLAMA, 'rope_scaling': rope})
  assert read.max_length == length
  written = families.write_config(read)
  assert families.read_config(written) == read


def test_rotary_settings_are_written_in_the_new_form():
  rotary = read_rotary(
    {'max_position_embeddings': 9, 'rope_theta': 5e5, 'rope_scaling': LLAMA3}
  )
  assert write_rotary(rotary) == {**LLAMA3, 'rope_theta': 5e5}


# MARK: Tensors


def by_name(model):
  return {tensor.name: tensor for tensor in tensors(model)}


def test_every_tensor_of_a_model_has_a_name():
  assert sorted(by_name(tiny_model_config(num_layers=1))) == [
    'lm_head.weight',
    'model.embed_tokens.weight',
    'model.layers.0.input_layernorm.weight',
    'model.layers.0.mlp.down_proj.weight',
    'model.layers.0.mlp.gate_proj.weight',
    'model.layers.0.mlp.up_proj.weight',
    'model.layers.0.post_attention_layernorm.weight',
    'model.layers.0.self_attn.k_proj.weight',
    'model.layers.0.self_attn.o_proj.weight',
    'model.layers.0.self_attn.q_proj.weight',
    'model.layers.0.self_attn.v_proj.weight',
    'model.norm.weight',
  ]


def test_the_parts_that_only_some_models_have():
  plain = by_name(tiny_model_config())
  model = tiny_model_config(qkv_bias=True, qk_norm=True, tied_head=True)
  full = by_name(model)
  more = {re.sub(r'\d', '0', name) for name in full.keys() - plain.keys()}
  assert more == {
    f'model.layers.0.self_attn.{name}'
    for name in (
      'q_proj.bias',
      'k_proj.bias',
      'v_proj.bias',
      'q_norm.weight',
      'k_norm.weight',
    )
  }
  assert plain.keys() - full.keys() == {'lm_head.weight'}


def test_where_a_number_of_a_query_matrix_goes():
  tensor = by_name(tiny_model_config())[
    'model.layers.2.self_attn.q_proj.weight'
  ]
  assert tensor.path == ('blocks', '002', 'attention', 'query', 'kernel')
  assert tensor.file_shape == (4 * 6, 16)
  matrix = np.arange(4 * 6 * 16).reshape(4 * 6, 16)  # [(N H), D]
  kernel = tensor.from_file(matrix)  # [D, N, H]
  assert kernel.shape == (16, 4, 6)
  assert kernel[11, 3, 5] == matrix[3 * 6 + 5, 11]


def test_where_a_number_of_an_output_matrix_goes():
  tensor = by_name(tiny_model_config())[
    'model.layers.0.self_attn.o_proj.weight'
  ]
  assert tensor.file_shape == (16, 4 * 6)
  matrix = np.arange(16 * 4 * 6).reshape(16, 4 * 6)  # [D, (N H)]
  kernel = tensor.from_file(matrix)  # [N, H, D]
  assert kernel.shape == (4, 6, 16)
  assert kernel[3, 5, 11] == matrix[11, 3 * 6 + 5]


@pytest.mark.parametrize('name', ['qwen2_moe', 'qwen3_moe'])
@pytest.mark.parametrize(
  'changes', [{'decoder_sparse_step': 2}, {'mlp_only_layers': [0]}]
)
def test_blocks_without_experts_beside_others(name, changes):
  values = {**families.write_config(MODELS[name]), **changes}
  with pytest.raises(CheckpointError, match='blocks without experts'):
    families.read_config(values)


def test_the_number_of_experts_has_two_names():
  values = families.write_config(MODELS['qwen3_moe'])
  values['num_experts'] = values.pop('num_local_experts')
  assert families.read_config(values) == MODELS['qwen3_moe']


def test_where_the_matrix_of_an_expert_goes():
  tensor = by_name(MODELS['mixtral'])[
    'model.layers.2.block_sparse_moe.experts.3.w2.weight'
  ]
  assert tensor.path == ('blocks', '002', 'mlp', 'experts', 'down', 'kernel')
  assert tensor.file_shape == (16, 20)  # [D, F]
  leaf = np.arange(5 * 20 * 16).reshape(tensor.shape)  # [X, F, D]
  matrix = tensor.to_file(leaf)
  assert matrix[11, 17] == leaf[3, 17, 11]


@pytest.mark.parametrize('model', MODELS.values(), ids=MODELS)
def test_tensors_go_there_and_back(model):
  for tensor in tensors(model):
    stored = np.arange(np.prod(tensor.file_shape)).reshape(tensor.file_shape)
    leaf = tensor.from_file(stored)
    assert np.shares_memory(leaf, stored)  # a mapped file is not read yet
    if tensor.expert is not None:
      leaf = np.stack([leaf] * tensor.expert.count)
    assert leaf.shape == tensor.shape
    np.testing.assert_array_equal(tensor.to_file(leaf), stored)


def test_paths_are_those_of_the_parameter_tree(tiny_config, tiny_params):
  found = {}
  for path, leaf in jax.tree.leaves_with_path(tiny_params['backbone']):
    names = tuple(key.key for key in path)
    if names[0] == 'blocks':
      for index in range(leaf.shape[0]):
        found['blocks', f'{index:03}', *names[1:]] = leaf.shape[1:]
    else:
      found[names] = leaf.shape
  assert found == {t.path: t.shape for t in tensors(tiny_config.model)}
