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
from eejax.stats import bootstrap as bootstrap_lib
from eejax.stats.bootstrap import (
  Bootstrap,
  difference_interval,
  function_interval,
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


def shares(random, rows):
  """Return skewed shares of tokens, 0.9 on average, in rows of all lengths."""
  counts = random.integers(100, 256, rows)
  hits = random.binomial(counts, random.beta(4.5, 0.5, rows))
  return hits.astype(float), counts.astype(float)


def covered(interval_of, truth, *, draws=300, rows=24):
  """Return how often intervals hold the truth."""
  random = np.random.default_rng(2)
  hits = 0
  for seed in range(draws):
    sums, counts = shares(random, rows)
    found = interval_of(sums, counts, Bootstrap(draws=300, seed=seed % 7))
    hits += not found.excludes(truth)
  return hits / draws


def test_skewed_shares_are_covered():
  interval_of = lambda s, c, b: ratio_interval(s, c, bootstrap=b)
  assert 0.92 <= covered(interval_of, 0.9) <= 0.98


def test_functions_of_ratios_are_covered():
  def interval_of(sums, counts, bootstrap):
    both = np.stack([sums, counts - sums], axis=1)
    root = lambda means: np.sqrt(np.maximum(means[:, 0], 0))
    return function_interval(both, counts, root, bootstrap=bootstrap)

  assert 0.90 <= covered(interval_of, 0.9**0.5) <= 0.98


def test_a_share_stays_within_0_and_1():
  counts = np.full(30, 10.0)
  sums = np.full(30, 10.0)
  sums[0] = 2.0
  interval = ratio_interval(sums, counts)
  assert 0 <= interval.low < interval.value < interval.high <= 1


def test_a_function_of_one_ratio_has_an_interval_like_the_ratio():
  random = np.random.default_rng(3)
  sums, counts = shares(random, 60)
  plain = ratio_interval(sums, counts)
  function = function_interval(sums[:, None], counts, lambda m: m[:, 0])
  assert function.value == plain.value
  assert function.low == pytest.approx(plain.low, abs=0.02)
  assert function.high == pytest.approx(plain.high, abs=0.02)


def test_a_function_of_no_rows_or_one():
  with pytest.raises(ArgumentError, match='no token'):
    function_interval(np.zeros((2, 1)), np.zeros(2), lambda m: m[:, 0])
  one = function_interval(np.ones((1, 1)), np.full(1, 2.0), lambda m: m[:, 0])
  assert (one.low, one.value, one.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
  'degrees, quantile', [(4, 2.7764), (10, 2.2281), (31, 2.0395), (200, 1.9719)]
)
def test_students_quantiles(degrees, quantile):
  assert bootstrap_lib._student(0.975, degrees) == pytest.approx(
    quantile, rel=0.01
  )
