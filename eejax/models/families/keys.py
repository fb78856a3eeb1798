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
"""Say which keys of a `config.json` are understood, and refuse the others.

A key that transformers reads and this project does not would give a model that
runs and is wrong, so nothing is passed over in silence: a key is read, or known
to change no logits, or holds the value that means "off", or the file is
refused with the key's name.
"""

from collections.abc import Mapping
from typing import Any

from eejax.errors import CheckpointError

# Read for every family, here or in `rotary`.
READ = frozenset(
  {
    'architectures',
    'bos_token_id',
    'eos_token_id',
    'head_dim',
    'hidden_act',
    'hidden_size',
    'intermediate_size',
    'max_position_embeddings',
    'model_type',
    'num_attention_heads',
    'num_hidden_layers',
    'num_key_value_heads',
    'original_max_position_embeddings',
    'rms_norm_eps',
    'rope_parameters',
    'rope_scaling',
    'rope_theta',
    'tie_word_embeddings',
    'vocab_size',
  }
)

# Facts of training, of text generation and of file keeping: no logits change.
_HARMLESS = frozenset(
  {
    'attention_dropout',
    'attn_implementation',
    'attn_pdrop',
    'begin_suppress_tokens',
    'cache_implementation',
    'classifier_dropout',
    'dropout',
    'dtype',
    'embd_pdrop',
    'finetuning_task',
    'hidden_dropout',
    'id2label',
    'init_std',
    'initializer_range',
    'label2id',
    'layerdrop',
    'max_sequence_length',
    'model_max_length',
    'name_or_path',
    'output_attentions',
    'output_hidden_states',
    'output_router_logits',
    'pretraining_tp',
    'problem_type',
    'resid_pdrop',
    'return_dict',
    'router_jitter_noise',
    'task_specific_params',
    'tokenizer_class',
    'torch_dtype',
    'transformers_version',
    'use_cache',
  }
)
# What transformers 4 wrote into every config.json besides the model's own.
_GENERATION = frozenset(
  {
    'bad_words_ids',
    'chunk_size_feed_forward',
    'diversity_penalty',
    'do_sample',
    'early_stopping',
    'encoder_no_repeat_ngram_size',
    'exponential_decay_length_penalty',
    'forced_bos_token_id',
    'forced_eos_token_id',
    'is_decoder',
    'length_penalty',
    'max_length',
    'max_new_tokens',
    'min_length',
    'no_repeat_ngram_size',
    'num_beam_groups',
    'num_beams',
    'num_return_sequences',
    'output_scores',
    'prefix',
    'remove_invalid_values',
    'repetition_penalty',
    'return_dict_in_generate',
    'suppress_tokens',
    'temperature',
    'tf_legacy_loss',
    'top_k',
    'top_p',
    'torchscript',
    'typical_p',
    'use_bfloat16',
  }
)
# Values that mean "off" for keys that are otherwise refused.
_OFF: dict[str, tuple[Any, ...]] = {
  'partial_rotary_factor': (1, 1.0),
  'rotary_pct': (1, 1.0),
  'logit_scale': (1, 1.0),
  'logits_scaling': (1, 1.0),
  'embedding_multiplier': (1, 1.0),
  'residual_multiplier': (1, 1.0),
}


def check_keys(values: Mapping[str, Any], *, read: frozenset[str]) -> None:
  """Refuse a configuration that says something this project does not do.

  Args:
    values: the parsed `config.json`.
    read: the keys that the family reads.

  Raises:
    CheckpointError: a key is neither read nor harmless nor off; it is named.
  """
  for key, value in values.items():
    if key == 'auto_map' and value:
      raise CheckpointError(
        'config.json names code of its own (auto_map), and no code of a model '
        'is ever run; convert the model with the library that knows it.'
      )
    if not (key in read or is_harmless(key) or _is_off(key, value)):
      raise CheckpointError(
        f'config.json: {key!r} ({_short(value)}) is not supported; if it '
        'changes nothing in the model, remove it from config.json.'
      )


def is_harmless(key: str) -> bool:
  """Return whether a key changes no logits, whatever its value."""
  return (
    key in _HARMLESS
    or key in _GENERATION
    or key.startswith(('_', 'summary_', 'unsloth'))
    or key.endswith('_token_id')
  )


def _is_off(key: str, value: Any) -> bool:
  empty = value is None or value is False or value in ({}, [], '')
  return empty or value in _OFF.get(key, ())


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + '...'
