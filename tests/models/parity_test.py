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
"""Compare with transformers: logits, files, configurations.

The models are random and tiny; every matrix, norm and bias is moved away from
what initialisation gives, so that none can be left out unnoticed.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='needs the parity extra')
transformers = pytest.importorskip(
  'transformers', reason='needs the parity extra'
)

from eejax.checkpoint import huggingface  # noqa: E402
from eejax.checkpoint.model import Model  # noqa: E402
from eejax.models import decoder, families  # noqa: E402

pytestmark = [
  pytest.mark.parity,
  pytest.mark.filterwarnings('ignore'),  # theirs, about their own future
]

SHAPE = {
  'vocab_size': 61,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 64,
}
LENGTH = 40
LLAMA, MISTRAL = transformers.LlamaConfig, transformers.MistralConfig
QWEN2, QWEN3 = transformers.Qwen2Config, transformers.Qwen3Config
GPT2, OPT = transformers.GPT2Config, transformers.OPTConfig
GPT_NEOX, OLMO2 = transformers.GPTNeoXConfig, transformers.Olmo2Config
PHI3, GRANITE = transformers.Phi3Config, transformers.GraniteConfig
SMOLLM3 = transformers.SmolLM3Config
GEMMA2, GEMMA3 = transformers.Gemma2Config, transformers.Gemma3TextConfig
MIXTRAL = transformers.MixtralConfig
QWEN2_MOE, QWEN3_MOE = transformers.Qwen2MoeConfig, transformers.Qwen3MoeConfig
EXPERTS = {'num_experts_per_tok': 2, 'moe_intermediate_size': 24}
MAMBA, MAMBA2 = transformers.MambaConfig, transformers.Mamba2Config
FALCON_H1 = transformers.FalconH1Config
MIXER = {
  'mamba_d_ssm': 48,
  'mamba_n_heads': 6,
  'mamba_d_head': 8,
  'mamba_d_state': 5,
  'mamba_n_groups': 2,
  'mamba_chunk_size': 16,
}
# Families whose keys are called otherwise, and that share no keys of heads.
SHAPES = {
  GPT2: {
    'vocab_size': 61,
    'n_embd': 32,
    'n_layer': 3,
    'n_head': 4,
    'n_positions': 64,
  },
  OPT: {
    'vocab_size': 61,
    'hidden_size': 32,
    'word_embed_proj_dim': 32,
    'ffn_dim': 48,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'max_position_embeddings': 64,
  },
  MAMBA: {
    'vocab_size': 61,
    'hidden_size': 32,
    'num_hidden_layers': 3,
    'state_size': 5,
  },
  MAMBA2: {
    'vocab_size': 61,
    'hidden_size': 32,
    'num_hidden_layers': 3,
    'num_heads': 8,
    'head_dim': 8,
    'n_groups': 2,
    'state_size': 6,
    'chunk_size': 16,
  },
  GPT_NEOX: {k: v for k, v in SHAPE.items() if 'key_value' not in k},
}


def rope(kind, **values):
  return {'rope_type': kind, 'rope_theta': 10_000.0, **values}


CASES = {
  'llama1': (LLAMA, {'num_key_value_heads': 4}),
  'llama2_tied': (LLAMA, {'tie_word_embeddings': True}),
  'llama_biases': (LLAMA, {'attention_bias': True, 'mlp_bias': True}),
  'llama_head_dim': (LLAMA, {'head_dim': 12}),
  'llama3': (
    LLAMA,
    {
      'rope_parameters': rope(
        'llama3',
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=16,
      )
    },
  ),
  'linear': (LLAMA, {'rope_parameters': rope('linear', factor=4.0)}),
  'dynamic': (LLAMA, {'rope_parameters': rope('dynamic', factor=4.0)}),
  'yarn': (
    LLAMA,
    {
      'rope_parameters': rope(
        'yarn', factor=4.0, original_max_position_embeddings=16
      )
    },
  ),
  'yarn_every_key': (
    QWEN2,
    {
      'head_dim': 16,
      'rope_parameters': rope(
        'yarn',
        factor=4.0,
        original_max_position_embeddings=16,
        beta_fast=2.0,
        beta_slow=0.5,
        mscale=0.7,
        mscale_all_dim=0.3,
        truncate=False,
      ),
    },
  ),
  'mistral': (MISTRAL, {'sliding_window': 5}),
  'mistral_without_window': (MISTRAL, {'sliding_window': None}),
  'qwen2': (QWEN2, {'tie_word_embeddings': True}),
  'qwen2_window': (
    QWEN2,
    {'use_sliding_window': True, 'sliding_window': 7, 'max_window_layers': 1},
  ),
  'qwen3': (QWEN3, {'head_dim': 12}),
  'qwen3_window': (
    QWEN3,
    {
      'head_dim': 8,
      'attention_bias': True,
      'use_sliding_window': True,
      'sliding_window': 7,
      'layer_types': [
        'full_attention',
        'full_attention',
        'sliding_attention',
      ],
    },
  ),
}
# Their config.json is written key by key as transformers writes it.
SAME_CONFIG = tuple(CASES)
CASES |= {
  'gpt2': (GPT2, {}),
  'gpt2_untied': (GPT2, {'n_inner': 40, 'tie_word_embeddings': False}),
  'opt': (OPT, {}),
  'gpt_neox': (GPT_NEOX, {}),
  'gpt_neox_sequential': (
    GPT_NEOX,
    {
      'use_parallel_residual': False,
      'rope_parameters': rope('default', partial_rotary_factor=0.5),
    },
  ),
  'olmo2': (OLMO2, {}),
  # No text is longer than the original context.
  'phi3_longrope': (
    PHI3,
    {
      'pad_token_id': 0,
      'original_max_position_embeddings': 40,
      'rope_parameters': rope(
        'longrope',
        short_factor=[1.0, 1.25, 2.0, 3.5],
        long_factor=[1.5, 4.0, 8.0, 16.0],
      ),
    },
  ),
  'phi3': (PHI3, {'pad_token_id': 0}),
  'phi3_partial': (
    PHI3,
    {
      'pad_token_id': 0,
      'sliding_window': 5,
      'rope_parameters': rope('default', partial_rotary_factor=0.5),
    },
  ),
  'granite': (
    GRANITE,
    {
      'embedding_multiplier': 12.0,
      'attention_multiplier': 0.4,
      'residual_multiplier': 0.22,
      'logits_scaling': 0.5,
    },
  ),
  'smollm3': (SMOLLM3, {'pad_token_id': 0, 'no_rope_layer_interval': 2}),
  'gemma2': (
    GEMMA2,
    {
      'head_dim': 8,
      'query_pre_attn_scalar': 12,
      'sliding_window': 5,
      'attn_logit_softcapping': 5.0,
      'final_logit_softcapping': 3.0,
    },
  ),
  'gemma3': (
    GEMMA3,
    {
      'head_dim': 8,
      'sliding_window': 5,
      'layer_types': [
        'sliding_attention',
        'full_attention',
        'sliding_attention',
      ],
    },
  ),
  'mixtral': (MIXTRAL, {'num_local_experts': 5, 'sliding_window': 7}),
  'qwen2_moe': (
    QWEN2_MOE,
    {**EXPERTS, 'num_experts': 5, 'shared_expert_intermediate_size': 20},
  ),
  'qwen2_moe_window': (
    QWEN2_MOE,
    {
      **EXPERTS,
      'num_experts': 4,
      'shared_expert_intermediate_size': 20,
      'norm_topk_prob': True,
      'qkv_bias': False,
      'use_sliding_window': True,
      'sliding_window': 7,
    },
  ),
  'qwen3_moe': (QWEN3_MOE, {**EXPERTS, 'num_experts': 6, 'head_dim': 12}),
  'qwen3_moe_window': (
    QWEN3_MOE,
    {
      **EXPERTS,
      'num_experts': 4,
      'norm_topk_prob': True,
      'use_sliding_window': True,
      'sliding_window': 7,
    },
  ),
  'mamba': (MAMBA, {}),
  'mamba_biases': (
    MAMBA,
    {
      'use_bias': True,
      'use_conv_bias': False,
      'conv_kernel': 3,
      'time_step_rank': 4,
      'tie_word_embeddings': False,
    },
  ),
  'falcon_h1': (
    FALCON_H1,
    {
      **MIXER,
      'attention_in_multiplier': 0.7,
      'attention_out_multiplier': 1.3,
      'embedding_multiplier': 3.0,
      'key_multiplier': 0.6,
      'lm_head_multiplier': 0.5,
      'mlp_multipliers': [0.8, 1.2],
      'ssm_in_multiplier': 0.9,
      'ssm_multipliers': [0.7, 1.1, 1.2, 0.8, 0.6],
      'ssm_out_multiplier': 1.4,
    },
  ),
  'falcon_h1_norm': (
    FALCON_H1,
    {**MIXER, 'mamba_rms_norm': True, 'projectors_bias': True},
  ),
  'falcon_h1_norm_behind': (
    FALCON_H1,
    {
      **MIXER,
      'mamba_rms_norm': True,
      'mamba_norm_before_gate': False,
      'mamba_proj_bias': True,
    },
  ),
  'mamba2': (MAMBA2, {}),
  'mamba2_one_group': (
    MAMBA2,
    {'n_groups': 1, 'use_bias': True, 'tie_word_embeddings': True},
  ),
}


def random_model(name, *, dtype=torch.float32):
  kind, overrides = CASES[name]
  shape = SHAPES.get(kind, SHAPE)
  config = kind(**{**shape, **overrides}, attn_implementation='eager')
  torch.manual_seed(0)
  model = transformers.AutoModelForCausalLM.from_config(config)
  with torch.no_grad():
    for path, parameter in model.named_parameters():
      noise = torch.randn(parameter.shape)
      if 'norm' in path or 'ln_' in path:
        parameter.copy_(1 + 0.3 * noise)
      else:
        parameter.copy_(0.2 * noise)
  return model.to(dtype).eval()


def their_logits(model, tokens):
  with torch.no_grad():
    return model(torch.from_numpy(tokens).long()).logits.float().numpy()


def our_logits(checkpoint, tokens, **options):
  result = decoder.logits(
    checkpoint.params, jnp.asarray(tokens), config=checkpoint.config, **options
  )
  return np.asarray(result['final'])


@pytest.fixture
def tokens():
  generator = np.random.default_rng(0)
  return generator.integers(0, SHAPE['vocab_size'], (2, LENGTH), np.int32)


@pytest.mark.parametrize('name', CASES)
def test_logits_equal_those_of_transformers(name, tokens, tmp_path):
  model = random_model(name)
  model.save_pretrained(tmp_path)
  checkpoint = huggingface.import_folder(tmp_path)
  theirs = their_logits(model, tokens)
  assert theirs.std() > 0.5  # or a difference could hide
  np.testing.assert_allclose(our_logits(checkpoint, tokens), theirs, atol=1e-4)


@pytest.mark.parametrize('name', CASES)
def test_transformers_loads_what_is_exported(name, tokens, tmp_path):
  model = random_model(name)
  model.save_pretrained(tmp_path / 'theirs')
  checkpoint = huggingface.import_folder(tmp_path / 'theirs')
  huggingface.export_folder(checkpoint, tmp_path / 'ours', shard_bytes=20_000)
  # Without what the model came with, its configuration is written anew.
  bare = Model(checkpoint.config, checkpoint.params)
  huggingface.export_folder(bare, tmp_path / 'bare')
  for kind in ('ours', 'bare'):
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / kind, attn_implementation='eager'
    )
    np.testing.assert_array_equal(
      their_logits(loaded.eval(), tokens), their_logits(model, tokens)
    )


@pytest.mark.parametrize('name', SAME_CONFIG)
def test_config_json_is_written_as_transformers_writes_it(name, tmp_path):
  random_model(name).save_pretrained(tmp_path)
  theirs = json.loads((tmp_path / 'config.json').read_text())
  ours = families.write_config(families.read_config(theirs))
  for key in ('dtype', 'transformers_version'):
    del theirs[key]
  # Where `layer_types` is written, nobody reads the number of full blocks.
  assert ('max_window_layers' in ours) == ('layer_types' in theirs)
  theirs.pop('max_window_layers', None)
  ours.pop('max_window_layers', None)
  their_rope = theirs.pop('rope_parameters')
  our_rope = ours.pop('rope_parameters')
  if their_rope.get('mscale'):
    # The two are folded into the factor that follows from them.
    assert our_rope.pop('attention_factor') > 0
    del their_rope['mscale'], their_rope['mscale_all_dim']
  assert ours == theirs
  # We write out what is left to defaults, which they allow.
  assert their_rope.items() <= our_rope.items()


@pytest.mark.parametrize('name', sorted(CASES.keys() - set(SAME_CONFIG)))
def test_config_json_says_what_transformers_says(name, tmp_path):
  random_model(name).save_pretrained(tmp_path)
  theirs = json.loads((tmp_path / 'config.json').read_text())
  model = families.read_config(theirs)
  ours = families.write_config(model)
  assert families.read_config(ours) == model
  # Other names for the same, or what neither of us reads.
  unread = {
    'activation_function',
    'n_inner',
    'no_rope_layer_interval',
    'pad_token_id',
    'rope_parameters',
  }
  differ = {
    key: (ours[key], value)
    for key, value in theirs.items()
    if key in ours and ours[key] != value and key not in unread
  }
  assert differ == {}


@pytest.mark.parametrize('name', ['llama3', 'qwen3'])
def test_bfloat16_is_read_exactly(name, tokens, tmp_path):
  model = random_model(name, dtype=torch.bfloat16)
  model.save_pretrained(tmp_path)
  checkpoint = huggingface.import_folder(tmp_path)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(checkpoint.params)} == {
    'bfloat16'
  }
  # Both widen the same numbers, so float32 arithmetic agrees as before.
  wide = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, dtype=torch.float32, attn_implementation='eager'
  )
  np.testing.assert_allclose(
    our_logits(checkpoint, tokens), their_logits(wide, tokens), atol=1e-4
  )


def test_the_older_form_of_config_json_means_the_same(tokens, tmp_path):
  model = random_model('llama3')
  model.save_pretrained(tmp_path)
  path = tmp_path / 'config.json'
  values = json.loads(path.read_text())
  rope = values.pop('rope_parameters')
  values['rope_theta'] = rope.pop('rope_theta')
  values['rope_scaling'] = rope
  values['torch_dtype'] = values.pop('dtype')
  path.write_text(json.dumps(values))
  loaded = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, attn_implementation='eager'
  )
  checkpoint = huggingface.import_folder(tmp_path)
  np.testing.assert_allclose(
    our_logits(checkpoint, tokens), their_logits(loaded, tokens), atol=1e-4
  )


@pytest.mark.parametrize(
  'kind',
  [LLAMA, MISTRAL, QWEN2, QWEN3, MIXTRAL, QWEN2_MOE, QWEN3_MOE],
)
def test_absent_keys_mean_what_they_mean_to_transformers(kind):
  sizes = {'num_hidden_layers': 2, 'num_attention_heads': 32}
  bare = {
    'model_type': kind.model_type,
    'vocab_size': 61,
    'hidden_size': 256,
    'intermediate_size': 48,
    **sizes,
  }
  full = json.loads(kind(**bare).to_json_string(use_diff=False))
  # Only the tokens are not taken from defaults: a wrong one ends a text.
  full |= {'bos_token_id': None, 'eos_token_id': None}
  assert families.read_config(bare) == families.read_config(full)
