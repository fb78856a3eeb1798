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
"""What model a checkpoint of EE-LLM holds, by the settings of its training."""

import pathlib
from collections.abc import Mapping
from typing import Any

from eejax.checkpoint.ee_llm_shards import positive
from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  ModelConfig,
  OutputMatrix,
  RotaryConfig,
  RotaryScaling,
)
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError, CheckpointError

Args = Mapping[str, Any]

# Settings of Megatron that eejax's Llama-like decoder is made for.
_WANTED = {
  'normalization': 'RMSNorm',
  'swiglu': True,
  'position_embedding_type': 'rope',
}
_REFUSED = (
  'apply_residual_connection_post_layernorm',
  'num_experts',
  'onnx_safe',
  'openai_gelu',
  'retro_add_retriever',
  'standalone_embedding_stage',
)
# Of an exit: whether it has an MLP of its own, a block, a norm.
_HEADS = {
  (False, False, False): ExitHeadKind.EMBEDDING,
  (False, False, True): ExitHeadKind.NORM,
  (True, False, True): ExitHeadKind.MLP,
  (False, True, True): ExitHeadKind.BLOCK,
}
_KEPT = (
  'exit_layer_nums',
  'exit_layer_weight',
  'exit_layer_temperature',
  'padded_vocab_size',
  'pipeline_model_parallel_size',
  'pre_exit',
  'seq_length',
  'tensor_model_parallel_size',
)


def read_config(
  args: Args,
  *,
  vocabulary: ModelConfig | None = None,
  tokenizer: pathlib.Path | None = None,
) -> EarlyExitConfig:
  """Return the model with its exits.

  Megatron pads the vocabulary. How many tokens there are is said by a model
  with the same ones, else by the settings, else by a tokenizer; where nothing
  says so, all rows are kept.

  Args:
    args: settings of the training.
    vocabulary: a model with the same tokens.
    tokenizer: folder of the tokenizer.

  Raises:
    CheckpointError: a setting is missing or out of range, or eejax has no
      such model or exit.
    ArgumentError: the vocabulary is larger than the model's.
  """
  _check_supported(args)
  tokens = _tokens(args, vocabulary, tokenizer)
  heads = positive(args, 'num_attention_heads')
  width = positive(args, 'hidden_size')
  has_bias = bool(args.get('add_bias_linear'))
  try:
    model = ModelConfig(
      **tokens,
      num_layers=positive(args, 'num_layers'),
      embed_dim=width,
      num_heads=heads,
      num_kv_heads=_kv_heads(args, heads),
      head_dim=args.get('kv_channels') or width // heads,
      mlp_dim=positive(args, 'ffn_hidden_size'),
      max_length=positive(args, 'max_position_embeddings'),
      norm_epsilon=float(args.get('norm_epsilon', 1e-5)),
      rotary=_rotary(args),
      qkv_bias=has_bias,
      output_bias=has_bias,
      mlp_bias=has_bias,
      tied_head=not args.get('untie_embeddings_and_output_weights'),
    )
    return EarlyExitConfig(model, tuple(_exits(args)))
  except ArgumentError as error:
    raise CheckpointError(f'the args of the checkpoint: {error}') from error


def _tokens(
  args: Args, vocabulary: ModelConfig | None, tokenizer: pathlib.Path | None
) -> dict[str, Any]:
  """Return the fields of the model that say which tokens there are."""
  padded = positive(args, 'padded_vocab_size')
  found: dict[str, Any] = {'vocab_size': args.get('vocab_size') or padded}
  if vocabulary is not None:
    found = {
      'vocab_size': vocabulary.vocab_size,
      'bos_id': vocabulary.bos_id,
      'eos_ids': vocabulary.eos_ids,
    }
  elif tokenizer is not None and (tokenizer / 'tokenizer.json').is_file():
    read = Tokenizer.load(tokenizer)
    size = args.get('vocab_size') or read.vocab_size
    found = {'vocab_size': size, 'bos_id': read.bos_id, 'eos_ids': read.eos_ids}
  if found['vocab_size'] > padded:
    raise ArgumentError(
      f'the vocabulary has {found["vocab_size"]} tokens and the checkpoint '
      f'rows for {padded}; name the tokenizer that the model was trained with.'
    )
  return found


def kept_settings(args: Args) -> dict[str, Any]:
  """Return the settings that a checkpoint of eejax keeps of its origin."""
  return {name: args[name] for name in _KEPT if name in args}


def _check_supported(args: Args) -> None:
  if args.get('use_rotary_position_embeddings'):
    args = {**args, 'position_embedding_type': 'rope'}
  for name, wanted in _WANTED.items():
    if args.get(name) != wanted:
      raise CheckpointError(
        f'the checkpoint was trained with {name} {args.get(name)!r:.40}; '
        f'models with {wanted!r} alone are read.'
      )
  if args.get('rotary_percent', 1.0) != 1.0:
    raise CheckpointError(
      f'the checkpoint was trained with rotary_percent '
      f'{args["rotary_percent"]!r:.40}; models whose whole heads are rotated '
      'alone are read.'
    )
  for name in _REFUSED:
    if args.get(name):
      raise CheckpointError(
        f'the checkpoint was trained with {name}, which is not supported.'
      )


def _kv_heads(args: Args, heads: int) -> int:
  # Megatron keeps a number of groups that it does not look at.
  if not args.get('group_query_attention'):
    return heads
  return positive(args, 'num_query_groups')


def _rotary(args: Args) -> RotaryConfig:
  factor = args.get('rotary_seq_len_interpolation_factor')
  if not factor:
    return RotaryConfig()
  return RotaryConfig(scaling=RotaryScaling.LINEAR, factor=float(factor))


def _exits(args: Args) -> list[ExitConfig]:
  numbers = args.get('exit_layer_nums') or []
  if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
    raise CheckpointError(
      'exit_layer_nums in the args must be a list of layers.'
    )
  if not numbers:
    return []
  parts = tuple(
    bool(args.get(f'use_exit_{part}')) for part in ('mlp', 'block', 'norm')
  )
  if parts not in _HEADS:
    names = [
      part
      for part, is_there in zip(('MLP', 'block', 'norm'), parts, strict=True)
      if is_there
    ]
    raise CheckpointError(
      f'exits of the checkpoint have a {" and a ".join(names)}; read are those '
      'of a norm, of an MLP or a block with a norm, and of none of them.'
    )
  output = OutputMatrix.TIED_EMBEDDING
  if args.get('untie_exit_output_weights'):
    output = OutputMatrix.UNTIED
  return [ExitConfig(depth_of(args, n), _HEADS[parts], output) for n in numbers]


def depth_of(args: Args, layer: int) -> int:
  """Return the depth of the exit of a layer, which are counted from 1.

  It reads what comes out of the layer, or what goes into it.
  """
  return layer - 1 if args.get('pre_exit') else layer
