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
import pytest

from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import Timing
from eejax.recipes.calibration.speed import MeasuredSpeed, measure_speed
from eejax.stats.bootstrap import Interval
from eejax.testing import tiny


def test_speed_is_a_ratio_of_times_in_turns():
  config = tiny.tiny_config()
  prepared = prepare(tiny.tiny_params(config), config=config)
  lengths = []

  def clock(result):
    (row,) = result.rows
    lengths.append(len(row.tokens))
    seconds = {Mode.FULL: 3.0, Mode.EARLY_EXIT: 2.0}[result.policy.mode]
    return Timing(decode_s=seconds)

  speed = measure_speed(
    prepared,
    Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,)),
    config=config,
    prompts=[(3, 4), (5, 6)],
    new_tokens=4,
    repeats=1,
    clock=clock,
  )
  assert speed.speedup.value == pytest.approx(1.5)
  assert speed.noise == Interval(1.0, 1.0, 1.0)
  assert speed.is_faster and not speed.is_slower
  # Two prompts, three ways, a round to warm up and one that counts; none ends
  # early.
  assert lengths == [4] * 12


@pytest.mark.parametrize(
  'speedup, noise, is_faster, is_slower',
  [
    ((1.1, 1.05, 1.2), (1.0, 0.97, 1.03), True, False),
    ((1.1, 1.02, 1.2), (1.0, 0.97, 1.03), False, False),
    ((0.9, 0.8, 0.99), (1.0, 0.97, 1.03), False, True),
    # A gain that is not above the noise of full decoding is none.
    ((1.01, 1.0, 1.02), (1.0, 0.95, 1.05), False, True),
    # Full decoding that seems slower than itself makes nothing faster.
    ((0.98, 0.97, 0.99), (0.95, 0.94, 0.96), False, True),
  ],
)
def test_a_gain_is_above_the_noise(speedup, noise, is_faster, is_slower):
  speed = MeasuredSpeed(Interval(*speedup), Interval(*noise), 4, 8, 3)
  assert (speed.is_faster, speed.is_slower) == (is_faster, is_slower)
  assert 'times as fast' in speed.sentence()
