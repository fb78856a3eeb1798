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
"""Test predicted times against formulas worked out by hand."""

import dataclasses

import pytest

from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.config.experts import ExpertsConfig
from eejax.hardware import Hardware
from eejax.models.decoder import Rematerialization
from eejax.parallel.mesh import MeshConfig
from eejax.pipeline.schedule import Schedule, ScheduleKind, bubble
from eejax.planner.time import Machine, model_flops, predict_time
from eejax.planner.workload import Arrangement, Learns, Workload

# Memory is so fast that arithmetic decides.
HARDWARE = Hardware(
  name='paper',
  peak_flops={'float32': 1e9},
  memory_bytes=1e9,
  memory_bandwidth=1e18,
  link_bandwidth=2e6,
  devices_per_host=4,
)
MACHINE = Machine(HARDWARE, efficiency=0.5)
MODEL = ModelConfig(
  vocab_size=64,
  num_layers=8,
  embed_dim=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=48,
  max_length=64,
)
ROWS, LENGTH = 64, 16
# Of one block: norms, query and output, key and value, the MLP.
BLOCK = 2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
SCORES = 4 * 32 * LENGTH
MATRIX = 32 * 64


def workload(learns=Learns.STANDARD, exits=''):
  config = EarlyExitConfig(MODEL, parse_exits(exits) if exits else ())
  return Workload(config, learns, ROWS, LENGTH, dtype='float32')


def seconds(flops_of_token, tokens=ROWS * LENGTH):
  return flops_of_token * tokens / 0.5e9


def kept(mesh, microbatches=1, **fields):
  return Arrangement(mesh, microbatches, Rematerialization.NONE, **fields)


def test_one_device():
  found = predict_time(workload(), kept(MeshConfig(data=1)), MACHINE)
  blocks = 3 * 8 * (2 * BLOCK + SCORES)
  assert found.work == pytest.approx(seconds(blocks + 4 * 2 * MATRIX))
  assert (found.bubble, found.messages) == (0, 0)
  assert found.total == found.work + found.update
  again = dataclasses.replace(
    kept(MeshConfig(data=1)), rematerialization=Rematerialization.BLOCK
  )
  more = predict_time(workload(), again, MACHINE).work - found.work
  assert more == pytest.approx(seconds(8 * (2 * BLOCK + SCORES)))


def test_tuning_stops_at_the_deepest_exit():
  load = workload(Learns.TUNE, '2:norm:untied,4:mlp')
  found = predict_time(load, kept(MeshConfig(data=1)), MACHINE)
  blocks = 4 * (2 * BLOCK + SCORES)
  # The second matrix is frozen: its gradient is not computed.
  heads = 4 * 2 * MATRIX + 3 * 2 * MATRIX + 3 * 2 * 3 * 32 * 48
  assert found.work == pytest.approx(seconds(blocks + heads))
  # Recomputed logits and half of the scores are no part of what must be done.
  must = blocks - 4 * SCORES / 2 + heads - 2 * 2 * MATRIX
  assert model_flops(load) == pytest.approx(ROWS * LENGTH * must)


@pytest.mark.parametrize('microbatches', [4, 16])
def test_one_f_one_b_takes_as_long_as_its_formula(microbatches):
  """T0 of `eejax.pipeline.cost`, and the ticks of the schedule."""
  mesh = MeshConfig(data=1, stage=4)
  found = predict_time(workload(), kept(mesh, microbatches), MACHINE)
  tokens = ROWS * LENGTH / microbatches
  f = 2 * seconds(2 * BLOCK + SCORES, tokens)
  b, h = 2 * f, seconds(4 * 2 * MATRIX, tokens)
  t0 = 3 * f + microbatches * (f + b + h) + 3 * b
  assert found.work + found.bubble == pytest.approx(t0)
  schedule = Schedule(ScheduleKind.ONE_F_ONE_B, 4, microbatches)
  assert found.ticks == schedule.num_ticks == microbatches + 6
  busy = microbatches * (4 * (f + b) + h) / 4
  assert found.bubble_share == pytest.approx(1 - busy / t0)


