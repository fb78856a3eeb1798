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
"""What gates can skip: every gate over every threshold, at a budget.

A gate scores every read-out of a token, higher is safer; a token leaves at the
first depth whose score reaches the threshold, else at depth L. One threshold
serves all depths, as in most of the literature. Over a text this gives, for a
gate and a threshold, the share of blocks skipped before a token is emitted and
what it costs in quality:

  SKIP@e = max over gates and thresholds of the mean skip with a drop <= e
  REGRET = SAT - SKIP@0, what the best gate leaves on the table

Wei et al. (2026), arXiv 2603.23701, report the largest skip at a loss of
accuracy; which gates they sweep over and whether the threshold is chosen on
the text it is reported on is not known, hence "(eejax definition)": here the
threshold is chosen and reported on the same rows (the definition above), and
beside it chosen on every other row and reported on the rest, which a user can
expect of new text.

Tokens are read teacher-forced, with exact keys and values.
"""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np

from eejax.analysis import exit_scores
from eejax.analysis.suitability.headroom import headroom
from eejax.capture.captured import Captured, ReadoutKind
from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError, EejaxError
from eejax.stats.bootstrap import (
  DEFAULT,
  Bootstrap,
  Interval,
  function_interval,
)
from eejax.types import Float

NAME = 'SKIP@e (eejax definition)'
BUDGETS = (0.0, 0.01, 0.05)


class Quality(enum.Enum):
  """What a drop is counted in.

  AGREEMENT: share of tokens that are not the full model's. ACCURACY: share of
  right next tokens lost; it may be below 0, where exits are luckier.
  """

  AGREEMENT = 'agreement'
  ACCURACY = 'accuracy'


@dataclasses.dataclass(frozen=True)
class SweepSettings:
  """Say what is swept over.

  Attributes:
    gates: which scores.
    thresholds: how many of each gate, at quantiles of its scores; `never` and
      the largest score that occurs come on top.
    first_depth: no exit below it.
    readouts: natural depths, or trained exits.
  """

  gates: tuple[str, ...] = exit_scores.ALL
  thresholds: int = 48
  first_depth: int = 1
  readouts: ReadoutKind = ReadoutKind.NATURAL

  def __post_init__(self):
    check_fields(self)
    if not self.gates:
      raise ArgumentError('there is no gate to sweep over.')
    if self.thresholds < 2:
      raise ArgumentError(
        f'thresholds must be at least 2, not {self.thresholds}.'
      )


DEFAULT_SWEEP = SweepSettings()


