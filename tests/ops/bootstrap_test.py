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
"""Test bootstrap intervals against closed forms and by their coverage."""

import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.ops.bootstrap import (
  Bootstrap,
  difference_interval,
  ratio_interval,
)


def test_the_estimate_is_the_ratio_of_the_sums():
  interval = ratio_interval(np.array([3.0, 1.0]), np.array([4.0, 12.0]))
  assert interval.value == 0.25
  assert interval.low <= interval.value <= interval.high


def test_equal_rows_leave_no_doubt():
  interval = ratio_interval(np.full(9, 3.0), np.full(9, 4.0))
  assert (interval.low, interval.high) == (0.75, 0.75)


def test_two_rows_can_only_be_drawn_three_ways():
  interval = ratio_interval(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
  assert (interval.low, interval.value, interval.high) == (0.0, 0.5, 1.0)


def test_one_row_has_no_interval():
  interval = ratio_interval(np.array([3.0]), np.array([4.0]))
  assert (interval.low, interval.high) == (0.75, 0.75)


def test_rows_without_tokens_do_not_take_part():
  with_empty = ratio_interval(np.array([0.0, 1.0, 0]), np.array([1.0, 1, 0]))
  without = ratio_interval(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
  assert with_empty == without


def test_no_token_is_an_error():
  with pytest.raises(ArgumentError, match='no token'):
    ratio_interval(np.zeros(2), np.zeros(2))


def test_pairing_removes_what_rows_have_in_common():
  random = np.random.default_rng(0)
  hard = random.uniform(1, 9, 40)
  paired = difference_interval(hard + 0.5, hard, np.ones(40))
  assert (paired.low, paired.high) == pytest.approx((0.5, 0.5))
  assert paired.excludes(0.0)
  alone = ratio_interval(hard, np.ones(40))
  assert alone.high - alone.low > 0.5


def test_coverage_is_near_the_nominal_one():
  random = np.random.default_rng(1)
  hits = 0
  for seed in range(200):
    difficulty = random.normal(0.6, 0.1, 40)
    counts = random.integers(20, 60, 40).astype(float)
    interval = ratio_interval(
      difficulty * counts,
      counts,
      bootstrap=Bootstrap(confidence=0.9, draws=300, seed=seed),
    )
    hits += not interval.excludes(0.6)
  assert 0.83 <= hits / 200 <= 0.95


@pytest.mark.parametrize('fields', [{'confidence': 1.0}, {'draws': 0}])
def test_settings_are_checked(fields):
  with pytest.raises(ArgumentError):
    Bootstrap(**fields)
