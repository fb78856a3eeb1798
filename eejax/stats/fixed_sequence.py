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
"""Learn then Test: settings certified one after the other, safe to risky.

Settings are put in an order before the losses are looked at, the one that is
most likely to be safe first. Each is tested at the whole level delta, and the
first that fails ends the test. The chance that any certified setting has a
risk above the limit is at most delta: for that, the test of the first setting
in the order that is truly too risky must pass, which happens with a chance of
at most delta. The risk may rise and fall along the order.

Reference:
  Angelopoulos, Bates, Candes, Jordan and Lei (2021), Learn then Test, arXiv
  2110.01052, section 2 (fixed sequence testing). CALM (Schuster et al. 2022,
  arXiv 2207.07061, section 3) calibrates early exit so.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from eejax.errors import ArgumentError
from eejax.stats.bounds import (
  Bound,
  check_level,
  check_losses,
  p_value,
  samples_needed,
)
from eejax.types import Float

# Returns the losses of every sequence at a setting, by its index in the order.
LossesOf = Callable[[int], Float[np.ndarray, 'n']]


@dataclasses.dataclass(frozen=True)
class Guarantee:
  """A limit of the mean loss, and the chance that it is exceeded.

  Attributes:
    risk: limit of the mean loss, in (0, 1).
    delta: largest chance that a certified setting is above it, in (0, 1).
    bound: which p-value is used.
  """

  risk: float = 0.05
  delta: float = 0.05
  bound: Bound = Bound.HOEFFDING_BENTKUS

  def __post_init__(self):
    check_level(self.risk, name='risk')
    check_level(self.delta, name='delta')


@dataclasses.dataclass(frozen=True)
class TestedSetting:
  """The test of one setting.

  Attributes:
    index: in the order.
    mean_loss: of the sequences.
    p_value: of the hypothesis that the risk is above the limit.
    certified: whether that was rejected.
  """

  index: int
  mean_loss: float
  p_value: float
  certified: bool


@dataclasses.dataclass(frozen=True)
class FixedSequence:
  """The outcome of testing settings in order.

  Attributes:
    guarantee: what was asked for.
    num_sequences: losses of each setting.
    tested: settings that were looked at, in order.
  """

  guarantee: Guarantee
  num_sequences: int
  tested: tuple[TestedSetting, ...]

  @property
  def certified(self) -> tuple[int, ...]:
    """Return the indices of the settings that were certified, in order."""
    return tuple(t.index for t in self.tested if t.certified)

  def samples_needed(self) -> int | None:
    """Return how many sequences would certify the first setting that failed.

    It is an estimate from the mean loss here; None where that is above the
    limit, so that no number of sequences would do, or where none failed.
    """
    failed = [t for t in self.tested if not t.certified]
    if not failed:
      return None
    return samples_needed(
      risk=self.guarantee.risk,
      delta=self.guarantee.delta,
      expected=failed[0].mean_loss,
      bound=self.guarantee.bound,
    )


def certify_in_order(
  losses_of: LossesOf, count: int, *, guarantee: Guarantee
) -> FixedSequence:
  """Certify settings in order until one fails.

  Args:
    losses_of: returns the losses at a setting by its index: of the same
      sequences in the same order. Called no further than the first setting
      that fails.
    count: how many settings there are.
    guarantee: what is to be certified.

  Raises:
    ArgumentError: there is no setting, or a loss is not in [0, 1].
  """
  if count < 1:
    raise ArgumentError('there is no setting to certify.')
  tested: list[TestedSetting] = []
  size = 0
  for index in range(count):
    losses = losses_of(index)
    check_losses(losses)
    if tested and losses.size != size:
      raise ArgumentError('every setting needs a loss of each sequence.')
    size = losses.size
    p = p_value(
      losses,
      risk=guarantee.risk,
      delta=guarantee.delta,
      bound=guarantee.bound,
    )
    mean = math.fsum(losses) / size
    tested.append(TestedSetting(index, mean, p, certified=p <= guarantee.delta))
    if not tested[-1].certified:
      break
  return FixedSequence(guarantee, size, tuple(tested))
