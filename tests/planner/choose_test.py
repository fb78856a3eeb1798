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
"""Test the search: what is tried, what is refused, what comes first."""

import dataclasses
import math
import re

import pytest

from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.config.experts import ExpertsConfig
from eejax.errors import EejaxError
from eejax.hardware import Hardware
from eejax.parallel.mesh import MeshConfig, parse_mesh
from eejax.pipeline.schedule import ScheduleKind
from eejax.planner import table
from eejax.planner.choose import (
  PlanRequest,
  choose,
  mesh_words,
  meshes,
  refusal,
)
from eejax.planner.time import Machine
from eejax.planner.workload import Learns, Workload

MODEL = ModelConfig(
  vocab_size=64,
  num_layers=4,
  embed_dim=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=48,
  max_length=64,
)
HARDWARE = Hardware(
  name='paper',
  peak_flops={'float32': 1e9},
  memory_bytes=2e6,
  memory_bandwidth=1e9,
  link_bandwidth=1e8,
  devices_per_host=4,
)


def question(learns=Learns.JOINT, devices=8, memory=2e6, **fields):
  config = EarlyExitConfig(MODEL, parse_exits('1:norm:untied,2:norm:untied'))
  hardware = dataclasses.replace(HARDWARE, memory_bytes=memory)
  return PlanRequest(
    Workload(config, learns, rows=16, length=16, dtype='float32'),
    Machine(hardware, network=1e7),
    devices,
    **fields,
  )


def test_all_meshes_are_tried():
  found = list(meshes(8))
  assert len(set(found)) == len(found) == math.comb(6, 3)
  assert all(math.prod(m.sizes().values()) == 8 for m in found)
  assert [mesh_words(m) for m in meshes(1)] == ['data=1']


@pytest.mark.parametrize('mesh', meshes(8))
def test_words_of_a_mesh_are_read_again(mesh):
  assert parse_mesh(mesh_words(mesh)).resolved(8) == mesh


@pytest.mark.parametrize(
  ('mesh', 'why'),
  [
    (MeshConfig(data=1, model=4), '2 key/value heads .* do not divide'),
    (MeshConfig(data=32), 'a batch of 16 rows does not divide'),
    (MeshConfig(data=1, stage=8), 'the 4 blocks that run'),
    (MeshConfig(data=1, model=2), None),
  ],
)
def test_refusals(mesh, why):
  found = refusal(question(), mesh)
  if why is None:
    assert found is None
  else:
    assert re.search(why, found)


def test_experts_refuse_stages_and_shares_that_do_not_divide():
  asked = question()
  experts = ExpertsConfig(6, 2, 24)
  model = dataclasses.replace(MODEL, experts=experts)
  config = dataclasses.replace(asked.workload.config, model=model)
  workload = dataclasses.replace(asked.workload, config=config)
  asked = dataclasses.replace(asked, workload=workload)
  assert 'balanced' in str(refusal(asked, MeshConfig(data=4, stage=2)))
  assert 'do not divide' in str(refusal(asked, MeshConfig(data=2, expert=4)))
  assert refusal(asked, MeshConfig(data=4, expert=2)) is None


def test_model_stays_on_a_host():
  wide = dataclasses.replace(MODEL, num_heads=8, num_kv_heads=8)
  asked = question()
  load = dataclasses.replace(
    asked.workload, config=EarlyExitConfig(wide), learns=Learns.STANDARD
  )
  asked = dataclasses.replace(asked, workload=load)
  mesh = MeshConfig(data=1, model=8)
  assert 'over hosts of 4 devices' in refusal(asked, mesh)
  # Where links reach over hosts it may.
  linked = dataclasses.replace(asked, machine=Machine(HARDWARE))
  assert refusal(linked, mesh) is None


def test_the_fastest_comes_first_and_fits():
  found = choose(question())
  times = [p.time.total for p in found.fitting]
  assert times == sorted(times) and len(times) > 3
  assert all(p.memory.total <= 0.9 * 2e6 for p in found.fitting)
  schedules = {p.arrangement.schedule for p in found.fitting}
  assert schedules >= {ScheduleKind.ONE_F_ONE_B, ScheduleKind.GPIPE}
  assert all(p.arrangement.mesh.model < 4 for p in found.fitting)
  assert any('key/value heads' in r.why for r in found.refused)


def test_less_memory_leaves_fewer_meshes_and_says_why():
  roomy = choose(question())
  smallest = min(p.memory.total for p in roomy.fitting)
  tight = choose(question(memory=1.2 * smallest / 0.9))
  assert 0 < len(tight.fitting) < len(roomy.fitting)
  needs = [p.memory.total for p in tight.too_large]
  assert needs == sorted(needs) and needs[0] > 1.2 * smallest
  why = table.why_too_large(tight.too_large[0])
  assert why.startswith('needs ') and ' GiB of ' in why
  nothing = choose(question(memory=1.0))
  assert not nothing.fitting and nothing.too_large


def test_tuning_goes_forward_only():
  found = choose(question(Learns.TUNE))
  staged = [p for p in found.fitting if p.arrangement.is_pipeline]
  assert staged
  kinds = {p.arrangement.schedule for p in staged}
  assert kinds == {ScheduleKind.FORWARD_ONLY}
  # Two blocks run, so there are no more stages.
  assert max(p.arrangement.mesh.stage for p in staged) == 2


def test_one_mesh_alone():
  mesh = MeshConfig(data=4, fsdp=2)
  found = choose(question(), among=[mesh])
  assert {p.arrangement.mesh for p in found.fitting} == {mesh}
  with pytest.raises(EejaxError, match='no mesh .* can train this: 4 heads'):
    choose(question(), among=[MeshConfig(data=2, model=4)])


def test_cost():
  plan = choose(question(price=2.0)).fitting[0]
  hours = 8 * 1e9 / plan.tokens_per_second / 3600
  assert plan.device_hours_per_billion == pytest.approx(hours)
  assert plan.cost_per_billion == pytest.approx(2 * hours)
  assert 'cost/G tokens' in table.row(plan)
  assert 'cost/G tokens' not in table.row(choose(question()).fitting[0])
