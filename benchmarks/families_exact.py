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
"""Families against transformers, and their lossless decoding.

families_exact: over every architecture, a random model of which transformers
and eejax generate greedily from prompts of four lengths, eejax in one batch.
The figure is the largest difference of a log-probability, infinity where a
token differs.

families_lossless: how many architectures have a text that speculative decoding
changes, in batches of one and four, with drafts of which some fail.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import figures
import numpy as np
import torch
import transformers

import eejax
from eejax.decoding.policy.policy import Mode

NEW_TOKENS = 12
VOCABULARY = 61
LENGTHS = (1, 4, 9, 17)
DRAFTS = eejax.Policy(
  mode=Mode.SPECULATIVE, thresholds=(0.0,), draft_depth=2, draft_length=3
)

_COMMON = {
  'vocab_size': VOCABULARY,
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_hidden_layers': 4,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 64,
  'pad_token_id': 0,
  'bos_token_id': 1,
  'eos_token_id': None,
}
_ALL_HEADS = {k: v for k, v in _COMMON.items() if 'key_value' not in k}
_NO_HEADS = {
  name: _COMMON[name]
  for name in (
    'vocab_size',
    'hidden_size',
    'num_hidden_layers',
    'pad_token_id',
    'bos_token_id',
    'eos_token_id',
  )
}
_HALF_ROTATED = {
  'rope_parameters': {
    'rope_type': 'default',
    'rope_theta': 10_000.0,
    'partial_rotary_factor': 0.5,
  }
}
_GEMMA = {'head_dim': 8, 'sliding_window': 5, 'query_pre_attn_scalar': 12}
_EXPERTS = {
  'num_experts': 5,
  'num_experts_per_tok': 2,
  'moe_intermediate_size': 24,
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
  'llama': ('LlamaConfig', _COMMON),
  'mistral': ('MistralConfig', {**_COMMON, 'sliding_window': 5}),
  'qwen2': ('Qwen2Config', _COMMON),
  'qwen3': ('Qwen3Config', {**_COMMON, 'head_dim': 12}),
  'phi3': ('Phi3Config', {**_COMMON, **_HALF_ROTATED}),
  'smollm3': ('SmolLM3Config', {**_COMMON, 'no_rope_layer_interval': 2}),
  'granite': (
    'GraniteConfig',
    {
      **_COMMON,
      'embedding_multiplier': 12.0,
      'attention_multiplier': 0.4,
      'residual_multiplier': 0.22,
      'logits_scaling': 0.5,
    },
  ),
  'olmo2': ('Olmo2Config', _COMMON),
  'gpt2': (
    'GPT2Config',
    {
      'vocab_size': VOCABULARY,
      'n_embd': 32,
      'n_layer': 4,
      'n_head': 4,
      'n_positions': 64,
      'bos_token_id': 1,
      'eos_token_id': None,
    },
  ),
  'opt': (
    'OPTConfig',
    {
      **{k: v for k, v in _ALL_HEADS.items() if k != 'intermediate_size'},
      'ffn_dim': 48,
      'word_embed_proj_dim': 32,
    },
  ),
  'gpt_neox': ('GPTNeoXConfig', _ALL_HEADS),
  'gemma2': (
    'Gemma2Config',
    {
      **_COMMON,
      **_GEMMA,
      'attn_logit_softcapping': 5.0,
      'final_logit_softcapping': 9.0,
    },
  ),
  'gemma3': ('Gemma3TextConfig', {**_COMMON, **_GEMMA}),
  'falcon_h1': (
    'FalconH1Config',
    {
      **_COMMON,
      'mamba_d_ssm': 48,
      'mamba_n_heads': 6,
      'mamba_d_head': 8,
      'mamba_d_state': 5,
      'mamba_n_groups': 2,
      'mamba_chunk_size': 16,
      'mlp_multipliers': [0.8, 1.2],
      'ssm_multipliers': [0.7, 1.1, 1.2, 0.8, 0.6],
      'key_multiplier': 0.6,
    },
  ),
  'mamba': ('MambaConfig', {**_NO_HEADS, 'state_size': 5}),
  'mamba2': (
    'Mamba2Config',
    {
      **_NO_HEADS,
      'state_size': 6,
      'num_heads': 8,
      'head_dim': 8,
      'n_groups': 2,
      'chunk_size': 16,
    },
  ),
  'mixtral': ('MixtralConfig', {**_COMMON, 'num_local_experts': 5}),
  'qwen2_moe': (
    'Qwen2MoeConfig',
    {**_COMMON, **_EXPERTS, 'shared_expert_intermediate_size': 20},
  ),
  'qwen3_moe': ('Qwen3MoeConfig', {**_COMMON, **_EXPERTS, 'head_dim': 12}),
}


def families_exact(args: argparse.Namespace) -> figures.Figure:
  """Largest difference of a log-probability from transformers'."""
  errors = {}
  for name, theirs, model in _models():
    prompts = _prompts()
    rows = eejax.generate(model, prompts, max_new_tokens=NEW_TOKENS).rows
    errors[name] = max(
      _error(theirs, prompt, row)
      for prompt, row in zip(prompts, rows, strict=True)
    )
    print(f'  {name}: {errors[name]:.1e}', flush=True, file=sys.stderr)
  return max(errors.values()), {'errors': errors}


