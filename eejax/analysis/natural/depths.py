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
"""The depth at which a position's answer is there.

With y_l the likeliest token at read-out l, y_L the full model's and y the
token that follows in the text, over the natural read-outs in their order:

  first_match  the first l with y_l = y_L: a match may be passing, and where
               few tokens are likely it may be chance
  stable       the first l from which on y_j = y_L for all j >= l
  label        the first l with y_l = y, L where there is none: it may find
               the right token where the full model is wrong

first_match <= stable always. They are ceilings, for nobody knows them before
the last block has run, and different ones: every number carries the name.

Reference:
  first_match: Shan et al. (2024), Early Exit Is a Natural Capability in
  Transformer-based Models (the oracle strategy).
  stable: Lioubashevski et al. (2025), Looking Beyond the Top-1: Transformers
  Determine Top Tokens in Order, section 3 ("saturation").
"""

import dataclasses
import enum

import numpy as np

from eejax.capture.captured import Captured, ReadoutKind
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval, ratio_interval
from eejax.types import Float, Int


class Ceiling(enum.Enum):
  """Which depth is called the answer's; see the module's docstring."""

  FIRST_MATCH = 'first_match'
  STABLE = 'stable'
  LABEL = 'label'


@dataclasses.dataclass(frozen=True)
class DepthDistribution:
  """Distribution of the depths at which answers are there.

  Attributes:
    ceiling: which depth is meant.
    depths: of the read-outs.
    shares: share of positions whose depth it is.
    by_then: share of positions whose depth is it or a shallower one.
    mean_depth: mean over positions, in blocks.
    skip: mean of 1 - depth / L, the share of blocks it would save.
  """

  ceiling: Ceiling
  depths: tuple[float, ...]
  shares: tuple[float, ...]
  by_then: tuple[float, ...]
  mean_depth: Interval
  skip: Interval

  def depth_of(self, share: float) -> float:
    """Return the shallowest depth by which a share of positions is there."""
    reached = np.array(self.by_then) >= share - 1e-9
    return self.depths[int(np.argmax(reached))]


def first_match_depth(
  top1: Int[np.ndarray, 'depths *tokens'],
) -> Int[np.ndarray, '*tokens']:
  """Return the number of the first read-out that says what the last does."""
  return np.argmax(top1 == top1[-1], axis=0)


def stable_depth(
  top1: Int[np.ndarray, 'depths *tokens'],
) -> Int[np.ndarray, '*tokens']:
  """Return that of the first from which on all say what the last does."""
  same = top1 == top1[-1]
  # Seen from the last read-out down, the run of matches ends at a miss.
  run = np.cumprod(same[::-1], axis=0).sum(axis=0)
  return len(top1) - run


def label_depth(
  top1: Int[np.ndarray, 'depths *tokens'],
  target: Int[np.ndarray, '*tokens'],
) -> Int[np.ndarray, '*tokens']:
  """Return that of the first that says the target, the last if none does."""
  right = top1 == target
  return np.where(right.any(axis=0), np.argmax(right, axis=0), len(top1) - 1)


def places(captured: Captured, ceiling: Ceiling) -> Int[np.ndarray, 'N']:
  """Return the number of each position's read-out, among all in `captured`."""
  match ceiling:
    case Ceiling.FIRST_MATCH:
      return first_match_depth(captured.top1)
    case Ceiling.STABLE:
      return stable_depth(captured.top1)
    case Ceiling.LABEL:
      return label_depth(captured.top1, captured.target)


def depths(captured: Captured, ceiling: Ceiling) -> Float[np.ndarray, 'N']:
  """Return the depth of each position, over the read-outs in `captured`."""
  return captured.facts.depths[places(captured, ceiling)]


def distribution(
  captured: Captured,
  ceiling: Ceiling,
  *,
  kinds: tuple[ReadoutKind, ...] = (ReadoutKind.NATURAL,),
  bootstrap: Bootstrap = DEFAULT,
) -> DepthDistribution:
  """Return at which depths answers are there.

  Args:
    captured: a text.
    ceiling: which depth is meant.
    kinds: read-outs where one could leave; the full model's is always one.
    bootstrap: how intervals are made.
  """
  captured = captured.only(*kinds)
  number = places(captured, ceiling)
  depth = captured.facts.depths[number]
  weight = np.asarray(captured.weight, float)
  found = np.bincount(number, weights=weight, minlength=len(captured.readouts))
  shares = found / max(weight.sum(), 1e-12)
  mean = mean_over(captured, depth, bootstrap=bootstrap)
  layers = max(captured.num_layers, 1)
  skip = mean_over(captured, 1 - depth / layers, bootstrap=bootstrap)
  return DepthDistribution(
    ceiling=ceiling,
    depths=tuple(captured.facts.depths.tolist()),
    shares=tuple(shares.tolist()),
    by_then=tuple(np.cumsum(shares).tolist()),
    mean_depth=mean,
    skip=skip,
  )


def mean_over(
  captured: Captured,
  values: np.ndarray,
  *,
  where: np.ndarray | None = None,
  bootstrap: Bootstrap = DEFAULT,
) -> Interval:
  """Return the mean over positions, its interval drawn over rows.

  Args:
    captured: whose positions.
    values: [N].
    where: [N], positions that count; None counts all.
    bootstrap: how the interval is made.

  Raises:
    ArgumentError: no position counts.
  """
  counted = np.ones(len(values), bool) if where is None else where
  if not counted.any():
    raise ArgumentError('there is no position to average over.')
  sums, _ = captured.by_row(np.where(counted, values, 0.0))
  counts, _ = captured.by_row(counted)
  return ratio_interval(sums, counts, bootstrap=bootstrap)
