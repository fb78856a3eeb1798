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
"""Test curves and searches on hand-made scores."""

import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.evaluation import sweep
from eejax.evaluation.scores import ExitScores
from eejax.evaluation.sweep import Search


def speedup(work):
  """Charge a block a run, whatever its window; two segments of two blocks."""
  cost = 2 * work.segment_runs.sum()
  return 2 * len(work.taken) * work.tokens / cost


def hand_made():
  """Return two exits, at depths 2 and 4 of 6, over two rows of three."""
  scores = np.array(
    [
      [[0.9, 0.2, 0.9], [0.2, 0.2, 0.9]],
      [[0.9, 0.9, 0.9], [0.2, 0.9, 0.9]],
    ],
    np.float32,
  )
  agree = np.array(
    [
      [[True, False, False], [False, False, True]],
      [[True, True, False], [False, True, True]],
    ]
  )
  return ExitScores('gate', (2, 4), 6, scores, agree, np.ones((2, 3), bool))


def point(thresholds, scores=None, window=8):
  return sweep.evaluate_settings(
    scores or hand_made(), [thresholds], window=window, speedup=speedup
  )[0]


class TestPoint:
  def test_by_hand(self):
    # Row 0: exits 0, 1, 0 (right, right, wrong); row 1: full, 1, 0.
    found = point((0.5, 0.5))
    assert found.agreement.value == pytest.approx(5 / 6)
    assert found.exit_shares == pytest.approx((3 / 6, 2 / 6, 1 / 6))
    assert found.mean_depth == pytest.approx((3 * 2 + 2 * 4 + 6) / 6)
    # Segment 0 ran 6 times, segment 1 at three tokens, segment 2 at one.
    assert found.block_reads == pytest.approx(2 * (6 + 3 + 1) / 36)
    assert found.predicted_speedup == pytest.approx(36 / 20)

  def test_never_is_full_decoding(self):
    found = point((None, None))
    assert found.agreement.value == 1.0
    assert found.exit_shares == (0.0, 0.0, 1.0)
    assert found.mean_depth == 6.0
    assert found.block_reads == 1.0
    assert found.predicted_speedup == 1.0

  def test_each_exit_has_its_own_threshold(self):
    # Without the first exit, token 2 of row 0 leaves at the second, wrong.
    found = point((None, 0.5))
    assert found.exit_shares == pytest.approx((0, 5 / 6, 1 / 6))
    assert found.agreement.value == pytest.approx(5 / 6)

  def test_a_small_window_costs_speed_and_keeps_more(self):
    found = point((0.5, 0.5), window=2)
    # Every other token at the latest goes through: row 0 leaves at 0 and 2,
    # row 1 at 1 alone.
    assert found.exit_shares == pytest.approx((2 / 6, 1 / 6, 3 / 6))
    assert found.agreement.value == pytest.approx(5 / 6)
    assert found.predicted_speedup < point((0.5, 0.5)).predicted_speedup

  def test_padding_does_not_count(self):
    scores = hand_made()
    counted = np.array([[True, True, False], [True, True, True]])
    cut = ExitScores('gate', (2, 4), 6, scores.scores, scores.agree, counted)
    # The wrong exit was the token that is gone.
    assert point((0.5, 0.5), cut).agreement.value == 1.0


