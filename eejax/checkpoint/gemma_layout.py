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
"""Checkpoints of Llama-like models in the naming of the library gemma.

Names and shapes are gemma's, values are eejax's: norm scales multiply as they
are, where Gemma's own add one, and embeddings are not scaled. So a tree of
this layout is a Llama in other words. A checkpoint of a Gemma model is not: its
architecture differs, and this module does not turn one into the other.

Blocks are `layer_0`, `layer_1`, ...; nested dictionaries, as the library saves
them, and the flat names of the published files are read, nested ones written.

Reference:
  gemma, gm/nn/_modules.py and gm/ckpts/_checkpoint.py.
"""

from collections.abc import Mapping

import numpy as np

from eejax.checkpoint.arrays import Path
from eejax.config import ModelConfig
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.families.tensors import block_key

# A leaf outside the blocks -> its place.
OUTER: Mapping[Path, Path] = {
  ('embedding', 'table'): ('embedder', 'input_embedding'),
  ('final_norm', 'scale'): ('final_norm', 'scale'),
}
# A block's leaf that is one array there, too -> its place.
BLOCK: Mapping[Path, Path] = {
  ('attention_norm', 'scale'): ('pre_attention_norm', 'scale'),
  ('mlp_norm', 'scale'): ('pre_ffw_norm', 'scale'),
  ('attention', 'output', 'kernel'): ('attn', 'attn_vec_einsum', 'w'),
  ('attention', 'query_norm', 'scale'): ('attn', '_query_norm', 'scale'),
  ('attention', 'key_norm', 'scale'): ('attn', '_key_norm', 'scale'),
  ('mlp', 'down', 'kernel'): ('mlp', 'linear'),
}
# Arrays that hold several of ours along their first axis.
_QKV = ('attn', 'qkv_einsum', 'w')
_Q, _KV = ('attn', 'q_einsum', 'w'), ('attn', 'kv_einsum', 'w')
_GATING = ('mlp', 'gating_einsum')
_STACKED = 'stacked_layers'


def from_theirs(
  leaves: Mapping[Path, np.ndarray], config: ModelConfig
) -> dict[Path, np.ndarray]:
  """Return the backbone's leaves by path, blocks apart, of gemma's.

  Raises:
    CheckpointError: an array is missing or has no place in the model.
  """
  check(config)
  left = {_normal(path): leaf for path, leaf in leaves.items()}
  found = {ours: _take(left, theirs) for ours, theirs in OUTER.items()}
  for index in range(config.num_layers):
    name = f'layer_{index}'
    held = {p[1:]: left.pop(p) for p in list(left) if p[0] == name}
    block = _block_from_theirs(held, config)
    for path in held:
      raise _no_place((name, *path))
    for path, leaf in block.items():
      found['blocks', block_key(index), *path] = leaf
  for path in left:
    raise _no_place(path)
  return found


def to_theirs(
  leaves: Mapping[Path, np.ndarray], config: ModelConfig
) -> dict[Path, np.ndarray]:
  """Return gemma's arrays by path of a backbone's leaves."""
  check(config)
  made = {OUTER[p]: np.asarray(leaves[p]) for p in OUTER}
  for index in range(config.num_layers):
    prefix = ('blocks', block_key(index))
    block = {
      path[2:]: np.asarray(leaf)
      for path, leaf in leaves.items()
      if path[:2] == prefix
    }
    for path, leaf in _block_to_theirs(block, config).items():
      made[f'layer_{index}', *path] = leaf
  return made


def check(config: ModelConfig) -> None:
  """Refuse a model that this layout has no names for.

  Raises:
    ArgumentError: it says which part.
  """
  if config.beyond_llama is not None:
    raise ArgumentError(
      'the layout of gemma is known for blocks like those of Llama, and this '
      f'{config.family} model has another {config.beyond_llama}.'
    )
  if not config.tied_head:
    raise ArgumentError(
      'the layout of gemma has no head of its own, only the embedding table; '
      'a model whose head is not tied cannot be written in it.'
    )
  if config.qkv_bias or config.output_bias or config.mlp_bias:
    raise ArgumentError('the layout of gemma has no biases.')


def _normal(path: Path) -> Path:
  """Return a nested path, also for the flat names of published files."""
  parts = tuple('/'.join(path).split('/'))
  if parts[0] == 'transformer':
    parts = parts[1:]
  if parts[0] == _STACKED:
    raise CheckpointError(
      'the checkpoint stacks its layers by kinds of attention; save it with '
      "gemma's own `gm.ckpts.save_params` first."
    )
  return parts[:-1] if parts[1:2] == ('mlp',) and parts[-1] == 'w' else parts


def _block_from_theirs(
  held: dict[Path, np.ndarray], config: ModelConfig
) -> dict[Path, np.ndarray]:
  block = {}
  for ours, theirs in BLOCK.items():
    if config.qk_norm or 'norm' not in ours[1]:
      block[ours] = _take(held, theirs)
  if _QKV in held:
    parts = tuple(held.pop(_QKV))
  else:
    parts = (_take(held, _Q), *_take(held, _KV))
  for name, part in zip(('query', 'key', 'value'), parts, strict=True):
    # [N, D, H] -> [D, N, H]
    block['attention', name, 'kernel'] = np.swapaxes(part, 0, 1)
  gating = _take(held, _GATING)
  if gating.shape[1:] == (config.mlp_dim, config.embed_dim):
    gating = np.swapaxes(gating, 1, 2)
  block['mlp', 'gate', 'kernel'], block['mlp', 'up', 'kernel'] = gating
  return block


def _block_to_theirs(
  block: Mapping[Path, np.ndarray], config: ModelConfig
) -> dict[Path, np.ndarray]:
  made = {BLOCK[path]: leaf for path, leaf in block.items() if path in BLOCK}
  query, key, value = (
    np.swapaxes(block['attention', name, 'kernel'], 0, 1)
    for name in ('query', 'key', 'value')
  )
  if config.num_heads == config.num_kv_heads:
    made[_QKV] = np.stack([query, key, value])
  else:
    made[_Q], made[_KV] = query, np.stack([key, value])
  gate, up = (block['mlp', name, 'kernel'] for name in ('gate', 'up'))
  made[_GATING] = np.swapaxes(np.stack([gate, up]), 1, 2)
  return made


def _take(leaves: dict[Path, np.ndarray], path: Path) -> np.ndarray:
  if path not in leaves:
    raise CheckpointError(
      f'the checkpoint lacks the array {"/".join(path)}, or is of another '
      'model than its configuration says.'
    )
  return leaves.pop(path)


def _no_place(path: Path) -> CheckpointError:
  return CheckpointError(
    f'the array {"/".join(path)} has no place in a Llama of this '
    'configuration; models of Gemma itself cannot be read.'
  )
