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
"""Rotary scaling in GGUF files.

Linear and YaRN scaling are keys. Llama 3's rule is none: its frequencies'
divisors are a tensor, `rope_freqs.weight`, of which the rule's numbers are
found again. LongRoPE's are two tensors, `rope_factors_short.weight` and
`rope_factors_long.weight`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from eejax.checkpoint.gguf_file import GGUFFile
from eejax.config import RotaryConfig, RotaryScaling
from eejax.errors import ArgumentError, CheckpointError
from eejax.ops.rotary import rotary_frequencies

FREQUENCIES = 'rope_freqs.weight'
SHORT, LONG = 'rope_factors_short.weight', 'rope_factors_long.weight'
TENSORS = frozenset({FREQUENCIES, SHORT, LONG})
# Rules that no key tells, or not wholly.
IN_TENSORS = frozenset({RotaryScaling.LLAMA3, RotaryScaling.LONGROPE})
PREFIX = 'rope.scal'  # also of the older key, rope.scale_linear
# Of every Llama 3.1 to 3.3.
_LLAMA3 = {
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8192,
}
_READ = (
  'type',
  'factor',
  'original_context_length',
  'attn_factor',
  'finetuned',
  'yarn_beta_fast',
  'yarn_beta_slow',
)
_TOLERANCE = 1e-4


def read_scaling(
  file: GGUFFile, prefix: str, values: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Return `rope_scaling` of a config.json, None where nothing is scaled.

  Args:
    file: that is read.
    prefix: of its keys, the architecture.
    values: of the config.json so far.

  Raises:
    CheckpointError: the rule is not supported.
  """
  _check_keys(file, prefix)
  key = f'{prefix}.rope.scaling'
  kind = file.get(f'{key}.type', str, 'none')
  factor = file.get(f'{key}.factor', float)
  if f'{prefix}.rope.scale_linear' in file.metadata:
    kind, factor = 'linear', file.get(f'{prefix}.rope.scale_linear', float)
  if SHORT in file.tensors or LONG in file.tensors:
    return _read_longrope(file, key)
  if FREQUENCIES in file.tensors:
    if kind != 'none':
      raise CheckpointError(
        f'{file.path} has both {FREQUENCIES} and the scaling {kind!r:.40}.'
      )
    return _read_divisors(file, values)
  if kind == 'none' or (kind == 'linear' and factor in (None, 0.0, 1.0)):
    return None
  if kind == 'linear':
    return {'rope_type': 'linear', 'factor': factor}
  if kind == 'yarn':
    original = file.need(f'{key}.original_context_length', int)
    return {
      'rope_type': 'yarn',
      'factor': factor,
      'original_max_position_embeddings': original,
      'beta_fast': file.get(f'{key}.yarn_beta_fast', float, 32.0),
      'beta_slow': file.get(f'{key}.yarn_beta_slow', float, 1.0),
    }
  raise CheckpointError(
    f'{file.path}: the rotary scaling {kind!r:.40} is not supported; supported '
    'are none, linear and yarn.'
  )


def write_scaling(
  rotary: RotaryConfig, prefix: str, *, head_dim: int
) -> dict[str, Any]:
  """Return the keys of a scaling; Llama 3's has none, but a tensor.

  Raises:
    ArgumentError: llama.cpp has no such rule.
  """
  key = f'{prefix}.rope.scaling'
  match rotary.scaling:
    case RotaryScaling.NONE | RotaryScaling.LLAMA3:
      return {}
    case RotaryScaling.LINEAR:
      return {f'{key}.type': 'linear', f'{key}.factor': rotary.factor}
    case RotaryScaling.LONGROPE:
      _, magnitude = rotary_frequencies(rotary, head_dim=head_dim)
      return {
        f'{key}.original_context_length': rotary.original_max_length,
        f'{key}.attn_factor': magnitude,
      }
    case RotaryScaling.YARN if (
      rotary.truncate and rotary.attention_factor is None
    ):
      return {
        f'{key}.type': 'yarn',
        f'{key}.factor': rotary.factor,
        f'{key}.original_context_length': rotary.original_max_length,
        f'{key}.yarn_beta_fast': rotary.beta_fast,
        f'{key}.yarn_beta_slow': rotary.beta_slow,
      }
  raise ArgumentError(
    f'GGUF files cannot say this rotary scaling ({rotary.scaling.value}); '
    'export a Hugging Face folder.'
  )


def write_tensors(
  rotary: RotaryConfig, *, head_dim: int
) -> dict[str, np.ndarray]:
  """Return the tensors of a scaling by name, each [R/2] in float32."""
  match rotary.scaling:
    case RotaryScaling.LLAMA3:
      return {FREQUENCIES: divisors(rotary, head_dim)}
    case RotaryScaling.LONGROPE:
      factors = {LONG: rotary.long_factors, SHORT: rotary.short_factors}
      return {n: np.asarray(f, np.float32) for n, f in factors.items()}
  return {}


