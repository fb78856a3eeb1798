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
"""Test gates as detectors, against counting pairs and planted gates."""

import itertools
import math

import numpy as np
import pytest

from eejax.analysis.exit_scores import exit_scores, readable_criteria
from eejax.analysis.natural import gates
from eejax.capture.captured import ReadoutKind
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import Bootstrap

FEW = Bootstrap(draws=50)
ALL = ['max_prob', 'margin', 'entropy', 'patience(2)', 'hidden_cosine', 'js']


def log_probs(scores):
  """Return likeliest candidates with these probabilities; the last is sure."""
  last = np.full((1, np.shape(scores)[1]), 0.999)
  return np.log(np.concatenate([scores, last]))[..., None]


@pytest.fixture(scope='module')
def noisy(by_hand):
  """Return a capture whose confidence knows something of agreement."""
  random = np.random.default_rng(3)
  final = random.integers(0, 4, 120)
  top1 = np.stack(
    [
      np.where(random.random(120) < share, final, (final + 1) % 4)
      for share in (0.2, 0.5, 0.7)
    ]
    + [final]
  )
  scores = np.round(
    0.3 * random.random((3, 120)) + 0.4 * (top1[:3] == final) + 0.05, 1
  )
  return by_hand(
    top1, row=np.arange(120) // 10, top_log_probs=log_probs(scores)
  )


def pairs_won(scores, positive):
  """Return the AUROC by comparing every positive with every negative."""
  won = [
    (p > n) + (p == n) / 2
    for p, n in itertools.product(scores[positive], scores[~positive])
  ]
  return np.mean(won)


def precision_by_threshold(scores, positive):
  """Return the average precision by its sum over falling thresholds."""
  total, before = 0.0, 0.0
  for threshold in sorted(set(scores), reverse=True):
    taken = scores >= threshold
    recall = positive[taken].sum() / positive.sum()
    total += (recall - before) * positive[taken].mean()
    before = recall
  return total


def test_detection_by_counting_pairs(noisy):
  found = gates.detection(noisy, 'max_prob', bootstrap=FEW)
  scores = exit_scores(noisy, 'max_prob')[:-1].reshape(-1)
  positive = gates.is_deep_enough(noisy).reshape(-1)
  assert found.auroc.value == pytest.approx(pairs_won(scores, positive))
  assert found.average_precision.value == pytest.approx(
    precision_by_threshold(scores, positive)
  )
  assert found.prevalence.value == pytest.approx(positive.mean())
  for interval in (found.auroc, found.average_precision, found.prevalence):
    assert interval.low < interval.value < interval.high


def test_intervals_from_rounded_scores_are_near(noisy, monkeypatch):
  exact = gates.detection(noisy, 'max_prob', bootstrap=FEW)
  monkeypatch.setattr(gates, '_LEVELS', 5)
  rough = gates.detection(noisy, 'max_prob', bootstrap=FEW)
  assert rough.auroc.value == exact.auroc.value
  assert rough.auroc.high == pytest.approx(exact.auroc.high, abs=0.1)


def test_deep_enough_is_from_the_stable_depth_on(by_hand):
  captured = by_hand([[1, 5, 1], [5, 2, 1], [5, 5, 2], [5, 5, 5]])
  assert gates.is_deep_enough(captured).tolist() == [
    [False, False, False],
    [True, False, False],
    [True, True, False],
  ]


class TestPlanted:
  @pytest.fixture(scope='class')
  def exits(self, captured):
    return captured.only(ReadoutKind.EXIT)

  def test_a_gate_that_knows_is_a_perfect_detector(self, exits):
    found = gates.detection(exits, 'gate', bootstrap=FEW)
    assert found.auroc.value == found.average_precision.value == 1.0
    assert (found.auroc.low, found.auroc.high) == (1.0, 1.0)

  def test_it_leaves_where_answers_settle(self, exits, settles):
    found = gates.operation(exits, 'gate', 0.5, bootstrap=FEW)
    wanted = np.maximum(settles, 1)
    assert found.exact.value == found.agreement.value == 1.0
    assert found.premature.value == found.wrong.value == 0.0
    assert found.overshoot.value == 0.0
    assert found.skip.value == pytest.approx(1 - wanted.mean() / 4)

  def test_one_that_waits_overshoots(self, exits, settles):
    found = gates.operation(exits, 'gate', math.inf, bootstrap=FEW)
    assert found.skip.value == 0.0
    assert found.overshoot.value == pytest.approx(
      4 - np.maximum(settles, 1).mean()
    )
    assert found.agreement.value == 1.0

  def test_one_that_always_leaves_is_premature(self, exits, settles):
    found = gates.operation(exits, 'gate', 0.0, bootstrap=FEW)
    assert found.premature.value == pytest.approx((settles > 1).mean())
    assert found.wrong.value == found.premature.value
    assert found.skip.value == 0.75

  def test_confidence_tells_guess_from_answer(self, captured):
    natural = captured.only(ReadoutKind.NATURAL)
    assert readable_criteria(natural) == tuple(ALL)
    found = gates.compare(natural, bootstrap=FEW)
    assert found['max_prob'].auroc.value == 1.0
    assert found['entropy'].auroc.value == 1.0
    # Neighbours agree on a guess as on an answer.
    assert found['js'].auroc.value < 1.0
    values = [d.auroc.value for d in found.values()]
    assert values == sorted(values, reverse=True)