@dataclasses.dataclass(frozen=True)
class Point:
  """Outcome of one gate at one threshold.

  Attributes:
    gate: which.
    threshold: exit where the score is at least this; infinity is never.
    skip: mean share of blocks not run before a token was emitted.
    agreement: share of tokens that are the full model's.
    accuracy: share of tokens that are the text's.
    exit_shares: share of tokens that left at each read-out.
    heads: output matrices read a token, that which emits it among them.
  """

  gate: str
  threshold: float
  skip: float
  agreement: float
  accuracy: float
  heads: float
  exit_shares: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Every gate at every threshold, row by row.

  Attributes:
    points: what each setting does over all rows; a gate after the other,
      safest first.
    depths: of the read-outs a token may leave at, L last.
    sums: of skip, agreement and accuracy, by row.
    counts: weight of each row.
    full_accuracy: of the full model, by row.
    num_layers: L.
  """

  points: tuple[Point, ...]
  depths: tuple[float, ...]
  sums: Float[np.ndarray, 'settings 3 rows']
  counts: Float[np.ndarray, 'rows']
  full_accuracy: Float[np.ndarray, 'rows']
  num_layers: int

  def of(self, gate: str) -> tuple[Point, ...]:
    """Return the points of one gate."""
    return tuple(p for p in self.points if p.gate == gate)

  @property
  def gates(self) -> tuple[str, ...]:
    """Return the gates that were swept."""
    return tuple(dict.fromkeys(p.gate for p in self.points))

  def drops(self, quality: Quality) -> Float[np.ndarray, 'settings rows']:
    """Return what each setting loses, summed over each row."""
    if quality is Quality.AGREEMENT:
      return self.counts - self.sums[:, 1]
    return self.full_accuracy - self.sums[:, 2]


@dataclasses.dataclass(frozen=True)
class Skip:
  """The largest skip at a budget.

  Attributes:
    budget: the drop that is allowed, e.
    quality: what it is counted in.
    gate: the one that skips most.
    threshold: its threshold.
    skip: on the rows the threshold was chosen on, as the definition has it.
    drop: there.
    heads: output matrices read a token there.
    held_out_skip: threshold chosen on every other row, skip of the rest; None
      where there is one row.
    held_out_drop: the drop of these, which may exceed the budget.
    name: of the definition.
  """

  budget: float
  quality: Quality
  gate: str
  threshold: float
  skip: Interval
  drop: float
  heads: float
  held_out_skip: float | None
  held_out_drop: float | None
  name: str = NAME


def sweep(
  captured: Captured, *, settings: SweepSettings = DEFAULT_SWEEP
) -> Sweep:
  """Take every gate through a range of thresholds over a captured text.

  Args:
    captured: the text; gates that need what it lacks are left out.
    settings: what is swept over.

  Raises:
    ArgumentError: there is no read-out to leave at, or no gate is left.
    EejaxError: scores are not finite.
  """
  ready = _exits(captured, settings)
  depths = ready.facts.depths
  right = (ready.top1 == ready.target).astype(np.float32)
  agree = ready.agree.astype(np.float32)
  skip_of = (1 - depths / ready.num_layers).astype(np.float32)
  points: list[Point] = []
  sums: list[np.ndarray] = []
  for gate, scores in _scores(ready, settings.gates).items():
    reached = np.maximum.accumulate(scores, axis=0)
    for threshold in thresholds_of(reached, settings.thresholds):
      left = (reached < threshold).sum(axis=0)
      values = np.stack([_at(agree, left), _at(right, left)])
      by_row, counts = ready.by_row(np.stack([skip_of[left], *values]))
      sums.append(by_row)
      points.append(_point(gate, threshold, by_row, counts, left, ready))
  if not points:
    raise ArgumentError(
      'none of the gates can be read from this capture; capture the text with '
      'more fields.'
    )
  full, counts = ready.by_row(right[-1])
  return Sweep(
    points=tuple(points),
    depths=tuple(float(d) for d in depths),
    sums=np.stack(sums),
    counts=counts,
    full_accuracy=full,
    num_layers=ready.num_layers,
  )


def _exits(captured: Captured, settings: SweepSettings) -> Captured:
  """Return the capture at the places a token may leave at, the end last."""
  kept = captured.only(settings.readouts)
  depths = kept.facts.depths
  places = [
    i
    for i, d in enumerate(depths[:-1])
    if settings.first_depth <= d < captured.num_layers
  ]
  if not places:
    raise ArgumentError(
      f'the capture has no {settings.readouts.value} read-out from depth '
      f'{settings.first_depth} on and before the last; capture more depths.'
    )
  return kept.at_readouts((*places, len(depths) - 1))


def _scores(
  ready: Captured, gates: Sequence[str]
) -> dict[str, Float[np.ndarray, 'X N']]:
  """Return the scores of every read-out but the last, by gate.

  Gates that the capture does not serve are left out.

  Raises:
    EejaxError: a score is not finite.
  """
  by_gate = {}
  for gate in gates:
    if not exit_scores.is_served(ready, gate):
      continue
    scores = exit_scores.exit_scores(ready, gate)[:-1]
    if gate == 'gate':
      missing = np.asarray(np.isnan(scores).all(axis=1))
      # An exit without a gate is never taken.
      scores = np.where(missing[:, None], -np.inf, scores)
    if np.isnan(scores).any():
      raise EejaxError(
        f'the model returns numbers that are not finite (gate {gate}); the '
        'checkpoint is damaged, or its numbers do not fit the compute dtype '
        '(try float32).'
      )
    by_gate[gate] = scores
  return by_gate


def _at(values, left):
  return np.take_along_axis(values, left[None], axis=0)[0]


def _point(gate, threshold, by_row, counts, left, ready: Captured) -> Point:
  skip, agreement, accuracy = by_row.sum(axis=1) / counts.sum()
  shares = np.bincount(
    left, weights=ready.weight, minlength=len(ready.readouts)
  )
  return Point(
    gate=gate,
    threshold=float(threshold),
    skip=float(skip),
    agreement=float(agreement),
    accuracy=float(accuracy),
    heads=_heads(gate, left, ready),
    exit_shares=tuple(float(s) for s in shares / shares.sum()),
  )


def _heads(gate: str, left, ready: Captured) -> float:
  if not exit_scores.asks_head(gate):
    return 1.0
  return float(np.average(left + 1, weights=ready.weight))


def thresholds_of(
  reached: Float[np.ndarray, 'X N'], count: int
) -> Float[np.ndarray, 'thresholds']:
  """Return thresholds that let more and more tokens leave, never first.

  Args:
    reached: the largest score of each token so far, by read-out.
    count: how many at most that let some tokens leave and others not; a
      quarter as many follow, at which tokens leave earlier and earlier.
  """
  quantiles = lambda values, n: np.quantile(
    values, np.linspace(1, 0, n), method='inverted_cdf'
  )
  levels = quantiles(reached[-1], count)
  lower = quantiles(reached[0], max(count // 4, 2))
  finite = np.unique(np.concatenate([levels, lower]))
  finite = finite[np.isfinite(finite)]
  return np.concatenate([[np.inf], finite[::-1]])


def skip_at(
  found: Sweep,
  budget: float,
  *,
  quality: Quality = Quality.AGREEMENT,
  gates: Sequence[str] | None = None,
  bootstrap: Bootstrap = DEFAULT,
) -> Skip:
  """Return the largest skip whose drop stays within a budget.

  Args:
    found: every gate at every threshold.
    budget: drop allowed, a share of tokens, 0 to 1.
    quality: what a drop is counted in.
    gates: among which; all by default.
    bootstrap: how the interval is made. Every draw of rows chooses its own
      gate and threshold, so the interval holds the search, too.

  Raises:
    ArgumentError: the budget is out of range, or a gate was not swept.
  """
  if not 0 <= budget <= 1:
    raise ArgumentError(f'a budget must lie in 0 to 1, not {budget}.')
  among = found.gates if gates is None else tuple(gates)
  chosen = [i for i, p in enumerate(found.points) if p.gate in among]
  if not chosen:
    raise ArgumentError('none of these gates was swept over.')
  skips = found.sums[chosen, 0]
  drops = found.drops(quality)[chosen]
  count = len(chosen)

  def best(means: np.ndarray) -> np.ndarray:
    return _largest(means[:, :count], means[:, count:], budget)[0]

  both = np.concatenate([skips, drops]).T
  skip = function_interval(both, found.counts, best, bootstrap=bootstrap)
  total = both.sum(axis=0)[None] / found.counts.sum()
  place = _largest(total[:, :count], total[:, count:], budget)[1][0]
  point = found.points[chosen[place]]
  held_skip, held_drop = _held_out(skips, drops, found.counts, budget)
  return Skip(
    budget=budget,
    quality=quality,
    gate=point.gate,
    threshold=point.threshold,
    skip=skip,
    drop=float(total[0, count + place]),
    heads=point.heads,
    held_out_skip=held_skip,
    held_out_drop=held_drop,
  )


def _largest(skips, drops, budget: float):
  """Return the largest skip within the budget, and which setting has it.

  `never` skips nothing and drops nothing, so there always is one.
  """
  # Sums of shares in float32 may miss an exact 0 by rounding.
  allowed = np.where(drops <= budget + 1e-9, skips, -1.0)
  place = allowed.argmax(axis=1)
  return np.take_along_axis(allowed, place[:, None], axis=1)[:, 0], place


def _held_out(skips, drops, counts, budget: float):
  if len(counts) < 2:
    return None, None
  choose: np.ndarray = np.arange(len(counts)) % 2 == 0
  mean = lambda x, rows: x[:, rows].sum(axis=1)[None] / counts[rows].sum()
  place = _largest(mean(skips, choose), mean(drops, choose), budget)[1][0]
  rest = np.logical_not(choose)
  return float(mean(skips, rest)[0, place]), float(mean(drops, rest)[0, place])


@dataclasses.dataclass(frozen=True)
class Regret:
  """Share of the ceiling that a gate leaves.

  Attributes:
    gate: which, None for the best of all.
    skip: SKIP@0.
    regret: SAT - SKIP@0.
  """

  gate: str | None
  skip: float
  regret: float


def regrets(
  captured: Captured, found: Sweep, *, bootstrap: Bootstrap = DEFAULT
) -> tuple[Regret, ...]:
  """Return REGRET of the best gate, then of each, the smallest first."""
  ceiling = headroom(captured, bootstrap=bootstrap).stable.value
  few = dataclasses.replace(bootstrap, draws=1)
  of = lambda gates: skip_at(found, 0.0, gates=gates, bootstrap=few).skip.value
  single = {gate: of([gate]) for gate in found.gates}
  order = sorted(single, key=lambda g: -single[g])
  best = of(None)
  return (
    Regret(None, best, ceiling - best),
    *(Regret(g, single[g], ceiling - single[g]) for g in order),
  )
