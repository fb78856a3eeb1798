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
"""Test the depths at which answers are there."""

import numpy as np
import pytest

from eejax.analysis.natural.depths import (
  Ceiling,
  depths,
  distribution,
  first_match_depth,
  label_depth,
  mean_over,
  stable_depth,
)
from eejax.capture.captured import ReadoutKind
from eejax.errors import ArgumentError

#              settled early, passing match, last moment, always right
TOP1 = np.array([[1, 5, 1, 7], [5, 2, 1, 7], [5, 5, 2, 7], [5, 5, 5, 7]])


def test_each_depth_by_hand():
  assert first_match_depth(TOP1).tolist() == [1, 0, 3, 0]
  assert stable_depth(TOP1).tolist() == [1, 2, 3, 0]
  # Said once; never said; said by the way, and not in the end; always.
  assert label_depth(TOP1, np.array([5, 9, 2, 7])).tolist() == [1, 3, 2, 0]


def test_a_distribution_by_hand(by_hand):
  captured = by_hand(TOP1, target=[5, 9, 2, 7])
  stable = distribution(captured, Ceiling.STABLE)
  assert stable.shares == (0.25, 0.25, 0.25, 0.25)
  assert stable.by_then == (0.25, 0.5, 0.75, 1.0)
  assert stable.mean_depth.value == pytest.approx(6 / 4)
  assert stable.skip.value == pytest.approx(1 - 6 / 12)
  assert stable.depth_of(0.5) == 1.0
  assert stable.depth_of(0.9) == 3.0
  first = distribution(captured, Ceiling.FIRST_MATCH)
  assert first.shares == (0.5, 0.25, 0.0, 0.25)
  label = distribution(captured, Ceiling.LABEL)
  assert label.mean_depth.value == pytest.approx(6 / 4)


def test_a_planted_mix_of_depths(captured, settles):
  for ceiling in (Ceiling.FIRST_MATCH, Ceiling.STABLE):
    found = distribution(captured, ceiling)
    wanted = np.bincount(settles, minlength=5) / len(settles)
    np.testing.assert_allclose(found.shares, wanted)
    assert found.skip.value == pytest.approx(1 - settles.mean() / 4)
    np.testing.assert_array_equal(
      depths(captured.only(ReadoutKind.NATURAL), ceiling), settles
    )


def test_the_label_may_be_found_earlier_or_never(captured, settles, plan):
  # A guess is the target's token in the planted text, or an answer is.
  tokens, target = captured.token, captured.target
  answers = np.array(plan.answers)[tokens]
  guesses = np.array(plan.guesses)[tokens]
  wanted = np.where(target == answers, settles, 4)
  wanted = np.where((target == guesses) & (settles > 0), 0, wanted)
  natural = captured.only(ReadoutKind.NATURAL)
  np.testing.assert_array_equal(depths(natural, Ceiling.LABEL), wanted)


def test_exits_have_their_own_distribution(captured, settles):
  found = distribution(captured, Ceiling.STABLE, kinds=(ReadoutKind.EXIT,))
  assert found.depths == (1.0, 2.0, 3.0, 4.0)
  wanted = np.maximum(settles, 1)
  assert found.mean_depth.value == pytest.approx(wanted.mean())


class TestMeans:
  def test_weights_and_places_count(self, by_hand):
    captured = by_hand(TOP1, row=[0, 0, 1, 1])
    where = np.array([True, False, True, True])
    mean = mean_over(captured, np.array([1.0, 50.0, 2.0, 6.0]), where=where)
    assert mean.value == pytest.approx(3.0)
    assert mean.low < mean.value < mean.high

  def test_what_does_not_count_may_be_no_number(self, by_hand):
    where = np.array([True, False, True, True])
    values = np.array([1.0, np.nan, 2.0, 3.0])
    assert mean_over(by_hand(TOP1), values, where=where).value == 2.0

  def test_nothing_counts(self, by_hand):
    with pytest.raises(ArgumentError, match='no position'):
      mean_over(by_hand(TOP1), np.ones(4), where=np.zeros(4, bool))
