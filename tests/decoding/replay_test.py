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
"""Test replays against hand-computed walks and a slow reference."""

import numpy as np
import pytest

from eejax.decoding import replay as replay_lib
from eejax.decoding.policy.threshold_values import threshold_values
from eejax.decoding.replay import replay
from eejax.errors import ArgumentError


def one(scores, thresholds, *, window, counted=None):
  scores = np.asarray(scores, np.float32)
  if counted is None:
    counted = np.ones(scores.shape[1:], bool)
  return replay(
    scores,
    counted=counted,
    thresholds=threshold_values([thresholds]),
    window=window,
  )


def slow(scores, thresholds, window, widths):
  """Walk through one row, one token at a time, in plain Python."""
  exits, length = scores.shape
  ends = [e for e in range(exits) if thresholds[e] == 0]
  last = ends[0] if ends else exits
  waiting = [[] for _ in range(exits + 1)]
  since_full, segments = 0, []
  runs = np.zeros((exits + 1, len(widths)), int)
  for t in range(length):
    for segment in range(last + 1):
      waiting[segment].append(t)
    for segment in range(last + 1):
      fitting = [i for i, w in enumerate(widths) if w >= len(waiting[segment])]
      runs[segment, fitting[0]] += 1
      waiting[segment] = []
      if segment == last:
        since_full = 0
        segments.append(segment)
        break
      may = since_full + 1 < window
      if may and scores[segment, t] >= thresholds[segment]:
        since_full += 1
        segments.append(segment)
        break
  return segments, runs


class TestByHand:
  SCORES = [[[0.9, 0.9, 0.9, 0.1, 0.9]]]

  def test_the_window_forces_full_depth(self):
    found = one(self.SCORES, [0.5], window=3)
    assert found.taken[0, 0].tolist() == [0, 0, 1, 1, 0]
    work = found.work[0]
    # The third token takes the two that wait along, the fourth goes alone.
    assert work.widths == (1, 2, 3)
    assert work.segment_runs.tolist() == [[5, 0, 0], [1, 0, 1]]
    assert work.checks.tolist() == [4, 0]
    assert work.taken.tolist() == [3, 2]
    assert work.tokens == 5

  def test_never_runs_everything_one_by_one(self):
    work = one(self.SCORES, [None], window=3).work[0]
    assert work.segment_runs.tolist() == [[5, 0, 0], [5, 0, 0]]
    assert work.taken.tolist() == [0, 5]

  def test_zero_ends_the_model(self):
    found = one(self.SCORES, [0.0], window=3)
    work = found.work[0]
    assert found.taken[0, 0].tolist() == [0] * 5
    assert work.segment_runs.tolist() == [[5, 0, 0], [0, 0, 0]]
    assert work.checks.tolist() == [0, 0]

  def test_a_window_of_one_never_exits(self):
    assert one(self.SCORES, [0.1], window=1).work[0].taken.tolist() == [0, 5]

  def test_a_score_at_the_threshold_exits(self):
    assert one([[[0.5]]], [0.5], window=4).taken.tolist() == [[[0]]]

  def test_tokens_that_are_not_there_do_not_count(self):
    counted = np.array([[True, True, True, False, False]])
    found = one(self.SCORES, [0.5], window=3, counted=counted)
    assert found.taken[0, 0].tolist() == [0, 0, 1, -1, -1]
    assert found.work[0].tokens == 3
    assert found.work[0].segment_runs.tolist() == [[3, 0, 0], [0, 0, 1]]


def test_an_exit_that_is_never_taken_is_not_asked_unless_all_are():
  scores = [[[0.9, 0.1]], [[0.9, 0.9]]]
  some = one(scores, [None, 0.5], window=8).work[0]
  assert some.checks.tolist() == [0, 2, 0]
  none = one(scores, [None, None], window=8).work[0]
  assert none.checks.tolist() == [2, 2, 0]


@pytest.mark.parametrize('window', [2, 4, 8])
def test_rows_and_settings_equal_slow_walks(window):
  random = np.random.default_rng(window)
  scores = random.uniform(size=(3, 4, 40)).astype(np.float32)
  settings = [[0.7, 0.5, 0.3], [0.9, None, 0.2], [0.8, 0.0, 0.1], [None] * 3]
  found = replay(
    scores,
    counted=np.ones((4, 40), bool),
    thresholds=threshold_values(settings),
    window=window,
  )
  numbers = threshold_values(settings)
  for i in range(len(settings)):
    widths = found.work[i].widths
    runs = np.zeros((4, len(widths)), int)
    for row in range(4):
      segments, ran = slow(scores[:, row], numbers[i], window, widths)
      assert found.taken[i, row].tolist() == segments
      runs += ran
    assert found.work[i].segment_runs.tolist() == runs.tolist()
    assert found.work[i].taken.sum() == 160


def test_full_work_is_that_of_never():
  full = replay_lib.full_work(5, num_exits=1)
  never = one(TestByHand.SCORES, [None], window=3).work[0]
  assert full.segment_runs[:, 0].tolist() == never.segment_runs[:, 0].tolist()
  assert full.taken.tolist() == never.taken.tolist()
  assert full.checks.tolist() == [0, 0]


def test_the_window_is_checked():
  with pytest.raises(ArgumentError, match='window'):
    one([[[0.5]]], [0.5], window=0)
