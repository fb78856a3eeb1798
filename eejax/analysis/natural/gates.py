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
"""Criteria as detectors: does a score tell where the answer is there?

Each position at each read-out but the last is a case; it is positive where
the read-out is at or beyond the position's stable depth, so that leaving
there loses nothing. A gate scores every case, and leaves at the first
read-out whose score reaches the threshold, at the full model's otherwise.

  auroc              P(score of a positive > of a negative), ties half
  average_precision  sum_k (R_k - R_{k-1}) P_k over thresholds, falling
  exact              leaves at the stable depth
  premature          leaves before it
  wrong              what it says where it leaves is not the full model's
                     token; a premature exit may be right in passing
  overshoot          blocks run beyond the stable depth, mean over positions
                     that do not leave before it
  skip               1 - depth / L where it leaves: the realised skip
  agreement          1 - wrong

Gates (higher is safer, all in [0, 1]), by what a capture holds:

  max_prob        the highest probability
  margin          the highest less the second
  entropy         1 - H(p) / log V
  patience(n)     read-outs in a row that say the same, less one, over n, at
                  most 1
  hidden_cosine   cosine with the read-out before, after the norm, at least 0
  js              1 - JS / log 2 with the read-out before
  gate            the trained gate of an exit

Scores are those of `eejax.analysis.exit_scores`, hence of the decoder.

Reference:
  Fawcett (2006), An introduction to ROC analysis, section 7 (AUROC).
  Zhu (2004), Recall, Precision and Average Precision (technical report,
  University of Waterloo).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from eejax.analysis.exit_scores import exit_scores, readable_criteria
from eejax.analysis.natural.curves import row_counts
from eejax.analysis.natural.depths import Ceiling, mean_over, places
from eejax.capture.captured import Captured
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import (
  DEFAULT,
  Bootstrap,
  Interval,
  function_interval,
)
from eejax.types import Bool, Float, Int

# Scores are told apart by so many levels where there are more.
_LEVELS = 1000


@dataclasses.dataclass(frozen=True)
class Detection:
  """Quality of a gate: how well it tells settled positions from others.

  Attributes:
    gate: its name.
    auroc: see the module's docstring; 0.5 tells nothing.
    average_precision: `prevalence` tells nothing.
    prevalence: share of cases that are positive.
  """

  gate: str
  auroc: Interval
  average_precision: Interval
  prevalence: Interval


@dataclasses.dataclass(frozen=True)
class Operation:
  """Outcome of a gate at one threshold; see the module's docstring."""

  gate: str
  threshold: float
  skip: Interval
  agreement: Interval
  exact: Interval
  premature: Interval
  wrong: Interval
  overshoot: Interval


def _scores(captured: Captured, gate: str) -> Float[np.ndarray, 'E N']:
  """Return the scores of every read-out but the last.

  Raises:
    ArgumentError: the capture cannot serve the gate at some read-out.
  """
  scores = exit_scores(captured, gate)[:-1].astype(float)
  if np.isnan(scores).any():
    raise ArgumentError(
      'some read-outs have no gate; look at the gated exits alone.'
    )
  return scores


def is_deep_enough(captured: Captured) -> Bool[np.ndarray, 'E N']:
  """Return at which read-outs but the last a position's answer is there."""
  stable = places(captured, Ceiling.STABLE)
  return np.arange(len(captured.readouts) - 1)[:, None] >= stable


# MARK: Detection


def detection(
  captured: Captured, gate: str, *, bootstrap: Bootstrap = DEFAULT
) -> Detection:
  """Return how well a gate detects that the answer is there.

  Where one class is empty, every threshold is as good as another: the AUROC
  is 0.5.

  Args:
    captured: a text; leave the read-outs alone that the gate would read.
    gate: its name.
    bootstrap: how intervals are made. They are of scores rounded to a
      thousand levels, the estimates of the scores as they are.
  """
  scores = _scores(captured, gate)
  positive = is_deep_enough(captured)
  weight = np.broadcast_to(np.asarray(captured.weight, float), scores.shape)
  level = _levels(scores)
  bins = int(level.max()) + 1
  sums = np.concatenate(
    [
      row_counts(captured, level, bins=bins, values=wanted.astype(float))
      for wanted in (positive, ~positive)
    ],
    axis=1,
  )
  counts = np.full(len(sums), 0.0) + sums.sum(axis=1)

  def interval(function, exact: float) -> Interval:
    def of(ratios):
      return function(*np.split(ratios, 2, axis=1))

    found = function_interval(sums, counts, of, bootstrap=bootstrap)
    return Interval(exact, min(found.low, exact), max(found.high, exact))

  share = lambda p, n: p.sum(axis=1) / (p + n).sum(axis=1)
  exact = _by_score(scores, positive, weight)
  prevalence = float((positive * weight).sum() / weight.sum())
  return Detection(
    gate=gate,
    auroc=interval(_auroc, float(_auroc(*exact)[0])),
    average_precision=interval(
      _average_precision, float(_average_precision(*exact)[0])
    ),
    prevalence=interval(share, prevalence),
  )