@pytest.mark.parametrize('kind', ScheduleKind)
def test_ticks_are_those_of_the_schedule(kind):
  rounds = 2 if kind is ScheduleKind.INTERLEAVED else 1
  learns = Learns.JOINT
  if kind is ScheduleKind.FORWARD_ONLY:
    learns = Learns.TUNE
  load = workload(learns, '2:mlp,4:mlp,6:mlp,8:mlp')
  arrangement = kept(
    MeshConfig(data=1, stage=4), 8, schedule=kind, rounds=rounds
  )
  found = predict_time(load, arrangement, MACHINE)
  schedule = Schedule(kind, 4, 8, rounds)
  assert found.ticks == schedule.num_ticks
  if kind is ScheduleKind.FORWARD_ONLY:
    # All stages are equal here: two blocks and an exit.
    assert found.bubble_share == pytest.approx(bubble(schedule))


def test_messages():
  none = predict_time(workload(), kept(MeshConfig(data=1)), MACHINE)
  cut = predict_time(workload(), kept(MeshConfig(data=1, model=2)), MACHINE)
  stream = ROWS * LENGTH * 32 * 4
  # Four of the stream each way in every block, two with the final head; half
  # of each comes from the other device, at half of both directions' speed.
  count = 8 * 8 + 2
  assert cut.messages == pytest.approx(count * stream / 2 / 1e6)
  heads = 3 * 8 * 64 + 0  # norms are not cut
  assert cut.work < none.work / 2 + seconds(2 * 3 * heads)
  slow = dataclasses.replace(MACHINE, network=1e5)
  mesh = kept(MeshConfig(data=2, model=4))
  near, far = (predict_time(workload(), mesh, m) for m in (MACHINE, slow))
  # Only gradients leave a host of four devices.
  assert far.messages > near.messages
  mesh = kept(MeshConfig(data=1, model=2))
  assert predict_time(workload(), mesh, slow) == cut


def test_gradients_are_summed_once_a_step():
  times = [
    predict_time(workload(), kept(MeshConfig(data=2), m), MACHINE).messages
    for m in (1, 8)
  ]
  values = 8 * BLOCK + 2 * MATRIX + 32
  assert times == pytest.approx([2 * 4 * values / 2 / 1e6] * 2)


def test_weights_may_be_slower_than_arithmetic():
  slow = dataclasses.replace(HARDWARE, memory_bandwidth=1.0)
  load = dataclasses.replace(workload(), rows=1, length=1)
  found = predict_time(
    load, kept(MeshConfig(data=1)), Machine(slow, efficiency=0.5)
  )
  read = 4 * (3 * 8 * BLOCK + 4 * MATRIX)
  assert found.work == pytest.approx(read)
  values = 8 * BLOCK + 2 * MATRIX + 32
  assert found.update == pytest.approx(4 * 7 * values)


def test_a_token_is_multiplied_by_its_own_experts_alone():
  experts = ExpertsConfig(6, 2, 24, shared_dim=16)
  model = dataclasses.replace(MODEL, experts=experts)
  sparse = dataclasses.replace(workload(), config=EarlyExitConfig(model))
  dense = 3 * 32 * (2 * 24 + 16)  # of the experts that are used
  gates = 32 * (6 + 1)
  block = BLOCK - 3 * 32 * 48 + dense + gates
  found = predict_time(sparse, kept(MeshConfig(data=1)), MACHINE)
  blocks = 3 * 8 * (2 * block + SCORES)
  assert found.work == pytest.approx(seconds(blocks + 4 * 2 * MATRIX))
  flops = 3 * 8 * (2 * block + SCORES / 2) + 3 * 2 * MATRIX
  assert model_flops(sparse) == pytest.approx(flops * ROWS * LENGTH)
