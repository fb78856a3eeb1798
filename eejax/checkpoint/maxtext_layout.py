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
"""Checkpoints in the layout of MaxText: its names, and what it does to values.

MaxText stacks the blocks along the second axis of every array (its
`param_scan_axis` is 1), or keeps them apart as `layers_0`, `layers_1`; both are
read, stacks are written. Two of its conventions change values:

  the query kernel is divided by the root of the head's width, which other
  code does to the product, in Llama's and Mistral's blocks;
  under Llama 3's rotary scaling the halves of a head that are rotated
  together lie beside each other in query and key kernels.

Reference:
  MaxText, checkpoint_conversion and layers/attentions.py.
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from eejax.checkpoint.arrays import Path
from eejax.config import ModelConfig, RotaryScaling
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.families.tensors import tensors

# A block's leaf -> its place in a block of MaxText.
BLOCK: Mapping[Path, Path] = {
  ('attention_norm', 'scale'): ('pre_self_attention_layer_norm', 'scale'),
  ('mlp_norm', 'scale'): ('post_self_attention_layer_norm', 'scale'),
  ('attention', 'query', 'kernel'): ('self_attention', 'query', 'kernel'),
  ('attention', 'key', 'kernel'): ('self_attention', 'key', 'kernel'),
  ('attention', 'value', 'kernel'): ('self_attention', 'value', 'kernel'),
  ('attention', 'output', 'kernel'): ('self_attention', 'out', 'kernel'),
  ('attention', 'query', 'bias'): ('self_attention', 'query', 'bias'),
  ('attention', 'key', 'bias'): ('self_attention', 'key', 'bias'),
  ('attention', 'value', 'bias'): ('self_attention', 'value', 'bias'),
  ('attention', 'query_norm', 'scale'): (
    'self_attention',
    'query_norm',
    'scale',
  ),
  ('attention', 'key_norm', 'scale'): ('self_attention', 'key_norm', 'scale'),
  ('mlp', 'gate', 'kernel'): ('mlp', 'wi_0', 'kernel'),
  ('mlp', 'up', 'kernel'): ('mlp', 'wi_1', 'kernel'),
  ('mlp', 'down', 'kernel'): ('mlp', 'wo', 'kernel'),
}
# A leaf outside the blocks -> its place.
OUTER: Mapping[Path, Path] = {
  ('embedding', 'table'): ('token_embedder', 'embedding'),
  ('final_norm', 'scale'): ('decoder', 'decoder_norm', 'scale'),
  ('head', 'kernel'): ('decoder', 'logits_dense', 'kernel'),
}
_SCAN_AXIS = 1
_STACK = ('decoder', 'layers')
_QUERY = ('attention', 'query')
_ROTATED = (_QUERY, ('attention', 'key'))
# Families whose blocks in MaxText fold the scale into the query kernel.
_SCALED = ('llama', 'mistral')
_DECODERS = {'llama': 'llama2', 'mistral': 'mistral'}


def from_theirs(
  leaves: Mapping[Path, np.ndarray], config: ModelConfig
) -> dict[Path, np.ndarray]:
  """Return the backbone's leaves by path, blocks apart, of MaxText's.

  Args:
    leaves: arrays by path inside the collection `params`.
    config: the model.

  Raises:
    CheckpointError: an array is missing or has no place in the model.
  """
  check(config)
  found, left = {}, dict(leaves)
  for tensor in tensors(config):
    path = tensor.path
    if path[0] != 'blocks':
      found[path] = _take(left, OUTER[path])
      continue
    index, theirs = int(path[1]), BLOCK[path[2:]]
    apart = ('decoder', f'layers_{index}', *theirs)
    if apart in left:
      leaf = left.pop(apart)
    else:
      stack = _stack_of(leaves, theirs, config)
      leaf = np.take(stack, index, axis=_SCAN_AXIS)
      left.pop((*_STACK, *theirs), None)
    found[path] = _restored(leaf, path[2:], config)
  for path in left:
    raise CheckpointError(
      f'the array {"/".join(path)} has no place in a {config.family} model of '
      'this configuration.'
    )
  # A table may be padded so that it divides by the devices.
  table = found['embedding', 'table']
  found['embedding', 'table'] = table[: config.vocab_size]
  return found


def to_theirs(
  leaves: Mapping[Path, np.ndarray], config: ModelConfig
) -> dict[Path, np.ndarray]:
  """Return MaxText's arrays by path, blocks stacked, of a backbone's leaves."""
  check(config)
  made: dict[Path, np.ndarray] = {}
  stacks: dict[Path, list[np.ndarray]] = {}
  for path, leaf in leaves.items():
    if path[0] == 'blocks':
      held = stacks.setdefault((*_STACK, *BLOCK[path[2:]]), [])
      held.append(_changed(np.asarray(leaf), path[2:], config))
    else:
      made[OUTER[path]] = np.asarray(leaf)
  for place, held in stacks.items():
    made[place] = np.stack(held, axis=_SCAN_AXIS)
  return made


def settings(config: ModelConfig) -> dict[str, object]:
  """Return the settings of MaxText that describe the model, for its YAML."""
  check(config)
  rotary = config.rotary
  is_llama3 = rotary.scaling is RotaryScaling.LLAMA3
  found: dict[str, object] = {
    'decoder_block': _DECODERS.get(config.family, config.family),
    'base_emb_dim': config.embed_dim,
    'base_num_query_heads': config.num_heads,
    'base_num_kv_heads': config.num_kv_heads,
    'base_num_decoder_layers': config.num_layers,
    'base_mlp_dim': config.mlp_dim,
    'head_dim': config.head_dim,
    'vocab_size': config.vocab_size,
    'mlp_activations': ['silu', 'linear'],
    'normalization_layer_epsilon': config.norm_epsilon,
    'rope_type': 'llama3.1' if is_llama3 else 'default',
    'rope_max_timescale': int(rotary.theta),
    'logits_via_embedding': config.tied_head,
    'normalize_embedding_logits': False,
    'enable_dropout': False,
    'scan_layers': True,
    'param_scan_axis': _SCAN_AXIS,
  }
  if rotary.scaling is RotaryScaling.LINEAR:
    found['rope_linear_scaling_factor'] = rotary.factor
  if config.qkv_bias:
    found['attention_bias'] = True
  if config.qk_norm:
    found['use_qk_norm'] = True
  return found


def check(config: ModelConfig) -> None:
  """Refuse a model that MaxText's blocks cannot hold.

  Raises:
    ArgumentError: it says which part.
  """
  if config.beyond_llama is not None:
    raise ArgumentError(
      'the layout of MaxText is known for blocks like those of Llama, and this '
      f'{config.family} model has another {config.beyond_llama}.'
    )
  if config.output_bias or config.mlp_bias:
    raise ArgumentError(
      'MaxText has no biases in the output projection and the MLP of a block; '
      'the model cannot be written in its layout.'
    )
  if config.qkv_bias and config.family != 'qwen2':
    raise ArgumentError(
      f"MaxText's {config.family} blocks have no biases; only Qwen2's have."
    )
  known = (RotaryScaling.NONE, RotaryScaling.LINEAR, RotaryScaling.LLAMA3)
  if config.rotary.scaling not in known:
    raise ArgumentError(
      f'the order of rotated halves under {config.rotary.scaling.value} '
      'rotary scaling is not known of MaxText; eejax maps its layout without '
      'scaling, with linear scaling and with that of Llama 3.'
    )


def _take(leaves: dict[Path, np.ndarray], path: Path) -> np.ndarray:
  if path not in leaves:
    raise CheckpointError(
      f'the checkpoint lacks the array {"/".join(path)}, or is of another '
      'model than its configuration says.'
    )
  return leaves.pop(path)


def _stack_of(
  leaves: Mapping[Path, np.ndarray], theirs: Path, config: ModelConfig
) -> np.ndarray:
  stack = _take(dict(leaves), (*_STACK, *theirs))
  held = stack.shape[_SCAN_AXIS] if stack.ndim > _SCAN_AXIS else 0
  if held != config.num_layers:
    raise CheckpointError(
      f'the array {"/".join((*_STACK, *theirs))} of shape {stack.shape} should '
      f'have {config.num_layers} blocks along its second axis.'
    )
  return stack


def _changed(leaf: np.ndarray, path: Path, config: ModelConfig) -> np.ndarray:
  """Return a block's leaf with the values of MaxText."""
  if path[:2] in _ROTATED and _is_interleaved(config):
    halves = leaf.reshape(*leaf.shape[:-1], 2, leaf.shape[-1] // 2)
    leaf = np.swapaxes(halves, -1, -2).reshape(leaf.shape)
  if path[:2] == _QUERY and config.family in _SCALED:
    leaf = _scaled(leaf, 1 / np.sqrt(config.head_dim))
  return leaf


def _restored(leaf: np.ndarray, path: Path, config: ModelConfig) -> np.ndarray:
  """Return a block's leaf with our values."""
  if path[:2] == _QUERY and config.family in _SCALED:
    leaf = _scaled(leaf, np.sqrt(config.head_dim))
  if path[:2] in _ROTATED and _is_interleaved(config):
    pairs = leaf.reshape(*leaf.shape[:-1], leaf.shape[-1] // 2, 2)
    leaf = np.swapaxes(pairs, -1, -2).reshape(leaf.shape)
  return leaf


def _is_interleaved(config: ModelConfig) -> bool:
  return config.rotary.scaling is RotaryScaling.LLAMA3


def _scaled(leaf: np.ndarray, factor: float) -> np.ndarray:
  # In float32, as MaxText does it; exact where the width is a power of four.
  narrow = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
  wide = leaf.astype(np.float32) if leaf.dtype in narrow else leaf
  return (wide * wide.dtype.type(factor)).astype(leaf.dtype)
