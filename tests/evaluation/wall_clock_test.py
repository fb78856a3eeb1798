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
"""Test that times are taken in turns and ratios are of medians."""

import pytest

from eejax.errors import ArgumentError
from eejax.evaluation import wall_clock


def recorders(calls, **seconds):
  def run(name):
    def once():
      calls.append(name)
      return seconds[name]

    return once

  return {name: run(name) for name in seconds}


def test_runs_take_turns_and_turns_begin_elsewhere():
  calls = []
  found = wall_clock.interleaved(
    recorders(calls, a=1.0, b=2.0, c=3.0), repeats=2, warm_up=1
  )
  assert calls == ['a', 'b', 'c', 'b', 'c', 'a', 'c', 'a', 'b']
  assert found == {'a': [1.0, 1.0], 'b': [2.0, 2.0], 'c': [3.0, 3.0]}


def test_the_warm_up_does_not_count():
  times = iter([100.0, 1.0, 2.0])
  found = wall_clock.interleaved({'a': lambda: next(times)}, repeats=2)
  assert found == {'a': [1.0, 2.0]}


def test_there_must_be_something_to_time():
  with pytest.raises(ArgumentError):
    wall_clock.interleaved({}, repeats=3)
  with pytest.raises(ArgumentError):
    wall_clock.interleaved({'a': lambda: 1.0}, repeats=0)


def test_a_ratio_is_of_medians_over_all_cases():
  ratio = wall_clock.speed_ratio(
    [[1.0, 1.0, 50.0], [2.0, 2.0, 2.0]], [[2.0, 2.0, 2.0], [8.0, 8.0, 0.1]]
  )
  assert ratio.value == pytest.approx(10 / 3)
  assert (ratio.low, ratio.high) == (2.0, 4.0)
