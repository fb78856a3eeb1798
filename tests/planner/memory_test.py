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
"""Test predicted memory: exact where it can be, near XLA's where it cannot."""

import dataclasses

import jax
import pytest

from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.errors import ArgumentError
from eejax.hardware import Platform
from eejax.models.decoder import Rematerialization
from eejax.models.quantized import quantize_backbone
from eejax.ops.quant import Quantization
from eejax.parallel import sharding
from eejax.parallel.mesh import MeshConfig, make_mesh
from eejax.pipeline.cost import Keep
from eejax.pipeline.schedule import ScheduleKind
from eejax.planner.memory import predict_memory
from eejax.planner.workload import Arrangement, Learns, Workload
from eejax.testing import tiny
from eejax.training import ahead_of_time, state
from eejax.training.freeze import Regime
from eejax.training.objective import Forward, Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.pipelined_config import PipelineConfig
from eejax.training.step import StepConfig

# Nothing of this size is ever made: only shapes of it.
MODEL = ModelConfig(
  vocab_size=1536,
  num_layers=4,
  embed_dim=160,
  num_heads=4,
  num_kv_heads=4,
  head_dim=40,
  mlp_dim=480,
  max_length=512,
)
PIPELINE = MeshConfig(data=1, stage=4)
FORWARD_ONLY = ScheduleKind.FORWARD_ONLY


def workload(learns=Learns.JOINT, exits='1:norm:untied,4:mlp', **fields):
  config = tiny.tiny_config(exits, num_layers=4)
  return Workload(config, learns, rows=8, length=16, dtype='float32', **fields)


@pytest.mark.parametrize('learns', Learns)
@pytest.mark.parametrize(
  'mesh',
  [
    MeshConfig(data=1),
    MeshConfig(data=2, fsdp=2, model=2),
    MeshConfig(data=1, fsdp=2, stage=4),
  ],
)
def test_what_is_held_is_exact(learns, mesh):
  load = workload(learns)
  found = predict_memory(load, Arrangement(mesh))
  devices = make_mesh(mesh, devices=jax.devices()[: mesh_size(mesh)])
  trained, frozen = ahead_of_time.abstract_params(
    load.config,
    objective=Objective(regime=Regime(learns.value)),
    dtype='float32',
  )
  like = jax.eval_shape(
    lambda tree: state.create(tree, optimizer=clipped_adamw(1e-3)), trained
  )
  counts = 2 * 4  # of steps, in the state and in the optimizer
  on_device = lambda tree: sharding.bytes_on_device(
    tree, places=sharding.shardings(tree, mesh=devices)
  )
  assert found.parameters + found.optimizer == on_device(like) - counts
  assert found.frozen + found.idle == on_device(frozen)
  rows = 8 // (mesh.data * mesh.fsdp)
  assert found.batch == 5 * 4 * rows * 16


def mesh_size(mesh):
  return mesh.data * mesh.fsdp * mesh.stage * mesh.model


def test_idle_is_the_head_that_no_exit_reads():
  mesh = Arrangement(MeshConfig(data=1))
  untied = predict_memory(workload(Learns.TUNE, '1:norm:untied'), mesh)
  shared = predict_memory(workload(Learns.TUNE, '1:norm'), mesh)
  config = workload().config.model
  norm, matrix = 4 * config.embed_dim, 4 * config.embed_dim * config.vocab_size
  assert (untied.idle, shared.idle) == (norm + matrix, norm)
  assert untied.parameters - shared.parameters == matrix


def test_an_int8_backbone_is_exact():
  int8 = Quantization.INT8
  load = workload(Learns.TUNE, backbone=int8)
  mesh = MeshConfig(data=1, fsdp=2, model=2)
  found = predict_memory(load, Arrangement(mesh))
  _, frozen = ahead_of_time.abstract_params(
    load.config, objective=Objective(regime=Regime.TUNE), dtype='float32'
  )
  frozen = jax.eval_shape(quantize_backbone, frozen)
  devices = make_mesh(mesh, devices=jax.devices()[:4])
  held = sharding.bytes_on_device(
    frozen, places=sharding.shardings(frozen, mesh=devices)
  )
  assert found.frozen + found.idle == held
  with pytest.raises(ArgumentError, match='a backbone in int8 cannot learn'):
    workload(Learns.JOINT, backbone=int8)


def test_parts_add_up():
  found = predict_memory(workload(), Arrangement(MeshConfig(data=1)))
  assert sum(found.parts().values()) == pytest.approx(found.total)
  # Wide and with few tokens, the update needs most.
  few = dataclasses.replace(workload(), rows=1, length=1)
  found = predict_memory(few, Arrangement(MeshConfig(data=1)))
  assert found.temporary == found.update
  assert sum(found.parts().values()) == pytest.approx(found.total)


def test_recomputing_keeps_less():
  one = Arrangement(MeshConfig(data=1))
  keeps = dataclasses.replace(one, rematerialization=Rematerialization.NONE)
  little, much = (predict_memory(workload(), a) for a in (one, keeps))
  assert (
    little.activations == 4 * 8 * 16 * 4 * workload().config.model.embed_dim
  )
  assert much.activations > 5 * little.activations


