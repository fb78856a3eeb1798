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
"""Rotary position embeddings: their base, their stretching, their share."""

import dataclasses
import enum
import math

from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError


class RotaryScaling(enum.Enum):
  """How rotary frequencies are stretched beyond the trained context.

  Values are the `rope_type` names of Hugging Face configurations.
  """

  NONE = 'default'
  LINEAR = 'linear'
  DYNAMIC = 'dynamic'
  LLAMA3 = 'llama3'
  YARN = 'yarn'
  LONGROPE = 'longrope'


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
  """Describe a rotary position embedding.

  Attributes:
    theta: base of the geometric series of wavelengths, > 1.
    scaling: which rule stretches the frequencies.
    factor: context extension, >= 1; read by every rule but `NONE`.
    original_max_length: the context the frequencies were trained for; read
      by `DYNAMIC`, `LLAMA3`, `YARN` and `LONGROPE`.
    low_frequency_factor: `LLAMA3`: wavelengths above original / this are
      scaled fully.
    high_frequency_factor: `LLAMA3`: wavelengths below original / this are
      left alone.
    beta_fast: `YARN`: rotations above which a dimension is left alone.
    beta_slow: `YARN`: rotations below which a dimension is scaled fully.
    attention_factor: `YARN` and `LONGROPE`: multiplies cosine and sine; None
      derives it from `factor`.
    truncate: `YARN`: whether the ramp's ends are rounded to whole
      dimensions, as in the original code.
    fraction: share of a head's dimensions that is rotated, the first ones;
      in (0, 1].
    short_factors: `LONGROPE`: what divides each frequency, [R/2], in texts
      that are no longer than the original context.
    long_factors: `LONGROPE`: the same in longer texts, which eejax does not
      let such a model have; they are kept for its files.
  """

  theta: float = 10_000.0
  scaling: RotaryScaling = RotaryScaling.NONE
  factor: float = 1.0
  original_max_length: int | None = None
  low_frequency_factor: float = 1.0
  high_frequency_factor: float = 4.0
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  attention_factor: float | None = None
  truncate: bool = True
  fraction: float = 1.0
  short_factors: tuple[float, ...] = ()
  long_factors: tuple[float, ...] = ()

  def __post_init__(self):
    check_fields(self)
    if not 0 < self.fraction <= 1:
      raise ArgumentError(
        f'rotary fraction must be in (0, 1], not {self.fraction}.'
      )
    if self.theta <= 1:
      raise ArgumentError(f'rotary theta must be above 1, not {self.theta}.')
    if self.factor < 1:
      raise ArgumentError(f'rotary factor must be >= 1, not {self.factor}.')
    needs_length = self.scaling in (
      RotaryScaling.DYNAMIC,
      RotaryScaling.LLAMA3,
      RotaryScaling.YARN,
      RotaryScaling.LONGROPE,
    )
    if needs_length and not self.original_max_length:
      raise ArgumentError(
        f'rotary scaling {self.scaling.value!r} needs original_max_length.'
      )
    self._check_factors()

  def _check_factors(self) -> None:
    factors = (*self.short_factors, *self.long_factors)
    if len(self.short_factors) != len(self.long_factors):
      raise ArgumentError(
        f'there are {len(self.short_factors)} short and '
        f'{len(self.long_factors)} long rotary factors; they must be as many.'
      )
    if bool(factors) != (self.scaling is RotaryScaling.LONGROPE):
      raise ArgumentError(
        "rotary scaling 'longrope' needs short and long factors, and no other "
        'rule has them.'
      )
    if not all(0 < factor < math.inf for factor in factors):
      raise ArgumentError('rotary factors must be numbers above 0.')