def divisors(rotary: RotaryConfig, head_dim: int) -> np.ndarray:
  """Return what a rule divides each frequency by, [H/2] in float32."""
  plain, _ = rotary_frequencies(
    RotaryConfig(theta=rotary.theta), head_dim=head_dim
  )
  scaled, _ = rotary_frequencies(rotary, head_dim=head_dim)
  return (plain / scaled).astype(np.float32)


def _check_keys(file: GGUFFile, prefix: str) -> None:
  known = {f'{prefix}.rope.scaling.{name}' for name in _READ}
  known.add(f'{prefix}.rope.scale_linear')
  for key in file.metadata:
    if key.startswith(f'{prefix}.{PREFIX}') and key not in known:
      raise CheckpointError(f'{file.path}: the key {key:.80} is not supported.')


def _read_longrope(file: GGUFFile, key: str) -> dict[str, Any]:
  """Return LongRoPE's rule for the two tensors in a file."""
  factors = {'short_factor': SHORT, 'long_factor': LONG}
  for name in factors.values():
    if name not in file.tensors:
      raise CheckpointError(f'{file.path} lacks the tensor {name}.')
  return {
    'rope_type': 'longrope',
    'attention_factor': file.get(f'{key}.attn_factor', float, 1.0),
    'original_max_position_embeddings': file.need(
      f'{key}.original_context_length', int
    ),
    **{k: file.tensors[name].read().tolist() for k, name in factors.items()},
  }


def _read_divisors(
  file: GGUFFile, values: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Return Llama 3's rule for the divisors in a file."""
  heads = values['num_attention_heads']
  head_dim = values.get('head_dim') or values['hidden_size'] // heads
  tensor = file.tensors[FREQUENCIES]
  if tensor.shape != (head_dim // 2,):
    raise CheckpointError(
      f'{file.path}: {FREQUENCIES} has shape {tensor.shape}, not '
      f'{(head_dim // 2,)}.'
    )
  found = tensor.read().astype(np.float64)
  if np.allclose(found, 1.0, rtol=_TOLERANCE):
    return None
  factor = _rounded(float(found.max()))
  theta = float(values.get('rope_theta') or 10_000.0)
  for numbers in (_LLAMA3, _fit(found, factor, theta, head_dim)):
    rule = _rule(numbers, factor, theta)
    if rule is not None and np.allclose(
      divisors(rule, head_dim), found, rtol=_TOLERANCE
    ):
      return {'rope_type': 'llama3', 'factor': factor, **numbers}
  raise CheckpointError(
    f"{file.path}: the frequencies in {FREQUENCIES} do not follow Llama 3's "
    'rule, which is the only one of this form that is supported.'
  )


def _rule(
  numbers: Mapping[str, Any], factor: float, theta: float
) -> RotaryConfig | None:
  if not numbers or not factor >= 1 or not 1 < theta < math.inf:
    return None
  return RotaryConfig(
    theta=theta,
    scaling=RotaryScaling.LLAMA3,
    factor=factor,
    original_max_length=numbers['original_max_position_embeddings'],
    low_frequency_factor=numbers['low_freq_factor'],
    high_frequency_factor=numbers['high_freq_factor'],
  )


def _fit(
  found: np.ndarray, factor: float, theta: float, head_dim: int
) -> dict[str, Any]:
  """Return the numbers of a rule from the frequencies that it blends.

  How much of a frequency is kept grows linearly with its turns in the original
  context, from none at the low factor to all at the high one. One of the three
  numbers is free, and the low factor is 1.
  """
  blended = (found > 1 + _TOLERANCE) & (found < factor * (1 - _TOLERANCE))
  if blended.sum() < 2 or not 1 < theta < math.inf:
    return {}
  steps = theta ** -(np.arange(0, head_dim, 2) / head_dim) / (2 * np.pi)
  keep = (1 / found - 1 / factor) / (1 - 1 / factor)
  slope, start = np.polyfit(steps[blended], keep[blended], 1)
  if not (slope > 0 and start < 0):
    return {}
  high = 1 - 1 / start
  return {
    'low_freq_factor': 1.0,
    'high_freq_factor': _rounded(high),
    'original_max_position_embeddings': max(round(slope * (high - 1)), 1),
  }


def _rounded(value: float) -> float:
  """Return a whole number where a value is nearly one."""
  near = round(value) if math.isfinite(value) else value
  return float(near if abs(near - value) < 1e-3 * abs(value) else value)
