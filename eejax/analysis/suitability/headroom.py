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
"""The ceilings of early exit on a model: what an oracle could skip.

  SAT    = E[1 - stable / L]  skipped by stopping at the first depth from which
                              on the likeliest token stays the final one; with
                              exact keys and values no token changes
  FIRST  = E[1 - first_match / L]  the same at the first depth that says it,
                              which may say something else again deeper
  AGREE  = mean over depths 1 to L of the share of tokens at which a depth's
                              likeliest is the final one: the area under the
                              curve of agreement

Which oracle is meant is always named. Nobody knows these depths in advance;
gates guess at them, see `eejax.analysis.suitability.skip`.
"""

import dataclasses

import numpy as np

from eejax.analysis.natural.depths import first_match_depth, stable_depth
from eejax.analysis.suitability.score import natural_depths
from eejax.capture.captured import Captured
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval, ratio_interval
from eejax.types import Float


@dataclasses.dataclass(frozen=True)
class Headroom:
  """Ceilings of a model on a text.

  Attributes:
    stable: SAT.
    first_match: FIRST.
    agree: AGREE.
    agreement: share of tokens that agree with the last, a read-out each.
    depths: of these read-outs.
    settled: share of tokens that are stable by each of these depths.
  """

  stable: Interval
  first_match: Interval
  agree: Interval
  agreement: tuple[Interval, ...]
  depths: tuple[float, ...]
  settled: tuple[float, ...]


def headroom(captured: Captured, *, bootstrap: Bootstrap = DEFAULT) -> Headroom:
  """Return the ceilings of early exit over a captured text.

  Args:
    captured: the text, with natural read-outs at more than one depth.
    bootstrap: how intervals are made, over rows.

  Raises:
    ArgumentError: the capture has one natural read-out alone.
  """
  natural = natural_depths(captured)
  depths, layers = natural.facts.depths, natural.num_layers
  agree = natural.agree.astype(float)
  stable = stable_depth(natural.top1)

  def mean(values: Float[np.ndarray, 'N']) -> Interval:
    sums, counts = natural.by_row(values)
    return ratio_interval(sums, counts, bootstrap=bootstrap)

  counted = depths >= 1
  weight = np.asarray(natural.weight, float)
  by_depth = np.bincount(stable, weights=weight, minlength=len(depths))
  return Headroom(
    stable=mean(1 - depths[stable] / layers),
    first_match=mean(1 - depths[first_match_depth(natural.top1)] / layers),
    agree=mean(agree[counted].mean(axis=0)),
    agreement=tuple(mean(a) for a in agree),
    depths=tuple(float(d) for d in depths),
    settled=tuple(float(x) for x in np.cumsum(by_depth) / weight.sum()),
  )
