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
"""Test the table of architectures against the package gguf's own."""

import functools

import jax
import numpy as np
import pytest

from eejax.checkpoint import tree
from eejax.checkpoint.gguf_architectures import ARCHITECTURES
from eejax.checkpoint.gguf_export import export_file
from eejax.checkpoint.load import load
from eejax.checkpoint.model import Model
from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import decoder, families
from eejax.models.families import mamba
from eejax.models.families.tensors import tensors
from eejax.testing import tiny

gguf = pytest.importorskip('gguf', reason='the gguf extra is not installed')

SIZES = {
  'vocab_size': 29,
  'hidden_size': 32,
  'intermediate_size': 64,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 48,
  'bos_token_id': 1,
  'eos_token_id': 2,
}
_GPT2 = {
  'hidden_size': 'n_embd',
  'intermediate_size': 'n_inner',
  'num_hidden_layers': 'n_layer',
  'num_attention_heads': 'n_head',
  'max_position_embeddings': 'n_positions',
}
GEMMA = {'head_dim': 8, 'query_pre_attn_scalar': 8, 'sliding_window': 16}
CONFIGS = {
  'llama': {'rope_theta': 5e5},
  'qwen2': {},
  'qwen3': {'head_dim': 16},
  'phi3': {'sliding_window': 16},
  'gemma2': {
    **GEMMA,
    'attn_logit_softcapping': 20.0,
    'final_logit_softcapping': 10.0,
  },
  'gemma3': {**GEMMA, 'rope_theta': 1e6},
  'gpt2': {},
  'mamba': {'state_size': 4, 'time_step_rank': 3},
}
NOT_OF_MAMBA = frozenset(
  {'num_attention_heads', 'num_key_value_heads', 'intermediate_size'}
)


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))


def config_of(name, **overrides):
  architecture = ARCHITECTURES[name]
  values = {**SIZES, **CONFIGS[name], **overrides}
  if name == 'gpt2':
    del values['num_key_value_heads']
    values = {_GPT2.get(key, key): value for key, value in values.items()}
  if name == 'mamba':
    values = {k: v for k, v in values.items() if k not in NOT_OF_MAMBA}
  return families.read_config(
    {
      'architectures': [architecture.class_name],
      'model_type': architecture.model_type,
      **values,
    }
  )


def model_of(name, **overrides):
  config = EarlyExitConfig(config_of(name, **overrides))
  return Model(config, tiny.tiny_params(config))


def test_every_architecture_is_tested():
  assert CONFIGS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize('name', CONFIGS)
def test_names_are_those_of_gguf(name):
  config = config_of(name)
  code = {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[name]
  table = gguf.get_tensor_name_map(code, config.num_layers)
  for tensor in tensors(config):
    expected = table.get_name(tensor.name, try_suffixes=('.weight', '.bias'))
    assert ARCHITECTURES[name].to_gguf(tensor.name) == expected
    assert ARCHITECTURES[name].to_huggingface(expected) == tensor.name


@pytest.mark.parametrize('name', CONFIGS)
def test_a_model_comes_back(tmp_path, name):
  model = model_of(name)
  export_file(model, tmp_path / 'model.gguf')
  again = load(tmp_path / 'model.gguf')
  assert again.config == model.config
  # One is added to Gemma's scales in a file, which rounds once; Mamba's rates
  # are the exponential of what we have.
  atol = {'gemma2': 1e-7, 'gemma3': 1e-7, 'mamba': 1e-6}.get(name, 0)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol),
    again.params,
    model.params,
  )
  prefix = f'{name}.'
  keys = gguf.GGUFReader(tmp_path / 'model.gguf').fields
  assert keys[f'{prefix}block_count'].contents() == 2


def stored(tmp_path, name):
  model = model_of(name)
  export_file(model, tmp_path / 'model.gguf')
  reader = gguf.GGUFReader(tmp_path / 'model.gguf')
  leaf = lambda *path: np.asarray(tree.leaf(model.params, path))
  return {t.name: t.data for t in reader.tensors}, leaf


def test_gemma_s_scales_have_one_added(tmp_path):
  arrays, leaf = stored(tmp_path, 'gemma2')
  found = arrays['blk.1.post_ffw_norm.weight']
  expected = leaf('blocks', '001', 'mlp_post_norm', 'scale') + 1
  np.testing.assert_array_equal(found, expected)


def test_gpt_2_s_kernels_are_transposed(tmp_path):
  arrays, leaf = stored(tmp_path, 'gpt2')
  up = leaf('blocks', '001', 'mlp', 'up', 'kernel')  # [D, F]
  np.testing.assert_array_equal(arrays['blk.1.ffn_up.weight'], up.T)
  bias = leaf('blocks', '001', 'mlp', 'up', 'bias')
  np.testing.assert_array_equal(arrays['blk.1.ffn_up.bias'], bias)


