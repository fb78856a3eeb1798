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
"""Read the rotary part of a Hugging Face `config.json`, and write it.

Two forms exist: transformers 5 keeps everything in `rope_parameters`, older
files have `rope_theta` beside an optional `rope_scaling`. The meaning of every
key follows `transformers/modeling_rope_utils.py`.
"""

import math
from collections.abc import Mapping
from typing import Any

from eejax.config import RotaryConfig, RotaryScaling
from eejax.errors import CheckpointError

DEFAULT_THETA = 10_000.0

# Keys that may stand beside the type and the base. Those of the second table
# change nothing in transformers' arithmetic and are left unread.
_READ: dict[RotaryScaling, frozenset[str]] = {
  RotaryScaling.NONE: frozenset(),
  RotaryScaling.LINEAR: frozenset({'factor'}),
  RotaryScaling.DYNAMIC: frozenset(
    {'factor', 'original_max_position_embeddings'}
  ),
  RotaryScaling.LLAMA3: frozenset(
    {
      'factor',
      'low_freq_factor',
      'high_freq_factor',
      'original_max_position_embeddings',
    }
  ),
  RotaryScaling.YARN: frozenset(
    {
      'factor',
      'original_max_position_embeddings',
      'attention_factor',
      'beta_fast',
      'beta_slow',
      'mscale',
      'mscale_all_dim',
      'truncate',
    }
  ),
  RotaryScaling.LONGROPE: frozenset(
    {
      'factor',
      'original_max_position_embeddings',
      'attention_factor',
      'short_factor',
      'long_factor',
    }
  ),
}
_UNREAD: dict[RotaryScaling, frozenset[str]] = {
  RotaryScaling.NONE: frozenset({'factor', 'original_max_position_embeddings'}),
  RotaryScaling.LINEAR: frozenset({'original_max_position_embeddings'}),
  RotaryScaling.YARN: frozenset({'finetuned'}),
}


# Of rules, in files that were written before they had the present ones.
_EARLIER_NAMES = {'su': 'longrope'}


def read_rotary(
  values: Mapping[str, Any], *, fraction: float | None = None
) -> RotaryConfig:
  """Return the rotary embedding that a `config.json` describes.

  Args:
    values: the whole file; `max_position_embeddings` must be there when the
      scaling rule does not say which context it stretches.
    fraction: of a head that is rotated where the file does not say it; None
      where all of it always is.

  Raises:
    CheckpointError: the rule or one of its keys is unknown or missing.
  """
  # transformers lets `rope_scaling` win where a file has both.
  rope = values.get('rope_scaling') or values.get('rope_parameters') or {}
  scaling = _scaling(rope)
  share: dict[str, Any] = {}
  if fraction is not None:
    share['fraction'] = _fraction(rope, values, fraction)
    rope = {k: v for k, v in rope.items() if k != 'partial_rotary_factor'}
  _check_keys(rope, scaling)
  theta = rope.get('rope_theta', values.get('rope_theta'))
  theta = DEFAULT_THETA if theta is None else float(theta)
  if scaling is RotaryScaling.NONE:
    return RotaryConfig(theta=theta, **share)
  fields: dict[str, Any] = {
    'theta': theta,
    'scaling': scaling,
    'factor': _factor(rope, scaling, values),
    'original_max_length': _original_length(rope, scaling, values),
    **share,
  }
  if scaling is RotaryScaling.LLAMA3:
    fields['low_frequency_factor'] = _number(rope, 'low_freq_factor')
    fields['high_frequency_factor'] = _number(rope, 'high_freq_factor')
  if scaling is RotaryScaling.YARN:
    fields['beta_fast'] = float(rope.get('beta_fast') or 32)
    fields['beta_slow'] = float(rope.get('beta_slow') or 1)
    fields['attention_factor'] = _attention_factor(rope, fields['factor'])
    fields['truncate'] = bool(rope.get('truncate', True))
  if scaling is RotaryScaling.LONGROPE:
    fields['attention_factor'] = _attention_factor(rope, fields['factor'])
    fields['short_factors'] = _numbers(rope, 'short_factor')
    fields['long_factors'] = _numbers(rope, 'long_factor')
  return RotaryConfig(**fields)


def write_rotary(rotary: RotaryConfig) -> dict[str, Any]:
  """Return `rope_parameters` as transformers 5 writes them."""
  written: dict[str, Any] = {
    'rope_theta': rotary.theta,
    'rope_type': rotary.scaling.value,
  }
  if rotary.fraction != 1:
    written['partial_rotary_factor'] = rotary.fraction
  if rotary.scaling is not RotaryScaling.NONE:
    written['factor'] = rotary.factor
  if rotary.scaling in (
    *(RotaryScaling.LLAMA3, RotaryScaling.YARN, RotaryScaling.LONGROPE),
  ):
    written['original_max_position_embeddings'] = rotary.original_max_length
  if rotary.scaling is RotaryScaling.LLAMA3:
    written['low_freq_factor'] = rotary.low_frequency_factor
    written['high_freq_factor'] = rotary.high_frequency_factor
  if rotary.scaling is RotaryScaling.YARN:
    written['beta_fast'] = rotary.beta_fast
    written['beta_slow'] = rotary.beta_slow
    written['truncate'] = rotary.truncate
  if rotary.scaling is RotaryScaling.LONGROPE:
    written['short_factor'] = list(rotary.short_factors)
    written['long_factor'] = list(rotary.long_factors)
  if rotary.attention_factor is not None:
    written['attention_factor'] = rotary.attention_factor
  return dict(sorted(written.items()))


