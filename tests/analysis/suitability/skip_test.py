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
"""Test sweeps of gates against walks by hand and closed forms."""

import math

import numpy as np
import pytest

from eejax.analysis.exit_scores import ALL, exit_scores
from eejax.analysis.suitability.headroom import headroom
from eejax.analysis.suitability.skip import (
  Quality,
  SweepSettings,
  regrets,
  skip_at,
  sweep,
)
from eejax.capture.captured import ReadoutKind
from eejax.errors import ArgumentError, EejaxError


@pytest.fixture(scope='module')
def swept(mixed):
  return sweep(mixed)


def walk(captured, scores, threshold):
  """Return the read-out at which each token leaves, one after the other."""
  left = []
  for n in range(captured.num_positions):
    for i in range(1, len(captured.readouts) - 1):
      if scores[i, n] >= threshold:
        break
    else:
      i = len(captured.readouts) - 1
    left.append(i)
  return np.array(left)


@pytest.mark.parametrize('gate', ['max_prob', 'js', 'entropy'])
def test_points_are_those_of_a_walk(mixed, swept, gate):
  scores = exit_scores(mixed, gate)
  tokens = np.arange(96)
  for point in swept.of(gate)[::7]:
    left = walk(mixed, scores, point.threshold)
    assert point.skip == pytest.approx(1 - left.mean() / 4, abs=1e-6)
    said = mixed.top1[left, tokens]
    assert point.agreement == pytest.approx((said == mixed.top1[-1]).mean())
    assert point.accuracy == pytest.approx((said == mixed.target).mean())
    shares = np.bincount(left, minlength=5)[1:] / 96
    assert point.exit_shares == pytest.approx(shares)


def test_a_sweep_begins_with_never_and_ends_with_the_first_exit(swept):
  for gate in swept.gates:
    points = swept.of(gate)
    assert points[0].skip == 0
    assert points[0].threshold == math.inf
    assert points[0].agreement == 1
    assert points[-1].skip == pytest.approx(3 / 4)
    skips = [p.skip for p in points]
    assert skips == sorted(skips)


def test_a_perfect_gate_reaches_the_ceiling(mixed, swept):
  # A depth is sure (5 against 2) where it says the final token, and it never
  # unsays it: the largest probability knows the stable depth.
  ceiling = headroom(mixed).stable.value
  best = skip_at(swept, 0.0, gates=['max_prob'])
  assert best.skip.value == pytest.approx(ceiling)
  assert best.drop == pytest.approx(0, abs=1e-9)
  assert best.held_out_skip > 0
  assert best.held_out_drop == pytest.approx(0, abs=1e-9)
  found = regrets(mixed, swept)
  assert found[0].gate is None
  assert found[0].regret == pytest.approx(0, abs=1e-6)
  assert {r.gate for r in found[1:]} == set(swept.gates)


def test_a_budget_buys_skip(swept):
  gates = ['patience(2)']
  skips = [
    skip_at(swept, e, gates=gates).skip.value for e in (0.0, 0.1, 0.5, 1.0)
  ]
  assert skips == sorted(skips)
  assert skips[-1] == pytest.approx(3 / 4)
  assert skips[0] < skips[-1]


def test_accuracy_may_gain_from_leaving_early(mixed, swept):
  # A third of the targets are what tokens say before they are settled.
  found = skip_at(swept, 0.0, quality=Quality.ACCURACY)
  point = next(
    p
    for p in swept.points
    if (p.gate, p.threshold) == (found.gate, found.threshold)
  )
  full = (mixed.top1[-1] == mixed.target).mean()
  assert point.accuracy >= full - 1e-6
  assert found.drop == pytest.approx(full - point.accuracy, abs=1e-6)


def test_the_interval_holds_the_estimate(swept):
  found = skip_at(swept, 0.05)
  assert found.skip.low <= found.skip.value <= found.skip.high
  assert found.skip.low < found.skip.high


def test_gates_that_a_capture_does_not_serve_are_left_out(planted):
  logits = np.log(np.array([[[0.5, 0.3, 0.2]], [[0.6, 0.1, 0.3]]]))
  text = planted.of_logits(logits, k=3)
  # The one read-out that could be left at has none before it.
  served = set(sweep(text, settings=SweepSettings(first_depth=0)).gates)
  assert served == {'max_prob', 'margin', 'entropy', 'patience(2)'}
  assert served < set(ALL)


def test_trained_exits_and_their_gates(mixed, planted):
  natural, trained = ReadoutKind.NATURAL, ReadoutKind.EXIT
  captured = planted.with_kinds(
    mixed, [natural, trained, natural, trained, natural]
  )
  gate = np.full((5, 96), np.nan)
  gate[1] = mixed.agree[1]
  captured = planted.with_arrays(captured, gate_score=gate)
  settings = SweepSettings(gates=('gate',), readouts=trained)
  found = sweep(captured, settings=settings)
  assert found.depths == (1, 3, 4)
  # Depth 3 has no gate, so nothing leaves there.
  assert all(p.exit_shares[1] == 0 for p in found.points)
  best = skip_at(found, 0.0)
  assert best.skip.value == pytest.approx(0.75 * mixed.agree[1].mean())


def test_one_row_has_nothing_held_out(mixed):
  one = mixed.at_positions(mixed.row == 0)
  assert skip_at(sweep(one), 0.0).held_out_skip is None


def test_what_cannot_be_swept_is_said(mixed, planted):
  with pytest.raises(ArgumentError, match='no natural read-out from depth 4'):
    sweep(mixed, settings=SweepSettings(first_depth=4))
  with pytest.raises(ArgumentError, match='none of the gates'):
    sweep(mixed, settings=SweepSettings(gates=('gate',)))
  with pytest.raises(ArgumentError, match='budget'):
    skip_at(sweep(mixed), 1.5)
  with pytest.raises(ArgumentError, match='no gate'):
    SweepSettings(gates=())
  with pytest.raises(ArgumentError, match='at least 2'):
    SweepSettings(thresholds=1)
  broken = np.array(mixed.entropy)
  broken[2, 5] = math.nan
  with pytest.raises(EejaxError, match='not finite'):
    sweep(planted.with_arrays(mixed, entropy=broken))