def test_mamba_s_rates_are_below_0_and_its_kernels_flat(tmp_path):
  arrays, leaf = stored(tmp_path, 'mamba')
  rates = leaf('blocks', '001', 'mixer', 'log_rates')  # [N, inner]
  np.testing.assert_allclose(arrays['blk.1.ssm_a'], -np.exp(rates.T), rtol=1e-6)
  kernel = leaf('blocks', '001', 'mixer', 'convolution', 'kernel')
  np.testing.assert_array_equal(arrays['blk.1.ssm_conv1d.weight'], kernel.T)


def rewritten(source, dest, *, metadata=(), tensors=(), added=()):
  """Write a file again with other keys and with tensors that functions make."""
  reader = gguf.GGUFReader(source)
  name = reader.fields['general.architecture'].contents()
  writer = gguf.GGUFWriter(dest, name)
  own = {'general.architecture', *(key for key, *_ in metadata)}
  for key, field in reader.fields.items():
    if not key.startswith('GGUF.') and key not in own:
      writer.add_key_value(key, field.contents(), field.types[0])
  for key, value, kind in metadata:
    writer.add_key_value(key, value, kind)
  for tensor in reader.tensors:
    array = np.asarray(tensor.data)
    writer.add_tensor(
      tensor.name, dict(tensors).get(tensor.name, lambda a: a)(array)
    )
  for name, array in dict(added).items():
    writer.add_tensor(name, array)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return dest


def test_a_mamba_of_another_kind_is_refused(tmp_path):
  """Falcon Mamba norms what is selected; a growing state is no Mamba."""
  path = tmp_path / 'model.gguf'
  export_file(model_of('mamba'), path)
  boolean = gguf.GGUFValueType.BOOL
  normed = rewritten(
    path,
    tmp_path / 'normed.gguf',
    metadata=[('mamba.ssm.dt_b_c_rms', True, boolean)],
  )
  with pytest.raises(CheckpointError, match='dt_b_c_rms'):
    load(normed)
  growing = rewritten(
    path, tmp_path / 'growing.gguf', tensors={'blk.0.ssm_a': np.negative}
  )
  with pytest.raises(CheckpointError, match='not below 0'):
    load(growing)


def test_llama_cpp_s_length_of_any_mamba_is_not_taken(tmp_path):
  path = tmp_path / 'model.gguf'
  export_file(model_of('mamba'), path)
  assert load(path).config.model.max_length == 48
  any_length = rewritten(
    path,
    tmp_path / 'any.gguf',
    metadata=[('mamba.context_length', 2**20, gguf.GGUFValueType.UINT32)],
  )
  assert load(any_length).config.model.max_length == mamba.MAX_LENGTH


def test_gpt_2_s_head_may_be_its_table_again(tmp_path):
  path = tmp_path / 'model.gguf'
  export_file(model_of('gpt2'), path)
  tensors = gguf.GGUFReader(path).tensors
  table = next(t for t in tensors if t.name == 'token_embd.weight')
  rewritten(
    path,
    tmp_path / 'twice.gguf',
    added={'output.weight': np.asarray(table.data)},
  )
  assert load(tmp_path / 'twice.gguf').config == load(path).config


@pytest.mark.parametrize(
  ('name', 'overrides', 'field'),
  [
    ('gemma2', {'query_pre_attn_scalar': 16}, 'query_scale'),
    ('gemma2', {'layer_types': ['full_attention'] * 2}, 'windowed_blocks'),
    ('gpt2', {'activation_function': 'relu'}, 'activation'),
  ],
)
def test_what_has_no_key_is_refused(tmp_path, name, overrides, field):
  with pytest.raises(ArgumentError, match=f'cannot say that {field} is'):
    export_file(model_of(name, **overrides), tmp_path / 'model.gguf')
  assert list(tmp_path.glob('*.gguf')) == []


def test_longrope_is_two_tensors(tmp_path):
  rule = {
    'rope_type': 'longrope',
    'short_factor': [1.0, 1.5, 2.5, 4.0],
    'long_factor': [2.0, 4.0, 8.0, 16.0],
    'attention_factor': 1.25,
  }
  model = model_of(
    'phi3', rope_scaling=rule, original_max_position_embeddings=12
  )
  export_file(model, tmp_path / 'model.gguf')
  again = load(tmp_path / 'model.gguf')
  assert again.config == model.config
  assert again.config.model.max_length == 12
  tensors = {
    t.name: t.data.tolist()
    for t in gguf.GGUFReader(tmp_path / 'model.gguf').tensors
  }
  assert tensors['rope_factors_short.weight'] == rule['short_factor']
  assert tensors['rope_factors_long.weight'] == rule['long_factor']


def test_the_largest_gemma_scales_by_its_width(tmp_path):
  """Gemma 2 27B has 46 blocks and queries scaled by width over heads."""
  config = EarlyExitConfig(
    config_of(
      'gemma2',
      num_hidden_layers=46,
      head_dim=16,
      query_pre_attn_scalar=32 // 4,
    )
  )
  made = jax.eval_shape(
    functools.partial(decoder.init, config), jax.random.key(0)
  )
  model = Model(
    config, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), made)
  )
  export_file(model, tmp_path / 'model.gguf')
  assert load(tmp_path / 'model.gguf').config == model.config