def test_the_curve_rises_in_agreement():
  points = sweep.sweep(random_scores(), window=8, speedup=speedup)
  agreement = [p.agreement.value for p in points]
  assert agreement[-1] == 1.0
  assert points[-1].predicted_speedup == 1.0
  assert agreement[0] < agreement[len(points) // 2] < 1.0
  assert [len(p.thresholds) for p in points] == [3] * len(points)


def random_scores(*, rows=30, length=40, seed=0):
  """Return scores that are honest: the chance of agreement itself."""
  random = np.random.default_rng(seed)
  scores = random.beta(3, 0.5, (3, rows, length)).astype(np.float32)
  agree = random.uniform(size=scores.shape) < scores
  counted = np.ones((rows, length), bool)
  return ExitScores('gate', (2, 4, 6), 8, scores, agree, counted)


class TestCalibrate:
  def found(self, **fields):
    return sweep.calibrate(
      random_scores(rows=60),
      window=8,
      speedup=speedup,
      search=Search(**fields),
    )

  def test_the_other_half_reaches_the_target(self):
    found = self.found(target=0.95)
    assert found.tuned.agreement.value >= 0.95
    assert found.held_out.agreement.value >= 0.95 - 0.01
    assert found.held_out.predicted_speedup > 1.1
    assert found.thresholds == found.held_out.thresholds

  def test_halves_are_really_apart(self):
    # Scores that know the answer in the tuning rows and nothing elsewhere.
    scores = random_scores(rows=40)
    values = scores.scores.copy()
    values[:, ::2] = np.where(scores.agree[:, ::2], 0.9, 0.1)
    values[:, 1::2] = 0.9
    broken = ExitScores(
      'gate', scores.depths, 8, values, scores.agree, scores.counted
    )
    found = sweep.calibrate(broken, window=8, speedup=speedup)
    assert found.tuned.agreement.value >= 0.97
    assert found.held_out.agreement.value < 0.95

  def test_it_beats_one_threshold_for_all(self):
    scores = random_scores(rows=60)
    # An exit that is sure of itself and wrong spoils any common threshold.
    scores.agree[0] = (
      np.random.default_rng(1).uniform(size=scores.agree[0].shape) < 0.5
    )
    tuning, _ = scores.halves()
    points = sweep.sweep(tuning, window=8, speedup=speedup)
    common = max(
      p.predicted_speedup for p in points if p.agreement.value >= 0.95
    )
    found = sweep.calibrate(
      scores, window=8, speedup=speedup, search=Search(target=0.95, margin=0)
    )
    assert found.tuned.predicted_speedup > common

  def test_a_wider_margin_is_safer(self):
    close = self.found(target=0.95, margin=0.0)
    wide = self.found(target=0.95, margin=3.0)
    assert wide.tuned.agreement.value > close.tuned.agreement.value
    assert wide.tuned.predicted_speedup <= close.tuned.predicted_speedup

  def test_useless_exits_are_never_taken(self):
    scores = random_scores()
    scores.agree[:] = False
    found = sweep.calibrate(
      scores, window=8, speedup=speedup, search=Search(target=1.0, margin=0.0)
    )
    assert found.thresholds == (None, None, None)
    assert not found.uses_exits
    assert found.held_out.agreement.value == 1.0

  def test_where_nothing_pays_it_is_full_decoding(self):
    # Asking costs more than all that is saved.
    found = sweep.calibrate(
      random_scores(),
      window=8,
      speedup=lambda work: 1 / (1 + work.checks.sum()),
    )
    assert not found.uses_exits
    assert found.tuned.predicted_speedup == 1.0
    assert found.held_out.predicted_speedup == 1.0

  def test_a_search_near_the_best_there_is(self):
    # Two exits: all pairs of a fine grid can be tried.
    scores = random_scores()
    pair = ExitScores(
      'gate', (2, 4), 6, scores.scores[:2], scores.agree[:2], scores.counted
    )
    search = Search(target=0.95, margin=0.0)
    chosen = sweep.find_thresholds(
      pair, window=8, speedup=speedup, search=search
    )
    grid = [*np.linspace(0.5, 1, 40).tolist(), None]
    points = sweep.evaluate_settings(
      pair,
      [(a, b) for a in grid for b in grid],
      window=8,
      speedup=speedup,
      bootstrap=sweep.Bootstrap(draws=1),
    )
    best = max(p.predicted_speedup for p in points if p.agreement.value >= 0.95)
    assert point(chosen, pair).predicted_speedup > 1 + 0.93 * (best - 1)


class TestCoverage:
  def test_by_hand(self):
    # By falling score the first exit is right, wrong, right, right, ...
    scores = np.array([[[0.9, 0.8, 0.7, 0.6]], [[0.1, 0.2, 0.3, 0.4]]])
    agree = np.array(
      [[[True, False, True, True]], [[True, True, False, False]]]
    )
    logged = ExitScores('gate', (1, 2), 3, scores, agree, np.ones((1, 4), bool))
    assert sweep.coverage(logged, precision=1.0) == (0.25, 0.0)
    assert sweep.coverage(logged, precision=0.75) == (1.0, 0.0)
    assert sweep.coverage(logged, precision=0.5) == (1.0, 1.0)

  def test_padding_does_not_count(self):
    scores = np.array([[[0.9, 0.8]]])
    logged = ExitScores(
      'gate',
      (1,),
      2,
      scores,
      np.array([[[True, False]]]),
      np.array([[True, False]]),
    )
    assert sweep.coverage(logged, precision=1.0) == (1.0,)


@pytest.mark.parametrize(
  'fields', [{'target': 0.0}, {'target': 1.1}, {'prices': 0}, {'margin': -1}]
)
def test_a_search_checks_itself(fields):
  with pytest.raises(ArgumentError):
    Search(**fields)
