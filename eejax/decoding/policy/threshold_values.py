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
"""Thresholds as people write them, as policies hold them, as numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eejax.errors import ArgumentError
from eejax.types import Float

NEVER = 'never'

# None stands for `never`: no score, however high, takes the exit.
Threshold = float | None


def parse_thresholds(text: str) -> tuple[Threshold, ...]:
  """Read thresholds as the command line writes them.

  Example:
    >>> parse_thresholds('0.9,0.8,never')
    (0.9, 0.8, None)

  Raises:
    ArgumentError: a part is neither a number nor `never`.
  """
  return tuple(parse_threshold(part.strip()) for part in text.split(','))


def parse_threshold(text: str | float) -> Threshold:
  """Return one threshold, None for `never`.

  Raises:
    ArgumentError: it is neither a number nor `never`.
  """
  if text == NEVER:
    return None
  try:
    return float(text)
  except (TypeError, ValueError, OverflowError):
    raise ArgumentError(
      f'{text!r:.60} is not a threshold; give a number in [0, 1], or never.'
    ) from None


def format_thresholds(thresholds: Sequence[Threshold]) -> str:
  """Return thresholds as `parse_thresholds` reads them, to six digits.

  Example:
    >>> format_thresholds((0.9, None))
    '0.9,never'
  """
  return ','.join(NEVER if t is None else f'{t:.6g}' for t in thresholds)


def threshold_values(thresholds: Sequence[Any]) -> Float[np.ndarray, '...']:
  """Return thresholds as numbers to compare scores with; never is infinity.

  Args:
    thresholds: a sequence of them, or a sequence of such sequences.

  Example:
    >>> threshold_values([(0.5, None), (0.0, 0.25)])
    array([[0.5 ,  inf],
           [0.  , 0.25]], dtype=float32)
  """
  # NumPy reads None as NaN, and no threshold is NaN.
  values = np.array(thresholds, np.float32)
  return np.where(np.isnan(values), np.float32(np.inf), values)
