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
"""Between the metadata of a GGUF file and a `config.json`."""

from typing import Any

import numpy as np

from eejax.checkpoint import gguf_rotary
from eejax.checkpoint.gguf_architecture import Architecture
from eejax.checkpoint.gguf_file import GGUFFile
from eejax.config import ModelConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import families

_TABLE, _HEAD = 'token_embd.weight', 'output.weight'
_FLOATS = (
  *('rms_norm_eps', 'layer_norm_epsilon', 'rope_theta', 'rope_local_base_freq'),
  *('attn_logit_softcapping', 'final_logit_softcapping'),
)
# What is read elsewhere, or says nothing about the logits.
_KNOWN = frozenset(
  {
    'attention.causal',
    'attention.value_length',
    'rope.dimension_count',
    'tensor_data_layout',
    'vocab_size',
  }
)


def read_config(file: GGUFFile, architecture: Architecture) -> dict[str, Any]:
  """Return the `config.json` of the folder that a file was converted from.

  Raises:
    CheckpointError: a key is missing, unknown, or of another type.
  """
  prefix = architecture.name
  _check_keys(file, architecture)
  values: dict[str, Any] = {
    'architectures': [architecture.class_name],
    'model_type': architecture.model_type,
    **architecture.fixed,
  }
  for ours, theirs in architecture.keys.items():
    kind = float if ours in _FLOATS else int
    value: Any = file.get(f'{prefix}.{theirs}', kind)
    if value is not None:
      values[ours] = value
  if _TABLE not in file.tensors:
    raise CheckpointError(f'{file.path} lacks the tensor {_TABLE}.')
  values['vocab_size'] = file.tensors[_TABLE].shape[0]
  values['tie_word_embeddings'] = not has_head(file, architecture)
  for key, module in architecture.biases.items():
    values[key] = f'blk.0.{module}.bias' in file.tensors
  values.update(_tokens(file))
  if architecture.complete is not None:
    keys = {
      key.removeprefix(f'{prefix}.'): value
      for key, value in file.metadata.items()
    }
    architecture.complete(values, keys)
  _check_heads(file, prefix, values)
  scaling = gguf_rotary.read_scaling(file, prefix, values)
  if scaling is not None:
    values['rope_scaling'] = scaling
  return values


def write_config(
  config: ModelConfig, architecture: Architecture
) -> dict[str, Any]:
  """Return the metadata of a model, by key.

  Raises:
    ArgumentError: llama.cpp has no name for a part of the model.
  """
  if config.sliding_window is not None and (
    'sliding_window' not in architecture.keys
  ):
    raise ArgumentError(
      f'GGUF files of {architecture.name!r} have no sliding window; set '
      'sliding_window to None if no text is longer than it.'
    )
  prefix = architecture.name
  values = families.write_config(config)
  values['rope_theta'] = config.rotary.theta
  values['head_dim'] = config.head_dim
  if config.state_space is not None:
    values['intermediate_size'] = config.state_space.inner_dim
  if config.window_rotary is not None:
    values['rope_local_base_freq'] = config.window_rotary.theta
  metadata = {
    f'{prefix}.{theirs}': values[ours]
    for ours, theirs in architecture.keys.items()
    if values.get(ours) is not None
  }
  metadata |= {f'{prefix}.{k}': v for k, v in architecture.written.items()}
  if 'head_dim' in architecture.keys:
    rotated = round(config.head_dim * config.rotary.fraction)
    metadata[f'{prefix}.attention.value_length'] = config.head_dim
    metadata[f'{prefix}.rope.dimension_count'] = rotated
  metadata[f'{prefix}.vocab_size'] = config.vocab_size
  metadata.update(
    gguf_rotary.write_scaling(config.rotary, prefix, head_dim=config.head_dim)
  )
  return metadata


def has_head(file: GGUFFile, architecture: Architecture) -> bool:
  """Return whether a file has a head that is not its table again."""
  if _HEAD not in file.tensors:
    return False
  head, table = file.tensors[_HEAD], file.tensors[_TABLE]
  if not architecture.stores_tied_head or head.shape != table.shape:
    return True
  return not np.array_equal(head.read(), table.read())


def _check_keys(file: GGUFFile, architecture: Architecture) -> None:
  """Refuse what changes the model and is not read."""
  prefix = f'{architecture.name}.'
  read = {*architecture.keys.values(), *_KNOWN}
  for key, value in file.metadata.items():
    if not key.startswith(prefix):
      continue
    name = key.removeprefix(prefix)
    is_off = not value
    if not (name in read or is_off or name.startswith(gguf_rotary.PREFIX)):
      raise CheckpointError(
        f'{file.path}: the key {key} ({value!r:.60}) is not supported.'
      )


def _tokens(file: GGUFFile) -> dict[str, Any]:
  """Return the ids of the tokens that start and end a text."""
  key = 'tokenizer.ggml.{}_token_id'
  ends = [file.get(key.format(n), int) for n in ('eos', 'eot', 'eom')]
  ids = list(dict.fromkeys(i for i in ends if i is not None))
  return {
    'bos_token_id': file.get(key.format('bos'), int),
    'eos_token_id': ids[0] if len(ids) == 1 else ids or None,
  }


def _check_heads(file: GGUFFile, prefix: str, values: dict[str, Any]) -> None:
  heads, width = values.get('num_attention_heads'), values.get('hidden_size')
  if not heads or not width:
    return  # Told by the family's reader.
  head_dim = values.get('head_dim') or width // heads
  parts = ['attention.value_length', 'rope.dimension_count']
  if 'partial_rotary_factor' in values:
    parts.pop()
  for name in parts:
    stated = file.get(f'{prefix}.{name}', int)
    if stated not in (None, head_dim):
      raise CheckpointError(
        f'{file.path}: {prefix}.{name} is {stated}, and the heads are '
        f'{head_dim} wide; such a model is not supported.'
      )
