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
"""Conformal risk control: the riskiest setting whose expected loss is low.

The expectation is over calibration data and the next sequence together,
E[loss] <= risk. There is no delta: with one draw of the data the risk may well
be above the limit. The theorem needs losses that never fall from safe to
risky; a loss that does is replaced by the largest before it, which can only
make the choice safer.

Reference:
  Angelopoulos, Bates, Fisch, Lei and Schuster (2022), Conformal Risk Control,
  arXiv 2208.02814, section 2: with losses of at most 1, the riskiest setting
  for which (n r + 1) / (n + 1) <= risk, r the mean of n losses.
"""

import dataclasses

import numpy as np

from eejax.errors import ArgumentError
from eejax.stats.bounds import check_level, check_losses
from eejax.stats.fixed_sequence import LossesOf


@dataclasses.dataclass(frozen=True)
class ConformalResult:
  """What conformal risk control chose.

  Attributes:
    risk: limit of the expected loss.
    num_sequences: losses of each setting.
    bounds: of the settings looked at, (n r + 1) / (n + 1).
    chosen: index of the riskiest setting within the limit; None where none is.
  """

  risk: float
  num_sequences: int
  bounds: tuple[float, ...]
  chosen: int | None


def control(losses_of: LossesOf, count: int, *, risk: float) -> ConformalResult:
  """Choose the riskiest setting whose expected loss is at most `risk`.

  Args:
    losses_of: returns the losses at a setting by its index: of the same
      sequences in the same order, all in [0, 1]. Settings stand from safe to
      risky.
    count: how many settings there are.
    risk: the limit, in (0, 1).

  Raises:
    ArgumentError: there is no setting, a loss is not in [0, 1], or the risk
      not in (0, 1).
  """
  check_level(risk, name='risk')
  if count < 1:
    raise ArgumentError('there is no setting to choose.')
  bounds: list[float] = []
  worst = np.zeros(0)
  for index in range(count):
    losses = losses_of(index)
    check_losses(losses)
    if index and losses.size != worst.size:
      raise ArgumentError('every setting needs a loss of each sequence.')
    worst = np.maximum(worst, losses) if index else losses.astype(float)
    n = worst.size
    bounds.append(float((worst.sum() + 1) / (n + 1)))
    if bounds[-1] > risk:
      break
  within = [i for i, bound in enumerate(bounds) if bound <= risk]
  return ConformalResult(
    risk=risk,
    num_sequences=worst.size,
    bounds=tuple(bounds),
    chosen=within[-1] if within else None,
  )


def sequences_needed(risk: float) -> int:
  """Return how many losses of 0 are needed for any setting to be within risk.

  (n 0 + 1) / (n + 1) <= risk asks for n >= 1 / risk - 1.
  """
  check_level(risk, name='risk')
  return int(np.ceil(1 / risk - 1 - 1e-9))
