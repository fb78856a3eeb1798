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
"""Whether read-outs speak one language: divergence and calibration by depth.

A threshold on confidence serves all depths only if confidence means the same
at each of them. So, for each read-out:

  js_previous  mean JS(p_l, p_l') with the read-out before
  kl_final     mean KL(p_L || p_l)
  reliability  P(y_l = y_L) among positions whose confidence max_v p_l(v)
               falls into each of M bins of equal width
  ece          sum_m n_m / n |agreement_m - confidence_m|, m over the bins,
               means within each: the expected calibration error of
               confidence as a prediction of agreement
  threshold    the lowest confidence from which on positions agree at least
               so often (95 % by default); (eejax definition)

and, over all read-outs but the last, how far apart the thresholds lie: 0
where one serves all.

Reference:
  Guo et al. (2017), On Calibration of Modern Neural Networks, equation 3,
  there of labels; here of the full model's token.
"""

import dataclasses
import math

import numpy as np

from eejax.analysis.natural.curves import row_counts
from eejax.analysis.natural.depths import mean_over
from eejax.capture.captured import Captured, Readout
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import (
  DEFAULT,
  Bootstrap,
  Interval,
  function_interval,
)
from eejax.types import Bool, Float, Int

NUM_BINS = 15
AGREEMENT = 0.95


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
  """Bin of a reliability curve.

  Attributes:
    low: least confidence.
    high: largest.
    share: share of positions in it.
    confidence: their mean confidence; NaN in an empty bin.
    agreement: share of them that agree; NaN in an empty bin.
  """

  low: float
  high: float
  share: float
  confidence: float
  agreement: float


@dataclasses.dataclass(frozen=True)
class ReadoutAlignment:
  """Distribution of a read-out, compared with the others'.

  Attributes:
    readout: which one.
    js_previous: with the read-out before; None where there is none.
    kl_final: from the full model.
    ece: expected calibration error.
    reliability: the bins it is made of.
    threshold: the lowest confidence that is safe; infinity where none is.
  """

  readout: Readout
  js_previous: Interval | None
  kl_final: Interval | None
  ece: Interval
  reliability: tuple[ReliabilityBin, ...]
  threshold: float


@dataclasses.dataclass(frozen=True)
class Alignment:
  """Likeness of the read-outs of a model.

  Attributes:
    readouts: of each, the full model's last.
    threshold_spread: largest less least safe threshold over all but the
      last, 1 counting for those that have none.
    ece_spread: likewise of the calibration errors.
    agreement: what "safe" means, a share of positions.
  """

  readouts: tuple[ReadoutAlignment, ...]
  threshold_spread: float
  ece_spread: float
  agreement: float


def alignment(
  captured: Captured,
  *,
  num_bins: int = NUM_BINS,
  agreement: float = AGREEMENT,
  bootstrap: Bootstrap = DEFAULT,
) -> Alignment:
  """Return how alike the read-outs of a capture are.

  Args:
    captured: a text, with candidates.
    num_bins: M, bins of confidence.
    agreement: share of positions that must agree above a safe threshold.
    bootstrap: how intervals are made.

  Raises:
    ArgumentError: a number is out of range.
  """
  if num_bins < 1:
    raise ArgumentError(f'num_bins must be at least 1, not {num_bins}.')
  if not 0 < agreement <= 1:
    raise ArgumentError(f'agreement must lie in (0, 1], not {agreement}.')
  confidence = np.exp(captured.top_log_probs[..., 0].astype(float))
  found = []
  for i, readout in enumerate(captured.readouts):
    pair = confidence[i], captured.agree[i]
    found.append(
      ReadoutAlignment(
        readout=readout,
        js_previous=_mean(captured, 'js_previous', i, bootstrap),
        kl_final=_mean(captured, 'kl_final', i, bootstrap),
        ece=calibration_error(
          captured, *pair, num_bins=num_bins, bootstrap=bootstrap
        ),
        reliability=reliability(captured, *pair, num_bins=num_bins),
        threshold=safe_threshold(captured, *pair, agreement=agreement),
      )
    )
  inner = found[:-1] or found
  spread = lambda values: max(values) - min(values)
  return Alignment(
    readouts=tuple(found),
    threshold_spread=spread([min(r.threshold, 1.0) for r in inner]),
    ece_spread=spread([r.ece.value for r in inner]),
    agreement=agreement,
  )


def _mean(captured, name: str, i: int, bootstrap) -> Interval | None:
  if name not in captured or np.isnan(captured[name][i]).any():
    return None
  return mean_over(captured, captured[name][i], bootstrap=bootstrap)


def reliability(
  captured: Captured,
  confidence: Float[np.ndarray, 'N'],
  agrees: Bool[np.ndarray, 'N'],
  *,
  num_bins: int = NUM_BINS,
) -> tuple[ReliabilityBin, ...]:
  """Return what agreement each level of confidence comes with."""
  place = _bins(confidence, num_bins)
  weight = np.asarray(captured.weight, float)
  total = lambda x: np.bincount(place, weight * x, num_bins)
  size = total(np.ones(len(place)))
  with np.errstate(invalid='ignore', divide='ignore'):
    means = total(confidence) / size, total(agrees) / size
  edges = np.linspace(0, 1, num_bins + 1)
  return tuple(
    ReliabilityBin(*(float(x) for x in values))
    for values in zip(
      edges[:-1], edges[1:], size / size.sum(), *means, strict=True
    )
  )


def calibration_error(
  captured: Captured,
  confidence: Float[np.ndarray, 'N'],
  agrees: Bool[np.ndarray, 'N'],
  *,
  num_bins: int = NUM_BINS,
  bootstrap: Bootstrap = DEFAULT,
) -> Interval:
  """Return the expected calibration error of a confidence in agreement."""
  place = _bins(confidence, num_bins)
  gap = agrees - confidence
  sums = row_counts(captured, place, bins=num_bins, values=gap)
  _, counts = captured.by_row(np.ones(len(place)))
  # n_m / n |mean gap| = |sum of gaps| / n.
  return function_interval(
    sums, counts, lambda gaps: np.abs(gaps).sum(axis=1), bootstrap=bootstrap
  )


def safe_threshold(
  captured: Captured,
  confidence: Float[np.ndarray, 'N'],
  agrees: Bool[np.ndarray, 'N'],
  *,
  agreement: float = AGREEMENT,
) -> float:
  """Return the lowest confidence from which on positions agree so often.

  Positions at or above it agree at least that often taken together; infinity
  where those of the highest confidence do not.
  """
  weight = np.asarray(captured.weight, float)
  values, rank = np.unique(confidence, return_inverse=True)
  count = lambda x: np.cumsum(np.bincount(rank, x, len(values))[::-1])[::-1]
  share = count(weight * agrees) / count(weight)
  enough = np.flatnonzero(share >= agreement - 1e-12)
  return float(values[enough[0]]) if len(enough) else math.inf


def _bins(
  confidence: Float[np.ndarray, 'N'], num_bins: int
) -> Int[np.ndarray, 'N']:
  """Return the bin of each confidence; a value on an edge is in the lower."""
  return np.clip(
    np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1
  )