def _levels(scores: Float[np.ndarray, 'E N']) -> Int[np.ndarray, 'E N']:
  """Return the rank of each score, or of the quantile it falls in."""
  values = np.unique(scores)
  if len(values) > _LEVELS:
    values = np.unique(np.quantile(scores, np.linspace(0, 1, _LEVELS)))
  return np.searchsorted(values, scores, side='right') - 1


def _by_score(scores, positive, weight):
  """Return the weight of each class at each distinct score, [1, scores]."""
  values, rank = np.unique(scores, return_inverse=True)
  rank = rank.reshape(-1)
  count = lambda wanted: np.bincount(
    rank, (weight * wanted).reshape(-1), len(values)
  )[None]
  return count(positive), count(~positive)


def _auroc(
  positive: Float[np.ndarray, 'draws scores'],
  negative: Float[np.ndarray, 'draws scores'],
) -> Float[np.ndarray, 'draws']:
  """Return the AUROC from the classes' weights at each score, rising."""
  below = np.cumsum(negative, axis=1) - negative
  won = (positive * (below + negative / 2)).sum(axis=1)
  pairs = positive.sum(axis=1) * negative.sum(axis=1)
  return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1), 0.5)


def _average_precision(
  positive: Float[np.ndarray, 'draws scores'],
  negative: Float[np.ndarray, 'draws scores'],
) -> Float[np.ndarray, 'draws']:
  hits = np.cumsum(positive[:, ::-1], axis=1)
  taken = hits + np.cumsum(negative[:, ::-1], axis=1)
  precision = hits / np.where(taken > 0, taken, 1)
  total = hits[:, -1]
  found = (precision * positive[:, ::-1]).sum(axis=1)
  return np.where(total > 0, found / np.where(total > 0, total, 1), 0.0)


# MARK: Operation


def leaves_at(
  scores: Float[np.ndarray, 'E N'],
  thresholds: float | Sequence[float],
) -> Int[np.ndarray, 'N']:
  """Return the number of the read-out where each position leaves.

  Args:
    scores: of each read-out but the last.
    thresholds: one for all or one a read-out; it leaves where its score is
      not below. Infinity is never.
  """
  limits = np.broadcast_to(np.asarray(thresholds, float), (len(scores),))
  takes = scores >= limits[:, None]
  return np.where(takes.any(axis=0), takes.argmax(axis=0), len(scores))


def operation(
  captured: Captured,
  gate: str,
  threshold: float,
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> Operation:
  """Return what a gate does at a threshold, along the text as it is."""
  left = leaves_at(_scores(captured, gate), threshold)
  stable = places(captured, Ceiling.STABLE)
  depth = captured.facts.depths
  said = np.take_along_axis(captured.top1, left[None], axis=0)[0]
  right = said == captured.top1[-1]
  mean = lambda x, where=None: mean_over(
    captured, x, where=where, bootstrap=bootstrap
  )
  on_time = left >= stable
  overshoot = Interval(0.0, 0.0, 0.0)
  if on_time.any():
    overshoot = mean(depth[left] - depth[stable], on_time)
  return Operation(
    gate=gate,
    threshold=float(threshold),
    skip=mean(1 - depth[left] / max(captured.num_layers, 1)),
    agreement=mean(right),
    exact=mean(left == stable),
    premature=mean(~on_time),
    wrong=mean(~right),
    overshoot=overshoot,
  )


def threshold_for(captured: Captured, gate: str, *, agreement: float) -> float:
  """Return the lowest threshold at which a gate agrees so often.

  Of the scores that occur, up to a thousand quantiles of them, and infinity
  (never), at which it always does.

  Args:
    captured: what it is tuned on; report on other text.
    gate: its name.
    agreement: share of positions, in [0, 1].
  """
  scores = _scores(captured, gate)
  weight = np.asarray(captured.weight, float)
  total = weight.sum()
  candidates = np.unique(scores)
  if len(candidates) > _LEVELS:
    candidates = np.unique(
      np.quantile(scores, np.linspace(0, 1, _LEVELS), method='higher')
    )
  for threshold in candidates:
    left = leaves_at(scores, threshold)
    said = np.take_along_axis(captured.top1, left[None], axis=0)[0]
    right = said == captured.top1[-1]
    if (right * weight).sum() >= (agreement - 1e-12) * total:
      return float(threshold)
  return math.inf


def compare(
  captured: Captured,
  *,
  gates: Sequence[str] | None = None,
  bootstrap: Bootstrap = DEFAULT,
) -> Mapping[str, Detection]:
  """Return how well each gate detects, best AUROC first."""
  names = readable_criteria(captured) if gates is None else gates
  found = [detection(captured, g, bootstrap=bootstrap) for g in names]
  found.sort(key=lambda d: -d.auroc.value)
  return {d.gate: d for d in found}
