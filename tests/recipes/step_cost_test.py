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
import dataclasses

import pytest

from eejax.errors import ArgumentError
from eejax.planner.time import model_flops
from eejax.planner.workload import Learns, Workload
from eejax.recipes import training_runs
from eejax.recipes.step_cost import step_cost
from eejax.testing import tiny
from eejax.training.freeze import Regime
from eejax.training.loop_config import LoopConfig
from eejax.training.objective import Objective

CONFIG = tiny.tiny_config('2:mlp:gate')


def settings(**loop):
  return training_runs.make_settings(
    CONFIG,
    'stdlib',
    objective=Objective(regime=Regime.TUNE),
    learning_rate=1e-3,
    warmup_steps=1,
    optimizer=None,
    weight_decay=0.0,
    loop=LoopConfig(steps=1, **loop),
    step=None,
    dtype='bfloat16',
    microbatches=1,
    batch_size=6,
    sequence_length=16,
    seed=0,
    held_out_batches=None,
    mesh=None,
  )


def test_the_cost_is_that_of_the_planner():
  cost = step_cost(CONFIG, settings(hardware='tpu_v5e'), mesh=None)
  workload = Workload(CONFIG, Learns.TUNE, rows=6, length=16)
  assert cost.model_flops == model_flops(workload)
  assert (cost.peak_flops, cost.devices) == (197e12, 1)


def test_no_peak_is_known_of_this_machine():
  assert step_cost(CONFIG, settings(), mesh=None).peak_flops is None


def test_what_is_not_run_costs_nothing_that_could_be_stated():
  assert (
    step_cost(CONFIG, settings(), mesh=None, has_cache=True).model_flops is None
  )
  frozen = dataclasses.replace(settings(), frozen=('backbone/embedding',))
  assert step_cost(CONFIG, frozen, mesh=None).model_flops is None


def test_an_unknown_machine_is_refused():
  with pytest.raises(ArgumentError, match='no hardware'):
    step_cost(CONFIG, settings(hardware='abacus'), mesh=None)
