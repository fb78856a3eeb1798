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
"""Test the runs of large models: on all their devices, without their memory.

A run is read from its gin file and its step compiled ahead of time on its
full mesh, of simulated devices. As a program, this module does one run and
prints what the compiler found; a process has its devices from the start, so
a run that needs more than the tests have gets a process of its own.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import gin
import jax
import optax
import pytest

from eejax import architectures, hardware
from eejax.cli import (
  configurables,  # noqa: F401  (registers what gin files may name)
  gin_config,
)
from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.parallel import mesh as mesh_lib
from eejax.planner.memory import predict_memory
from eejax.planner.workload import Arrangement, Learns, Workload
from eejax.training import ahead
from eejax.training.freeze import Regime
from eejax.training.objective import Objective
from eejax.training.step import StepConfig

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
GIN = REPOSITORY / 'gin'
RUNS = sorted(
  p.stem
  for p in GIN.glob('runs/*.gin')
  if p.stem.startswith(('ee_llm_', 'tune_llama_'))
)
# The rest of a device's memory is the runtime's.
USABLE = 0.9


@pytest.fixture(autouse=True)
def forget():
  yield
  gin.clear_config()


class BigRun:
  """Hold what a gin file says of a run."""

  def __init__(self, name: str):
    needed = ["RUN='a'"]
    if name.startswith('tune'):
      needed.append("CHECKPOINT='b'")
    args = argparse.Namespace(
      gin_file=[f'runs/{name}.gin'], gin_bindings=needed, gin_search_paths=[]
    )
    gin_config.parse(args)
    value = lambda macro: gin.query_parameter(f'%{macro}')
    exits = parse_exits(value('EXITS'))
    if name.startswith('tune'):
      model = architectures.read_model(value('ARCHITECTURE'))
    else:
      model = gin.get_configurable(ModelConfig)()
    self.name = name
    self.config = EarlyExitConfig(model, exits)
    self.hardware = hardware.read_hardware(value('HARDWARE'))
    self.devices = value('DEVICES')
    self.mesh = mesh_lib.parse_mesh(value('MESH')).resolved(self.devices)
    self.rows, self.length = value('BATCH_SIZE'), value('SEQUENCE_LENGTH')
    self.objective = gin.get_configurable(Objective)()
    self.step = gin.get_configurable(StepConfig)()
    self.optimizer = gin.get_configurable('clipped_adamw')(learning_rate=1e-4)

  @property
  def workload(self) -> Workload:
    return Workload(
      self.config,
      Learns(self.objective.regime.value),
      rows=self.rows,
      length=self.length,
      dtype=self.step.forward.dtype,
      chunk_size=self.objective.chunk_size,
    )

  @property
  def arrangement(self) -> Arrangement:
    pipeline = self.step.pipeline
    extra = {}
    if pipeline is not None:
      extra = {'schedule': pipeline.schedule, 'keep': pipeline.keep}
    return Arrangement(
      self.mesh,
      self.step.microbatches,
      self.step.forward.rematerialization,
      **extra,
    )

  def compiled_memory(self) -> ahead.StepMemory:
    devices = jax.devices()[: self.devices]
    compiled = ahead.compile_ahead(
      self.config,
      objective=self.objective,
      optimizer=self.optimizer,
      settings=self.step,
      mesh=mesh_lib.make_mesh(self.mesh, devices=devices),
      rows=self.rows,
      length=self.length,
    )
    return ahead.step_memory(compiled)


def test_all_runs_are_there():
  assert {f'ee_llm_{n}' for n in ('1b', '7b', '13b', '30b')} < set(RUNS)
  for model in ('2_7b', '2_13b', '2_70b', '3_8b', '3_70b'):
    one, eight = (f'tune_llama_{model}_{n}' for n in ('1_exit', '8_exits'))
    assert {one, eight} < set(RUNS)


@pytest.mark.parametrize('name', RUNS)
def test_shapes_exits_and_weights(name):
  run = BigRun(name)
  depth = run.config.model.num_layers
  depths = [e.depth for e in run.config.exits]
  weights = run.objective.exit_weights.weights
  if name.startswith('ee_llm'):
    assert run.config == architectures.read_early_exit(name, exits=name)
    assert depths == [depth // 4, depth // 2]
    assert weights == ((0.25, 0.5) if name == 'ee_llm_1b' else (0.1, 0.2))
    assert run.objective.regime is Regime.JOINT
    return
  assert run.objective.regime is Regime.TUNE
  if name.endswith('1_exit'):
    assert depths == [depth // 4]
  else:
    assert depths == [depth * i // 8 for i in range(1, 9)]
  rate = gin.get_configurable(optax.join_schedules)()
  found = [float(rate(i)) for i in (0, 200, 400, 20_200, 40_000)]
  assert found == pytest.approx([0, 5e-5, 1e-4, 5.5e-5, 1e-5])


@pytest.mark.parametrize('name', RUNS)
def test_plan_fits_the_hardware(name):
  run = BigRun(name)
  memory = predict_memory(run.workload, run.arrangement)
  assert memory.total <= USABLE * run.hardware.memory_bytes
  shares = run.mesh.data * run.mesh.fsdp * run.step.microbatches
  assert run.rows % shares == 0


def test_a_large_run_is_compiled_on_its_devices():
  run = BigRun('tune_llama_2_7b_1_exit')
  check(run, run.compiled_memory())


@pytest.mark.slow
@pytest.mark.parametrize('name', RUNS)
def test_runs_are_compiled_on_their_devices(name):
  run = BigRun(name)
  environment = {
    **os.environ,
    'JAX_NUM_CPU_DEVICES': str(run.devices),
    'PYTHONPATH': str(REPOSITORY),
  }
  done = subprocess.run(
    [sys.executable, __file__, name],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  check(run, ahead.StepMemory(**json.loads(done.stdout)))


def check(run: BigRun, found: ahead.StepMemory) -> None:
  """Compare what the compiler found with the plan and the hardware."""
  planned = predict_memory(run.workload, run.arrangement)
  assert found.arguments == pytest.approx(planned.held - planned.idle, 1e-3)
  needed = found.peak + planned.idle
  if run.objective.regime is Regime.TUNE:
    # XLA for the CPU has no products of bfloat16: it makes a float32 copy of
    # the backbone, of two more numbers' bytes each. No accelerator does.
    needed -= 2 * planned.frozen
  assert needed <= run.hardware.memory_bytes


if __name__ == '__main__':
  found = BigRun(sys.argv[1]).compiled_memory()
  print(
    json.dumps(
      {
        'arguments': found.arguments,
        'temporary': found.temporary,
        'results': found.results,
      }
    )
  )