class TestScores:
  def test_each_by_hand(self, captured, plan, settles):
    natural = captured.only(ReadoutKind.NATURAL)
    confidence = np.where(
      np.arange(4)[:, None] >= settles,
      plan.answer_confidence,
      plan.guess_confidence,
    )
    rest = (1 - confidence) / 10
    score = lambda name: exit_scores(natural, name)[:-1]
    close = lambda name, wanted: np.testing.assert_allclose(
      score(name), wanted, atol=1e-5
    )
    close('max_prob', confidence)
    close('margin', confidence - rest)
    entropy = -confidence * np.log(confidence) - 10 * rest * np.log(rest)
    close('entropy', 1 - entropy / math.log(11))
    # The depth before is the same unless the answer settles here.
    moved = settles == np.arange(4)[:, None]
    first = np.arange(4)[:, None] == 0
    close('hidden_cosine', np.where(moved | first, 0.0, 1.0))
    assert score('js')[~(moved | first)] == pytest.approx(1.0, abs=1e-5)

  def test_patience_counts_repetitions(self, by_hand):
    top1 = np.array([[1], [1], [1], [2], [2]])
    captured = by_hand(top1)
    assert exit_scores(captured, 'patience(2)')[:-1][:, 0].tolist() == [
      0.0,
      0.5,
      1.0,
      0.0,
    ]
    assert exit_scores(captured, 'patience(1)')[:-1][:, 0].tolist() == [
      0.0,
      1.0,
      1.0,
      0.0,
    ]

  def test_what_cannot_be_scored(self, by_hand, captured):
    plain = by_hand([[1, 1], [1, 1]])
    assert readable_criteria(plain) == ('patience(2)',)
    for name, sentence in {
      'luck': 'no criterion',
      'patience(0)': 'at least 1 agreement',
      'kl': 'cannot be read from a captured text',
      'max_prob': 'no top_log_probs',
    }.items():
      with pytest.raises(ArgumentError, match=sentence):
        exit_scores(plain, name)
    with pytest.raises(ArgumentError, match='gated exits alone'):
      gates.operation(captured, 'gate', 0.5, bootstrap=FEW)


class TestThresholds:
  def test_the_lowest_that_agrees_often_enough(self, noisy):
    scores = exit_scores(noisy, 'max_prob')[:-1].astype(float)
    for wanted in (0.5, 0.8, 0.95):
      threshold = gates.threshold_for(noisy, 'max_prob', agreement=wanted)
      reach = lambda t: (
        gates.operation(noisy, 'max_prob', t, bootstrap=FEW).agreement.value
      )
      assert threshold == math.inf or reach(threshold) >= wanted - 1e-9
      lower = scores[scores < threshold]
      if len(lower):
        assert reach(lower.max()) < wanted

  def test_never_is_always_possible(self, by_hand):
    captured = by_hand([[1, 2], [3, 3]], top_log_probs=log_probs([[0.9, 0.9]]))
    assert gates.threshold_for(captured, 'max_prob', agreement=1) == math.inf

  def test_one_threshold_a_readout(self):
    scores = np.array([[0.5, 0.9], [0.5, 0.1]])
    assert gates.leaves_at(scores, [0.6, 0.4]).tolist() == [1, 0]
    assert gates.leaves_at(scores, 0.5).tolist() == [0, 0]
    assert gates.leaves_at(scores, 1.0).tolist() == [2, 2]


def test_one_class_alone_cannot_be_told(by_hand):
  captured = by_hand([[1, 1], [1, 1]], top_log_probs=log_probs([[0.9, 0.2]]))
  found = gates.detection(captured, 'max_prob', bootstrap=FEW)
  assert found.auroc.value == 0.5
  assert found.prevalence.value == 1.0
