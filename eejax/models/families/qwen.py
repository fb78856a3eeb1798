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
"""What Qwen2 and Qwen3 share: full attention below, a window above."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.errors import CheckpointError
from eejax.models.families.family import Fields

KEYS = frozenset(
  {'use_sliding_window', 'sliding_window', 'max_window_layers', 'layer_types'}
)
DEFAULTS = {
  'max_position_embeddings': 32768,
  'num_key_value_heads': 32,
  'rms_norm_eps': 1e-6,
  'sliding_window': 4096,
  'max_window_layers': 28,
}
_FULL, _SLIDING = 'full_attention', 'sliding_attention'


def read_windows(values: Mapping[str, Any]) -> Fields:
  """Return which blocks have a sliding window, and how wide it is.

  `layer_types` decides where a file has it, as in transformers; it must be
  some full blocks followed by sliding ones.

  Raises:
    CheckpointError: the pattern is another one, or it needs a window that
      the file does not state.
  """
  blocks = values['num_hidden_layers']
  window = (
    values['sliding_window'] if values.get('use_sliding_window') else None
  )
  types = values.get('layer_types')
  if types is None:
    full = blocks if window is None else values['max_window_layers']
  else:
    full = _count_full(list(types), blocks)
  if full >= blocks:
    return {'sliding_window': None, 'full_attention_blocks': 0}
  if window is None:
    raise CheckpointError(
      'config.json: layer_types has sliding_attention but use_sliding_window '
      'is off or sliding_window is missing.'
    )
  return {'sliding_window': window, 'full_attention_blocks': full}


def write_windows(config: ModelConfig) -> Fields:
  """Return the keys that `read_windows` reads."""
  blocks = config.num_layers
  window = config.sliding_window
  full = blocks if window is None else config.full_attention_blocks
  return {
    'use_sliding_window': window is not None,
    'sliding_window': window,
    'max_window_layers': full,
    'layer_types': [_FULL if i < full else _SLIDING for i in range(blocks)],
  }


def _count_full(types: list[str], blocks: int) -> int:
  full = types.count(_FULL)
  if types != [_FULL] * full + [_SLIDING] * (blocks - full):
    raise CheckpointError(
      f'config.json: layer_types must name {blocks} blocks, full_attention '
      'ones before sliding_attention ones; other patterns are not supported.'
    )
  return full
