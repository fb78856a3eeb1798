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
"""Test what fillers cost; `programs_test` runs them."""

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.pipeline.cost import StageCost, lock_step_cost
from eejax.pipeline.fill import filler_cost, free_fillers, loss_scales
from eejax.pipeline.schedule import Schedule, ScheduleKind, Work, cells

ONE_F_ONE_B = ScheduleKind.ONE_F_ONE_B


def test_free_fillers_of_the_reference():
  assert [free_fillers(p, ratio=2.0) for p in (1, 4, 8)] == [0, 2, 4]


class TestTicks:
  @pytest.mark.parametrize('stages, microbatches', [(2, 4), (4, 4), (8, 16)])
  @pytest.mark.parametrize('forward, backward', [(1.0, 2.0), (1.0, 1.0)])
  def test_no_filler_is_free(self, stages, microbatches, forward, backward):
    costs = [StageCost(forward, backward)] * stages
    for fillers in range(1, stages):
      schedule = Schedule(ONE_F_ONE_B, stages, microbatches, fillers=fillers)
      assert filler_cost(schedule, costs) == fillers * forward

  def test_each_costs_a_forward_and_not_a_microbatch(self):
    costs = [StageCost(1.0, 2.0)] * 4
    of = lambda m: lock_step_cost(Schedule(ONE_F_ONE_B, 4, m), costs)
    assert of(9) - of(8) == 3
    filled = Schedule(ONE_F_ONE_B, 4, 8, fillers=1)
    assert filler_cost(filled, costs) == 1

  def test_none_goes_backward_before_the_last_stage_does(self):
    schedule = Schedule(ONE_F_ONE_B, 4, 5, fillers=3)
    backward = [c for c in cells(schedule) if c.work is Work.BACKWARD]
    first = min(c.tick for c in backward)
    assert any(c.stage == 3 and c.tick == first for c in backward)


def test_scales_are_all_tokens_over_those_seen():
  tokens = jnp.array([3.0, 5.0, 2.0, 10.0])
  schedule = Schedule(ONE_F_ONE_B, 3, 2, fillers=2)
  # Filler 0 reaches stage 0, filler 1 stages 0 and 1.
  np.testing.assert_allclose(
    loss_scales(tokens, schedule=schedule), [1, 20 / 17, 20 / 12], rtol=1e-6
  )
  plain = Schedule(ONE_F_ONE_B, 3, 4)
  np.testing.assert_array_equal(loss_scales(tokens, schedule=plain), 1)
