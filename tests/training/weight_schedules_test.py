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
"""Test exit weights against numbers worked out by hand."""

import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.training.weight_schedules import (
  Curriculum,
  ExitWeights,
  Ramp,
  group_at,
  groups,
  weights_at,
)


@pytest.mark.parametrize(
  'step, want',
  [(0, 0.1), (1, 0.2), (2, 0.3), (4, 0.5), (5, 0.5), (1000, 0.5)],
)
def test_linear(step, want):
  schedule = ExitWeights(
    weights=0.5, initial=0.1, ramp=Ramp.LINEAR, ramp_steps=4
  )
  got = weights_at(step, schedule=schedule, num_exits=1)
  np.testing.assert_allclose(got, [want], rtol=1e-6)


@pytest.mark.parametrize(
  'step, want',
  [
    (0, 1.0),
    # 1 + (0.2 - 1) (1 - cos(pi / 4)) / 2, with cos(pi / 4) = 0.70710678
    (1, 0.88284271),
    (2, 0.6),
    (3, 0.31715729),
    (4, 0.2),
    (9, 0.2),
  ],
)
def test_cosine_cool_down(step, want):
  schedule = ExitWeights(
    weights=0.2, initial=1.0, ramp=Ramp.COSINE, ramp_steps=4
  )
  got = weights_at(step, schedule=schedule, num_exits=1)
  np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_constant_ignores_the_initial_weight():
  schedule = ExitWeights(weights=(0.1, 0.2), initial=(5.0, 6.0))
  for step in (0, 100):
    got = weights_at(step, schedule=schedule, num_exits=2)
    np.testing.assert_allclose(got, [0.1, 0.2])


def test_each_exit_has_its_own_ramp():
  schedule = ExitWeights(
    weights=(1.0, 0.0), initial=(0.0, 2.0), ramp=Ramp.LINEAR, ramp_steps=10
  )
  got = weights_at(5, schedule=schedule, num_exits=2)
  np.testing.assert_allclose(got, [0.5, 1.0])


def test_one_number_stands_for_all():
  got = weights_at(0, schedule=ExitWeights(weights=0.3), num_exits=4)
  np.testing.assert_allclose(got, [0.3] * 4)


def runs(schedule, steps, num_exits):
  """Return which exits take part in each step."""
  sets = groups(schedule.curriculum, num_exits)
  return [
    sets[int(group_at(step, schedule=schedule, num_exits=num_exits))]
    for step in range(steps)
  ]


def test_all_exits_take_part_by_default():
  assert runs(ExitWeights(), 2, 3) == [(0, 1, 2), (0, 1, 2)]


def test_rotation_takes_one_exit_in_turn():
  schedule = ExitWeights(curriculum=Curriculum.ROTATIONAL)
  assert runs(schedule, 5, 3) == [(0,), (1,), (2,), (0,), (1,)]


def test_gradual_begins_with_the_deepest():
  schedule = ExitWeights(curriculum=Curriculum.GRADUAL, gradual_steps=4)
  # Two more exits in four steps: one at step 2, the last at step 4.
  deepest, two, every = (2,), (1, 2), (0, 1, 2)
  want = [deepest, deepest, two, two, every, every]
  assert runs(schedule, 6, 3) == want


def test_gradual_with_one_exit_is_that_exit():
  schedule = ExitWeights(curriculum=Curriculum.GRADUAL, gradual_steps=4)
  assert runs(schedule, 6, 1) == [(0,)] * 6


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'weights': -1.0}, 'exit weights must be numbers >= 0'),
    ({'weights': (1.0, float('nan'))}, 'exit weights must be'),
    ({'initial': -1.0}, 'exit initial must be'),
    ({'ramp': Ramp.LINEAR}, 'a linear ramp of exit weights needs ramp_steps'),
    ({'curriculum': Curriculum.GRADUAL}, 'needs gradual_steps >= 1'),
  ],
)
def test_bad_values(fields, words):
  with pytest.raises(ArgumentError, match=words):
    ExitWeights(**fields)


def test_wrong_number_of_weights():
  with pytest.raises(ArgumentError, match='2 exit weights for 3 exits'):
    weights_at(0, schedule=ExitWeights(weights=(1.0, 2.0)), num_exits=3)