def usable_length(rotary: RotaryConfig, max_positions: int) -> int:
  """Return the longest context that a file's `max_position_embeddings` means.

  Files with `linear` scaling state the length before stretching, files with
  `yarn` either one, files with `llama3` the length after it. `dynamic`
  scaling moves every earlier key when a text outgrows the stated length, so
  that length is the limit here; so does `longrope` when one outgrows the
  original length.
  """
  if rotary.scaling is RotaryScaling.LINEAR:
    return int(max_positions * rotary.factor)
  if rotary.scaling is RotaryScaling.YARN:
    assert rotary.original_max_length is not None
    stretched = int(rotary.original_max_length * rotary.factor)
    return max(max_positions, stretched)
  if rotary.scaling is RotaryScaling.LONGROPE:
    assert rotary.original_max_length is not None
    return min(max_positions, rotary.original_max_length)
  return max_positions


def stated_length(rotary: RotaryConfig, max_length: int) -> int:
  """Return the `max_position_embeddings` to write for `max_length`."""
  if rotary.scaling is RotaryScaling.LINEAR:
    return rotary.original_max_length or int(max_length / rotary.factor)
  if rotary.scaling is RotaryScaling.DYNAMIC:
    assert rotary.original_max_length is not None
    return rotary.original_max_length
  if rotary.scaling is RotaryScaling.LONGROPE:
    assert rotary.original_max_length is not None
    return round(rotary.original_max_length * rotary.factor)
  return max_length


def _fraction(
  rope: Mapping[str, Any], values: Mapping[str, Any], default: float
) -> float:
  for key in ('partial_rotary_factor', 'rotary_pct'):
    found = rope.get(key, values.get(key))
    if found is not None:
      return float(found)
  return default


def _scaling(rope: Mapping[str, Any]) -> RotaryScaling:
  name = rope.get('rope_type', rope.get('type', 'default'))
  name = _EARLIER_NAMES.get(name, name) if isinstance(name, str) else name
  try:
    return RotaryScaling(name)
  except ValueError:
    known = ', '.join(s.value for s in RotaryScaling)
    raise CheckpointError(
      f'config.json: rotary scaling {name!r} is not supported; supported '
      f'are {known}.'
    ) from None


def _check_keys(rope: Mapping[str, Any], scaling: RotaryScaling) -> None:
  known = _READ[scaling] | _UNREAD.get(scaling, frozenset())
  for key, value in rope.items():
    if key in ('rope_type', 'type', 'rope_theta') or key in known:
      continue
    neutral = value is None or (key == 'partial_rotary_factor' and value == 1)
    if not neutral:
      raise CheckpointError(
        f'config.json: {key!r} ({value!r}) of the rotary embedding is not '
        f'supported with scaling {scaling.value!r}.'
      )


def _number(rope: Mapping[str, Any], key: str) -> float:
  value = rope.get(key)
  if not isinstance(value, int | float) or isinstance(value, bool):
    raise CheckpointError(
      f'config.json: the rotary embedding needs a number for {key!r}, not '
      f'{value!r}.'
    )
  return float(value)


def _numbers(rope: Mapping[str, Any], key: str) -> tuple[float, ...]:
  values = rope.get(key)
  if not isinstance(values, list):
    raise CheckpointError(
      f'config.json: the rotary embedding needs a list of numbers for {key!r}, '
      f'not {values!r:.60}.'
    )
  return tuple(_number({key: value}, key) for value in values)


def _factor(
  rope: Mapping[str, Any], scaling: RotaryScaling, values: Mapping[str, Any]
) -> float:
  is_derived = scaling in (RotaryScaling.YARN, RotaryScaling.LONGROPE)
  if is_derived and rope.get('factor') is None:
    original = _original_length(rope, scaling, values)
    return values['max_position_embeddings'] / original
  return _number(rope, 'factor')


def _original_length(
  rope: Mapping[str, Any], scaling: RotaryScaling, values: Mapping[str, Any]
) -> int:
  """Return the context before stretching, where transformers looks for it."""
  key = 'original_max_position_embeddings'
  stated = values['max_position_embeddings']
  if scaling is RotaryScaling.LINEAR:
    return stated
  if scaling is RotaryScaling.DYNAMIC:
    if rope.get(key) not in (None, stated):
      raise CheckpointError(
        f'config.json: dynamic rotary scaling with {key!r} ({rope[key]}) '
        f'other than max_position_embeddings ({stated}) is not supported.'
      )
    return stated
  return values.get(key) or rope.get(key) or stated


def _attention_factor(rope: Mapping[str, Any], factor: float) -> float | None:
  """Return the multiplier of cosine and sine that the file asks for, if any.

  Reference: YaRN (arXiv 2309.00071), eq. 22; the quotient of two `mscale` is
  DeepSeek-V2's generalisation.
  """
  if rope.get('attention_factor') is not None:
    return float(rope['attention_factor'])
  numerator, denominator = rope.get('mscale'), rope.get('mscale_all_dim')
  if not (numerator and denominator):
    return None
  growth = 0.1 * math.log(factor)
  return (numerator * growth + 1) / (denominator * growth + 1)
