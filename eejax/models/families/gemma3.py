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
"""Gemma 3 (text): norms on heads, five blocks in six with a window."""

from collections.abc import Mapping
from typing import Any

from eejax.config import ModelConfig
from eejax.models.families import gemma
from eejax.models.families.family import Family, Fields
from eejax.models.families.rotary import read_rotary, write_rotary

_WINDOW_ROPE = 'window_rope_parameters'
_EVERY = 6


def _standard(values: Fields) -> Fields:
  """Part the two rotations, which transformers 5 keeps by kind of block."""
  rope = values.get('rope_parameters') or {}
  if gemma.FULL in rope or gemma.SLIDING in rope:
    values['rope_parameters'] = rope.get(gemma.FULL) or {}
    values[_WINDOW_ROPE] = rope.get(gemma.SLIDING) or {}
  else:
    base = values.get('rope_local_base_freq', 10_000.0)
    values[_WINDOW_ROPE] = {'rope_type': 'default', 'rope_theta': base}
  values.setdefault('rope_theta', 1_000_000.0)
  return values


def _read(values: Mapping[str, Any]) -> Fields:
  every = values.get('sliding_window_pattern') or values.get(
    '_sliding_window_pattern', _EVERY
  )
  in_windows = {
    'rope_parameters': values[_WINDOW_ROPE],
    'max_position_embeddings': values['max_position_embeddings'],
  }
  return {
    **gemma.read(values, every=every),
    'window_rotary': read_rotary(in_windows),
  }


def _write(config: ModelConfig) -> Fields:
  return {
    **gemma.write(config),
    'rope_parameters': {
      gemma.FULL: write_rotary(config.rotary),
      gemma.SLIDING: write_rotary(config.window_rotary or config.rotary),
    },
  }


GEMMA3 = Family(
  model_type='gemma3_text',
  architecture='Gemma3ForCausalLM',
  defaults={**gemma.DEFAULTS, 'max_position_embeddings': 131072},
  own_keys=gemma.KEYS
  | {
    'rope_local_base_freq',
    'sliding_window_pattern',
    '_sliding_window_pattern',
  },
  read=_read,
  write=_write,
  names=gemma.NAMES,
  renamed=gemma.RENAMED,
  fixed={**gemma.FIXED, 'qk_norm': True},
  standard=_standard,
  tied_head=True,
)
