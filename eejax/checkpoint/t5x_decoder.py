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
"""Decoders of t5x with names of their own, as far as eejax has them.

The names are those of t5x's `examples/decoder_only`:

  decoder/token_embedder/embedding                        [V, D]
  decoder/layers_0/pre_self_attention_layer_norm/scale    [D]
  decoder/layers_0/self_attention/{query,key,value}/kernel [D, N*H]
  decoder/layers_0/self_attention/out/kernel              [N*H, D]
  decoder/layers_0/pre_mlp_layer_norm/scale               [D]
  decoder/layers_0/mlp/{wi_0,wi_1}/kernel                 [D, F]
  decoder/layers_0/mlp/wo/kernel                          [F, D]
  decoder/decoder_norm/scale                              [D]
  decoder/logits_dense/kernel                             [D, V]

That example itself adds a bias to the attention by relative position, which
eejax lacks: it is refused, and so is every other array that is not above.
What is read are decoders of these names with rotary positions and an MLP
gated by silu, described by a configuration, for arrays do not say so.

t5x does not divide attention logits by sqrt(H), and divides logits of a tied
head by sqrt(D); both factors go into parameters here, so these numbers are
equal up to rounding, not bit for bit.
"""

import ast
import math
import pathlib
import re
from collections.abc import Iterator, Mapping

import numpy as np

from eejax.checkpoint.arrays import Path
from eejax.config import EarlyExitConfig, ModelConfig
from eejax.errors import ArgumentError, CheckpointError

_ROOT = 'decoder'
_BLOCK = re.compile(r'layers_(\d+)')

_BLOCK_NAMES: dict[Path, Path] = {
  ('pre_self_attention_layer_norm', 'scale'): ('attention_norm', 'scale'),
  ('self_attention', 'query', 'kernel'): ('attention', 'query', 'kernel'),
  ('self_attention', 'key', 'kernel'): ('attention', 'key', 'kernel'),
  ('self_attention', 'value', 'kernel'): ('attention', 'value', 'kernel'),
  ('self_attention', 'out', 'kernel'): ('attention', 'output', 'kernel'),
  ('pre_mlp_layer_norm', 'scale'): ('mlp_norm', 'scale'),
  ('mlp', 'wi_0', 'kernel'): ('mlp', 'gate', 'kernel'),
  ('mlp', 'wi_1', 'kernel'): ('mlp', 'up', 'kernel'),
  ('mlp', 'wo', 'kernel'): ('mlp', 'down', 'kernel'),
}
_OUTER_NAMES: dict[Path, Path] = {
  ('token_embedder', 'embedding'): ('embedding', 'table'),
  ('decoder_norm', 'scale'): ('final_norm', 'scale'),
  ('logits_dense', 'kernel'): ('head', 'kernel'),
}
# Part of a path -> why eejax cannot have it.
_REFUSED = {
  'encoder': 'it is an encoder-decoder, and eejax has decoders alone',
  'encoder_decoder_attention': (
    'it attends to an encoder, and eejax has decoders alone'
  ),
  'relpos_bias': (
    'its attention adds a bias by relative position, and eejax has rotary '
    'positions alone'
  ),
  'relative_posemb': (
    'its attention adds a bias by relative position, and eejax has rotary '
    'positions alone'
  ),
  'position_embedder': (
    'its positions are learned, and eejax has rotary positions alone'
  ),
  'wi': 'its MLP is not gated, and eejax has MLPs gated by silu alone',
}
_SILU = ('silu', 'swish')
_ACTIVATIONS = re.compile(r'mlp_activations\s*=\s*(\([^)]*\)|\[[^\]]*\])')


