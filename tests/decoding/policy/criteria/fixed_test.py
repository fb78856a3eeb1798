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
"""Tests of depths settled beforehand."""

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.policy.criteria import (
  DepthSchedule,
  Evidence,
  Static,
  get_criterion,
)
from eejax.errors import ArgumentError


def depth_taken(criterion, position, depths=range(1, 13), num_layers=12):
  """Return the first depth at which a row at `position` would leave."""
  for depth in depths:
    evidence = Evidence(
      positions=jnp.array([position]), depth=depth, num_layers=num_layers
    )
    if np.all(criterion.score(evidence) == 1):
      return depth
  return None


class TestStatic:
  @pytest.mark.parametrize(
    'shallowest, taken', [(0, 2), (2, 2), (3, 5), (9, 9), (10, None)]
  )
  def test_it_leaves_at_the_first_exit_as_deep(self, shallowest, taken):
    found = depth_taken(Static(shallowest), 0, depths=(2, 5, 9))
    assert found == taken

  def test_depth_is_refused_below_0(self):
    with pytest.raises(ArgumentError, match='static'):
      get_criterion('static(-1)')


class TestSchedule:
  def test_by_hand(self):
    schedule = DepthSchedule(horizon=10, shallowest=4, deepest=12)
    found = [depth_taken(schedule, t) for t in (0, 1, 5, 9, 10, 11, 5000)]
    assert found == [12, 11, 8, 5, 4, 4, 4]

  @pytest.mark.parametrize('depths', [range(1, 13), (3, 6, 9, 12)])
  def test_it_never_rises(self, depths):
    schedule = DepthSchedule(horizon=37, shallowest=2)
    found = [depth_taken(schedule, t, depths) for t in range(60)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 12 and found[-1] == min(d for d in depths if d >= 2)

  def test_the_deepest_is_the_model_s_unless_given(self):
    assert depth_taken(DepthSchedule(horizon=10), 0, num_layers=7) == 7

  def test_each_row_has_its_own_position(self):
    schedule = DepthSchedule(horizon=10, shallowest=2, deepest=8)
    evidence = Evidence(positions=jnp.array([0, 5, 20]), depth=5, num_layers=12)
    assert schedule.score(evidence).tolist() == [0, 1, 1]

  @pytest.mark.parametrize(
    'text, message',
    [
      ('schedule(0)', 'horizon'),
      ('schedule(10, -1)', 'depths of 0'),
      ('schedule(10, 8, 4)', 'would rise'),
      ('schedule(10, 2, 4, 1)', 'takes 3 numbers'),
      ('schedule(10.5)', 'horizon must be a whole number'),
    ],
  )
  def test_settings_that_make_no_sense_are_refused(self, text, message):
    with pytest.raises(ArgumentError, match=message):
      get_criterion(text)