def test_one_f_one_b_keeps_as_much_whatever_the_microbatches():
  def kept(microbatches, **fields):
    load = dataclasses.replace(workload(), rows=2 * microbatches)
    found = predict_memory(load, Arrangement(PIPELINE, microbatches, **fields))
    return found.activations

  assert kept(8) == kept(64)
  assert kept(8, keep=Keep.INPUTS) == kept(64, keep=Keep.INPUTS) < kept(8)
  gpipe = {'schedule': ScheduleKind.GPIPE}
  stream = 2 * 16 * 4 * workload().config.model.embed_dim
  assert kept(64, **gpipe) - kept(8, **gpipe) == (64 - 8) * stream


def test_logits_count_by_the_chunk():
  one = Arrangement(MeshConfig(data=1))
  sizes = [
    predict_memory(workload(Learns.TUNE, chunk_size=n), one).heads
    for n in (8, 16, 128, 256)
  ]
  logits = 4 * workload().config.model.vocab_size
  assert sizes[1] - sizes[0] == 2 * logits * 8
  assert sizes[3] == sizes[2]  # a microbatch has no more


@pytest.mark.parametrize(
  ('regime', 'exits', 'mesh', 'schedule'),
  [
    (Regime.JOINT, '2:norm:untied', {'fsdp': 4, 'model': 2}, None),
    (
      Regime.TUNE,
      '1:mlp:untied,2:mlp:untied,3:mlp:untied,4:mlp:untied',
      {'stage': 4},
      ScheduleKind.FORWARD_ONLY,
    ),
  ],
)
def test_xla_agrees(regime, exits, mesh, schedule):
  """The bound of `planner_memory_error`, on two of its kinds of steps."""
  config = EarlyExitConfig(MODEL, parse_exits(exits))
  mesh = MeshConfig(data=1, **mesh)
  microbatches = 4 if schedule else 1
  pipeline = PipelineConfig(schedule=schedule) if schedule else None
  compiled = ahead_of_time.compile_ahead(
    config,
    objective=Objective(regime=regime),
    optimizer=clipped_adamw(1e-3),
    settings=StepConfig(
      forward=Forward(rematerialization=Rematerialization.BLOCK),
      microbatches=microbatches,
      pipeline=pipeline,
    ),
    mesh=make_mesh(mesh, devices=jax.devices()[: mesh_size(mesh)]),
    rows=8,
    length=256,
  )
  found = ahead_of_time.step_memory(compiled)
  arrangement = Arrangement(mesh, microbatches)
  if schedule:
    arrangement = dataclasses.replace(arrangement, schedule=schedule)
  load = Workload(config, Learns(regime.value), 8, 256, dtype='float32')
  predicted = predict_memory(load, arrangement)
  assert found.arguments == pytest.approx(predicted.held - predicted.idle, 1e-3)
  assert found.peak == pytest.approx(predicted.total - predicted.idle, rel=0.15)


class TestPlatforms:
  def space(self, load, arrangement, platform):
    return predict_memory(load, arrangement, platform=platform)

  def test_updates_are_made_in_place_on_accelerators(self):
    few = dataclasses.replace(workload(), rows=1, length=1)
    one = Arrangement(MeshConfig(data=1))
    cpu, gpu = (self.space(few, one, p) for p in (Platform.CPU, Platform.GPU))
    assert gpu.temporary < cpu.temporary and gpu.held == cpu.held

  def test_a_tpu_turns_kernels_for_microbatches(self):
    load = workload(Learns.STANDARD, '')
    model = load.config.model
    mesh = MeshConfig(data=1)
    more = [
      self.space(load, Arrangement(mesh, 2), platform).blocks
      - self.space(load, Arrangement(mesh, 1), platform).blocks / 2
      for platform in (Platform.TPU, Platform.GPU)
    ]
    heads = model.num_heads + 2 * model.num_kv_heads
    kernels = 4 * model.num_layers * model.embed_dim * heads * model.head_dim
    assert more[0] - more[1] == pytest.approx(kernels)

  def test_a_frozen_matrix_that_exits_share_is_gathered(self):
    mesh = MeshConfig(data=1, fsdp=2)
    shared, own = (
      predict_memory(workload(Learns.TUNE, exits), Arrangement(mesh)).heads
      for exits in ('1:norm', '1:norm:untied')
    )
    model = workload().config.model
    matrix = 4 * model.embed_dim * model.vocab_size
    # Its own comes with a gradient, which the frozen one lacks.
    assert own - shared == matrix


def test_a_stage_copies_blocks_that_stages_do_not_divide():
  kept = lambda depth: predict_memory(
    workload(Learns.TUNE, f'{depth}:norm'),
    Arrangement(MeshConfig(data=1, stage=2), 2, schedule=FORWARD_ONLY),
  )
  even, uneven = kept(2), kept(3)
  # All three are whole on both stages, where of two each has its own.
  block = (uneven.frozen - even.frozen) / 2
  assert uneven.activations - even.activations == pytest.approx(2 * block)


def test_what_cannot_be_asked():
  with pytest.raises(ArgumentError, match='trains exits, and this model has'):
    Workload(EarlyExitConfig(MODEL), Learns.TUNE, rows=1, length=1)
  with pytest.raises(ArgumentError, match='rows must be at least 1'):
    workload_of_rows = dataclasses.replace(workload(), rows=0)
    predict_memory(workload_of_rows, Arrangement(MeshConfig(data=1)))