def convert(
  leaves: Mapping[Path, np.ndarray],
  config: EarlyExitConfig | None,
  *,
  source: pathlib.Path,
) -> tuple[dict[Path, np.ndarray], EarlyExitConfig]:
  """Return the leaves of eejax's tree, blocks stacked, and the model.

  Args:
    leaves: of t5x's `target`, by path.
    config: what the decoder is.
    source: the checkpoint; activations in the `config.gin` of its run are
      looked at, where there is one.

  Raises:
    ArgumentError: nothing says what model it is.
    CheckpointError: eejax has no such model; the array that shows it is
      named.
  """
  _refuse(leaves, source)
  _check_activations(source)
  if config is None:
    raise ArgumentError(
      f'{source} has the names of a t5x decoder, which do not say its heads, '
      'its rotary positions or its activation; describe the model with '
      '--config MODEL.json, a file like those in configs/models.'
    )
  model = config.model
  found: dict[Path, np.ndarray] = {}
  blocks: dict[Path, dict[int, np.ndarray]] = {}
  for at, leaf in leaves.items():
    match = _BLOCK.fullmatch(at[1])
    if match is None:
      found['backbone', *_OUTER_NAMES[at[1:]]] = leaf
    else:
      name = _BLOCK_NAMES[at[2:]]
      blocks.setdefault(name, {})[int(match[1])] = _shaped(name, leaf, model)
  for name, by_block in blocks.items():
    stacked = np.stack(list(_in_order(name, by_block, model, source)))
    found['backbone', 'blocks', *name] = stacked
  return _scaled(found, model), config.with_exits(())


def _refuse(leaves: Mapping[Path, np.ndarray], source: pathlib.Path) -> None:
  for at in sorted(leaves):
    for part in at:
      if part in _REFUSED:
        raise CheckpointError(
          f'{source} cannot be read: {"/".join(at)} shows that '
          f'{_REFUSED[part]}.'
        )
  known = lambda at: (
    at[0] == _ROOT
    and (
      at[1:] in _OUTER_NAMES
      or (_BLOCK.fullmatch(at[1]) is not None and at[2:] in _BLOCK_NAMES)
    )
  )
  for at in sorted(leaves):
    if len(at) < 2 or not known(at):
      raise CheckpointError(
        f'{source} cannot be read: eejax knows no array {"/".join(at)} of a '
        't5x decoder.'
      )


def _check_activations(source: pathlib.Path) -> None:
  """Refuse another activation than silu, where the run says which it has."""
  for folder in (source, *source.absolute().parents[:2]):
    file = folder / 'config.gin'
    if not file.is_file():
      continue
    for text in _ACTIVATIONS.findall(file.read_text(encoding='utf-8')):
      try:
        names = tuple(ast.literal_eval(text))
      except (ValueError, SyntaxError):
        continue
      if len(names) != 2 or names[0] not in _SILU or names[1] != 'linear':
        raise CheckpointError(
          f'{source} cannot be read: {file} has mlp_activations = {text}, and '
          'eejax has MLPs gated by silu alone.'
        )


def _shaped(name: Path, leaf: np.ndarray, config: ModelConfig) -> np.ndarray:
  """Return a leaf with heads apart."""
  heads = {'query': config.num_heads, 'output': config.num_heads}
  if name[0] != 'attention':
    return leaf
  shape = (heads.get(name[1], config.num_kv_heads), config.head_dim)
  if leaf.ndim != 2 or math.prod(shape) not in leaf.shape:
    raise CheckpointError(
      f'{"/".join(name)} has shape {leaf.shape}, which is not {shape[0]} heads '
      f'of {shape[1]}; describe the model as it is.'
    )
  if name[1] == 'output':
    return leaf.reshape(*shape, -1)
  return leaf.reshape(-1, *shape)


def _in_order(
  name: Path,
  by_block: Mapping[int, np.ndarray],
  config: ModelConfig,
  source: pathlib.Path,
) -> Iterator[np.ndarray]:
  for index in range(config.num_layers):
    if index not in by_block:
      raise CheckpointError(
        f'{source} lacks {"/".join(name)} of layers_{index}.'
      )
    yield by_block[index]
  if len(by_block) > config.num_layers:
    raise CheckpointError(
      f'{source} has {len(by_block)} layers, and the configuration '
      f'{config.num_layers}.'
    )


def _scaled(
  found: dict[Path, np.ndarray], config: ModelConfig
) -> dict[Path, np.ndarray]:
  """Return leaves with t5x's factors of logits inside."""

  def times(at: Path, factor: float) -> None:
    if at in found:
      wide = found[at].astype(np.float32) * np.float32(factor)
      found[at] = wide.astype(found[at].dtype)

  query = ('backbone', 'blocks', 'attention', 'query', 'kernel')
  times(query, math.sqrt(config.head_dim))
  if config.tied_head:
    times(('backbone', 'final_norm', 'scale'), 1 / math.sqrt(config.embed_dim))
  return found
