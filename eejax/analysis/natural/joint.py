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
"""Two models on one text: does joint training make exits, or find them?

Shan et al. (2024, "Early Exit Is a Natural Capability in Transformer-based
Models") claim that exits are there without joint training, and that joint
training helps a gate to find the best one. In numbers, on the same positions,
each the joint model's less the plain model's:

  ceiling gap  mean skip at the stable depth: what could be saved
  gate gap     mean skip of a gate at equal agreement: what is saved

The claim predicts a small ceiling gap and a larger gate gap. Each model's
threshold is the lowest that reaches the agreement on every other row, and is
reported on the rest.

Reference:
  Shan et al. (2024), Early Exit Is a Natural Capability in Transformer-based
  Models, abstract. The pairing and the thresholds are an eejax definition.
"""

import dataclasses

import numpy as np

from eejax.analysis.exit_scores import exit_scores
from eejax.analysis.natural.depths import Ceiling, depths
from eejax.analysis.natural.gates import leaves_at, threshold_for
from eejax.capture.captured import Captured
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import (
  DEFAULT,
  Bootstrap,
  Interval,
  difference_interval,
  ratio_interval,
)
from eejax.types import Float


@dataclasses.dataclass(frozen=True)
class Paired:
  """A figure of two models on the same positions.

  Attributes:
    plain: of the plain model.
    joint: of the jointly trained one.
    gap: joint less plain, paired by rows.
  """

  plain: Interval
  joint: Interval
  gap: Interval


@dataclasses.dataclass(frozen=True)
class JointAgainstPlain:
  """Comparison of a jointly trained model with a plain one.

  Attributes:
    gate: which gate.
    agreement: what both were tuned to.
    thresholds: of the plain and of the joint model.
    ceilings: mean skip at each of the three depths, by its name.
    gate_skip: mean skip of the gate.
    gate_agreement: agreement it reaches where it is reported.
    loss: of the full models, nats: what joint training costs them.
    found: share of the ceiling that the gate realises, gate skip over the
      skip at the stable depth, of each model; None where there is nothing to
      find.
    verdict: whether the claim holds here, in a sentence.
  """

  gate: str
  agreement: float
  thresholds: tuple[float, float]
  ceilings: dict[str, Paired]
  gate_skip: Paired
  gate_agreement: Paired
  loss: Paired | None
  found: tuple[float | None, float | None]
  verdict: str


def joint_against_plain(
  plain: Captured,
  joint: Captured,
  *,
  gate: str = 'max_prob',
  agreement: float = 0.95,
  bootstrap: Bootstrap = DEFAULT,
) -> JointAgainstPlain:
  """Compare the exits of two models on the positions of one text.

  Args:
    plain: captured of a model trained at its last depth alone.
    joint: of one of the same shape trained at all exits.
    gate: which gate locates exits.
    agreement: share of positions at which it must agree with its own full
      model.
    bootstrap: how intervals are made.

  Raises:
    ArgumentError: the captures are not of one text, or fill only one row.
  """
  _check_same_text(plain, joint)
  rows = np.unique(plain.row)
  if len(rows) < 2:
    raise ArgumentError(
      'thresholds are tuned on every other row and reported on the rest, and '
      'this text fills only one; give more text.'
    )
  for_tuning = np.isin(plain.row, rows[::2])
  pair = (plain, joint)
  thresholds = tuple(
    threshold_for(c.at_positions(for_tuning), gate, agreement=agreement)
    for c in pair
  )
  reported = [c.at_positions(~for_tuning) for c in pair]
  compare = _Comparison(plain, bootstrap)
  compare_rest = _Comparison(reported[0], bootstrap)
  ceilings = {
    ceiling.value: compare(*(_skip(c, depths(c, ceiling)) for c in pair))
    for ceiling in Ceiling
  }
  left = [
    leaves_at(exit_scores(c, gate)[:-1], t)
    for c, t in zip(reported, thresholds, strict=True)
  ]
  gate_skip = compare_rest(
    *(
      _skip(c, c.facts.depths[at]) for c, at in zip(reported, left, strict=True)
    )
  )
  gate_agreement = compare_rest(
    *(
      np.take_along_axis(c.agree, at[None], axis=0)[0].astype(float)
      for c, at in zip(reported, left, strict=True)
    )
  )
  loss = None
  if all('loss' in c for c in pair):
    loss = compare(*(c.loss[-1].astype(float) for c in pair))
  stable = compare_rest(
    *(_skip(c, depths(c, Ceiling.STABLE)) for c in reported)
  )
  return JointAgainstPlain(
    gate=gate,
    agreement=agreement,
    thresholds=(thresholds[0], thresholds[1]),
    ceilings=ceilings,
    gate_skip=gate_skip,
    gate_agreement=gate_agreement,
    loss=loss,
    found=(
      _share(gate_skip.plain, stable.plain),
      _share(gate_skip.joint, stable.joint),
    ),
    verdict=_verdict(ceilings[Ceiling.STABLE.value], gate_skip),
  )


class _Comparison:
  """Pair figures of two models by the rows of their text."""

  def __init__(self, captured: Captured, bootstrap: Bootstrap):
    self._captured, self._bootstrap = captured, bootstrap

  def __call__(
    self, plain: Float[np.ndarray, 'N'], joint: Float[np.ndarray, 'N']
  ) -> Paired:
    ours, counts = self._captured.by_row(plain)
    theirs, _ = self._captured.by_row(joint)
    interval = lambda x: ratio_interval(x, counts, bootstrap=self._bootstrap)
    gap = difference_interval(theirs, ours, counts, bootstrap=self._bootstrap)
    return Paired(interval(ours), interval(theirs), gap)


def _check_same_text(plain: Captured, joint: Captured) -> None:
  for name in ('row', 'position', 'token', 'target'):
    ours, theirs = plain[name], joint[name]
    if ours.shape != theirs.shape or (ours != theirs).any():
      raise ArgumentError(
        'the two captures are of different positions; capture both models on '
        'one text with the same selection.'
      )


def _skip(captured: Captured, depth: np.ndarray) -> Float[np.ndarray, 'N']:
  return 1 - depth / max(captured.num_layers, 1)


def _share(found: Interval, ceiling: Interval) -> float | None:
  return found.value / ceiling.value if ceiling.value > 0 else None


def _verdict(ceiling: Paired, gate: Paired) -> str:
  words = lambda gap: (
    f'{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})'
  )
  gaps = (
    f'the ceiling (stable depth) moves by {words(ceiling.gap)} points of skip, '
    f'the gate at equal agreement by {words(gate.gap)}'
  )
  gate_gains = gate.gap.low > 0
  if gate_gains and gate.gap.low > ceiling.gap.high:
    return f'The claim holds here: {gaps}.'
  if gate_gains and gate.gap.value > ceiling.gap.value:
    return f'The direction is as claimed, and the intervals overlap: {gaps}.'
  if gate_gains:
    return (
      f'Joint training helps, and not the gate alone: {gaps}. The claim does '
      'not hold here.'
    )
  return (
    f'Joint training does not help the gate: {gaps}. The claim does not hold '
    'here.'
  )