def families_lossless(args: argparse.Namespace) -> figures.Figure:
  """How many architectures have a text that speculative decoding changes."""
  detail = {}
  for name, _, model in _models():
    second = 'mlp' if model.config.model.has_mlp else 'norm'
    model = eejax.add_exits(model, f'1:norm,2:{second}')
    changed = drafted = accepted = 0
    for prompts in (_prompts()[:1], _prompts()):
      options = {'max_new_tokens': NEW_TOKENS}
      full = eejax.generate(model, prompts, **options)
      found = eejax.generate(
        model,
        prompts,
        policy=DRAFTS,
        **options,
      )
      pairs = zip(full.rows, found.rows, strict=True)
      changed += sum(a.tokens != b.tokens for a, b in pairs)
      drafted += found.accounting.drafted
      accepted += found.accounting.accepted
    detail[name] = {
      'changed': changed,
      'drafted': drafted,
      'accepted': accepted,
    }
  wrong = [n for n, d in detail.items() if d['changed'] or not d['drafted']]
  return len(wrong), detail


def _models() -> Iterator[tuple[str, Any, eejax.Model]]:
  """Yield a random model of every architecture, theirs and ours."""
  for name, (kind, shape) in ARCHITECTURES.items():
    config = getattr(transformers, kind)(**shape)
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(
      config, attn_implementation='eager'
    )
    with torch.no_grad():
      for path, parameter in theirs.named_parameters():
        noise = torch.randn(parameter.shape)
        is_norm = 'norm' in path or 'ln_' in path
        parameter.copy_(1 + 0.3 * noise if is_norm else 0.2 * noise)
    with tempfile.TemporaryDirectory() as folder:
      theirs.eval().save_pretrained(folder)
      yield name, theirs, eejax.import_folder(folder)


def _prompts() -> list[list[int]]:
  draw = np.random.default_rng(0)
  return [draw.integers(3, VOCABULARY, n).tolist() for n in LENGTHS]


def _error(theirs: Any, prompt: Sequence[int], row: Any) -> float:
  """Return how far a greedy text is from what transformers says of it."""
  tokens = [*prompt, *row.tokens]
  with torch.no_grad():
    logits = theirs(torch.tensor([tokens])).logits[0].float()
  log_probs = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
  if log_probs.argmax(-1).tolist() != list(row.tokens):
    return math.inf
  chosen = log_probs[range(len(row.tokens)), list(row.tokens)]
  return float(np.abs(chosen.numpy() - np.array(row.logprobs)).max())
