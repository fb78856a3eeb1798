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
"""Exits between a block's attention and its MLP: the grid of 2 L sub-layers.

The stream after attention can be read like that after a block, so answers may
be found half a block earlier. Compared are the same positions of one capture
on both grids.
"""

import dataclasses

from eejax.analysis.natural.depths import (
  Ceiling,
  DepthDistribution,
  depths,
  distribution,
  mean_over,
)
from eejax.capture.captured import Captured, ReadoutKind
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval

_WHOLE = (ReadoutKind.NATURAL,)
_HALVES = (ReadoutKind.NATURAL, ReadoutKind.ATTENTION)


@dataclasses.dataclass(frozen=True)
class SublayerExits:
  """Gain of read-outs after attention, beside those after blocks.

  Attributes:
    ceiling: which depth is meant.
    distribution: over the grid of sub-layers.
    at_attention: share of positions whose depth there is after attention.
    at_mlp: share after a whole block, depth 0 excepted.
    at_embedding: share at depth 0.
    saved: mean depth on the grid of blocks less that on the grid of
      sub-layers, in blocks. Of the stable depth it may be negative, for more
      read-outs have to agree.
    skip_gain: the same as a share of all blocks.
  """

  ceiling: Ceiling
  distribution: DepthDistribution
  at_attention: Interval
  at_mlp: Interval
  at_embedding: Interval
  saved: Interval
  skip_gain: Interval


def sublayer_exits(
  captured: Captured,
  ceiling: Ceiling,
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> SublayerExits:
  """Return what exits after attention are worth beside those after blocks.

  Args:
    captured: a text, with natural and attention read-outs.
    ceiling: which depth is meant.
    bootstrap: how intervals are made.

  Raises:
    ArgumentError: nothing was read after attention.
  """
  captured.only(ReadoutKind.ATTENTION)  # there must be some
  fine = captured.only(*_HALVES)
  by_half = depths(fine, ceiling)
  by_whole = depths(captured.only(*_WHOLE), ceiling)
  mean = lambda x: mean_over(captured, x, bootstrap=bootstrap)
  after_attention = by_half % 1 != 0
  at_embedding = by_half == 0
  saved = by_whole - by_half
  return SublayerExits(
    ceiling=ceiling,
    distribution=distribution(
      captured, ceiling, kinds=_HALVES, bootstrap=bootstrap
    ),
    at_attention=mean(after_attention),
    at_mlp=mean(~after_attention & ~at_embedding),
    at_embedding=mean(at_embedding),
    saved=mean(saved),
    skip_gain=mean(saved / max(captured.num_layers, 1)),
  )
