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
import time

import pytest

from eejax.hardware import read_hardware
from eejax.training.throughput import StepCost, Throughput

COST = StepCost(model_flops=4e12, peak_flops=2e12, devices=8)


def test_figures_are_of_steps_and_of_a_device():
  values = Throughput(COST).of_steps(steps=3, tokens=6000.0, seconds=1.5)
  assert values['step_s'] == 0.5
  assert values['tokens_per_s'] == 4000
  assert values['tokens_per_s_per_device'] == 500
  # 8e12 operations a second on eight devices, of 2e12 each.
  assert values['tflops_per_s_per_device'] == 1.0
  assert values['mfu'] == 0.5


def test_what_is_not_known_is_not_told():
  values = Throughput(StepCost(model_flops=1e9)).of_steps(
    steps=1, tokens=10.0, seconds=1.0
  )
  assert 'tflops_per_s_per_device' in values and 'mfu' not in values
  assert 'goodput' not in values
  values = Throughput().of_steps(steps=1, tokens=10.0, seconds=1.0)
  assert 'tflops_per_s_per_device' not in values


@pytest.mark.parametrize(
  'dtype, peak', [('bfloat16', 197e12), ('float32', None)]
)
def test_a_peak_is_that_of_the_dtype(dtype, peak):
  cost = StepCost.on(
    read_hardware('tpu_v5e'), dtype=dtype, devices=4, model_flops=1.0
  )
  assert cost.peak_flops == peak


def test_goodput_counts_what_was_lost_between_processes():
  began = time.time() - 100
  records = [
    {'kind': 'timing', 'step': 0, 'unix_time': began},
    {'kind': 'train', 'step': 4, 'loss': 1.0},
    {'kind': 'timing', 'step': 4, 'trained_s': 20.0},
    {'kind': 'timing', 'step': 9, 'trained_s': 70.0},
  ]
  # It goes on from step 5, so the steps from there to 9 were for nothing.
  throughput = Throughput.of_run(records, step=5)
  values = throughput.of_steps(steps=1, tokens=1.0, seconds=10.0)
  assert values['trained_s'] == 30.0
  assert values['goodput'] == pytest.approx(0.3, abs=0.02)


def test_a_run_of_an_earlier_version_has_no_goodput():
  records = [{'kind': 'timing', 'step': 4, 'tokens_per_s': 20.0}]
  throughput = Throughput.of_run(records, step=4)
  assert throughput.began is None and throughput.trained_s == 0
  assert Throughput.of_run([], step=0).began == pytest.approx(
    time.time(), abs=60
  )
