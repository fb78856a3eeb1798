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


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
  """Describe a rotary position embedding.

  Attributes:
    theta: base of the geometric series of wavelengths, > 1.
    scaling: which rule stretches the frequencies.
    factor: context extension, >= 1; read by every rule but `NONE`.
    original_max_length: the context the frequencies were trained for; read
      by `DYNAMIC`, `LLAMA3` and `YARN`.
    low_frequency_factor: `LLAMA3`: wavelengths above original / this are
      scaled fully.
    high_frequency_factor: `LLAMA3`: wavelengths below original / this are
      left alone.
    beta_fast: `YARN`: rotations above which a dimension is left alone.
    beta_slow: `YARN`: rotations below which a dimension is scaled fully.
    attention_factor: `YARN`: multiplies cosine and sine; None derives it
      from `factor`.
    truncate: `YARN`: whether the ramp's ends are rounded to whole
      dimensions, as in the original code.
    fraction: share of a head's dimensions that is rotated, the first ones;
      in (0, 1].
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
    )
    if needs_length and not self.original_max_length:
      raise ArgumentError(
        f'rotary scaling {self.scaling.value!r} needs original_max_length.'
      )
