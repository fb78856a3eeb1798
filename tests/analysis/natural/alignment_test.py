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
"""Test calibration by depth against planted errors and by hand."""

import math

import numpy as np
import pytest

from eejax.analysis.natural.alignment import (
  alignment,
  calibration_error,
  reliability,
  safe_threshold,
)
from eejax.capture.captured import ReadoutKind
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import Bootstrap

FEW = Bootstrap(draws=50)


@pytest.fixture(scope='module')
def natural(captured):
  return captured.only(ReadoutKind.NATURAL)


@pytest.fixture(scope='module')
def found(natural):
  return alignment(natural, bootstrap=FEW)


def test_the_planted_calibration_error(found, settles, plan):
  # Answers are always right and guesses always wrong, each with a confidence
  # of its own, so the error is how far each is from 1 and from 0.
  for i, readout in enumerate(found.readouts):
    share = (settles <= i).mean()
    wanted = share * (1 - plan.answer_confidence)
    wanted += (1 - share) * plan.guess_confidence
    assert readout.ece.value == pytest.approx(wanted, abs=1e-5)
    assert readout.ece.low <= readout.ece.value <= readout.ece.high


def test_one_confidence_for_right_and_wrong(by_hand):
  # Confidence 0.7 throughout, right half the time: wrong by 0.2.
  agrees = np.array([True, False] * 8)
  captured = by_hand(np.zeros((2, 16), int), row=np.arange(16) // 4)
  error = calibration_error(captured, np.full(16, 0.7), agrees, bootstrap=FEW)
  assert error.value == pytest.approx(0.2)


def test_divergences_are_means(found, natural):
  assert found.readouts[0].js_previous is None
  for i, readout in enumerate(found.readouts[1:], start=1):
    assert readout.js_previous is not None
    assert readout.js_previous.value == pytest.approx(
      natural.js_previous[i].mean(), abs=1e-6
    )
  assert found.readouts[-1].kl_final.value == 0.0


def test_reliability_by_hand(by_hand):
  captured = by_hand(np.zeros((2, 5), int))
  confidence = np.array([0.1, 0.2, 0.5, 0.9, 1.0])
  agrees = np.array([False, True, True, True, False])
  low, high = reliability(captured, confidence, agrees, num_bins=2)
  # 0.5 lies on the edge and in the lower bin.
  assert (low.low, low.high, high.high) == (0.0, 0.5, 1.0)
  assert low.share == pytest.approx(0.6)
  assert low.confidence == pytest.approx(0.8 / 3)
  assert low.agreement == pytest.approx(2 / 3)
  assert high.agreement == pytest.approx(0.5)
  empty = reliability(captured, confidence, agrees, num_bins=4)[2]
  assert empty.share == 0 and math.isnan(empty.agreement)


def test_safe_thresholds(by_hand, found, plan):
  captured = by_hand(np.zeros((2, 4), int))
  confidence = np.array([0.2, 0.4, 0.6, 0.8])
  right = np.array([True, False, True, True])
  safe = lambda agreement: safe_threshold(
    captured, confidence, right, agreement=agreement
  )
  assert safe(1.0) == 0.6
  assert safe(0.75) == 0.2
  wrong = ~right
  assert safe_threshold(captured, confidence, wrong) == math.inf
  # Where guesses are there, answers alone are safe; at the end all are.
  thresholds = [r.threshold for r in found.readouts]
  assert thresholds == pytest.approx([plan.answer_confidence] * 5, abs=1e-5)
  assert found.threshold_spread == pytest.approx(0.0, abs=1e-5)


def test_thresholds_that_lie_apart(by_hand):
  # At the first depth 0.9 is wrong, so none is safe; at the second 0.3 is.
  top1 = [[1, 1], [0, 0], [0, 0]]
  probs = np.array([[0.9, 0.9], [0.3, 0.5], [0.9, 0.9]])
  captured = by_hand(top1, top_log_probs=np.log(probs)[..., None])
  found = alignment(captured, bootstrap=FEW)
  assert found.readouts[0].threshold == math.inf
  assert found.threshold_spread == pytest.approx(1.0 - 0.3)
  assert found.ece_spread == pytest.approx(0.9 - 0.6)


def test_settings_are_checked(natural):
  with pytest.raises(ArgumentError, match='num_bins'):
    alignment(natural, num_bins=0)
  with pytest.raises(ArgumentError, match='agreement'):
    alignment(natural, agreement=1.5)
