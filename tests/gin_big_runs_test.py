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
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import gin
import jax
import pytest

from eejax import architectures, hardware
from eejax.cli.gin import (
  config as gin_config,
)
from eejax.cli.gin import (
  configurables,  # noqa: F401  (registers what gin files may name)
)
from eejax.config import EarlyExitConfig, parse_exits
from eejax.parallel import mesh as mesh_lib
from eejax.planner.memory import predict_memory
from eejax.planner.workload import Arrangement, Learns, Workload
from eejax.training import ahead
from eejax.training.freeze import Regime
from eejax.training.objective import Objective
from eejax.training.step import StepConfig

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
GIN = REPOSITORY / 'gin'
PRETRAINING = sorted(p.stem for p in GIN.glob('runs/ee_llm_*.gin'))
# Of docs/parallelism.md: model and number of exits, to the devices, the mesh
# and the microbatches of tune_llama.gin.
TUNING = {
  ('llama_2_7b', 1): (1, 'data=1', 4),
  ('llama_2_7b', 8): (8, '8xH100', 1),
  ('llama_2_13b', 1): (8, 'data=8', 1),
  ('llama_2_13b', 8): (8, 'stage=4,model=2', 16),
  ('llama_2_70b', 1): (4, 'fsdp=2,model=2', 1),
  ('llama_2_70b', 8): (8, 'stage=2,model=4', 16),
  ('llama_3_8b', 1): (8, 'data=8', 1),
  ('llama_3_8b', 8): (8, '8xH100', 1),
  ('llama_3_70b', 1): (4, 'fsdp=2,model=2', 1),
  ('llama_3_70b', 8): (8, 'model=8', 4),
}
RUNS = [*PRETRAINING, *(f'{name}:{count}' for name, count in TUNING)]
# The rest of a device's memory is the runtime's.
USABLE = 0.9
# The compiler of a CPU may need so much more than is planned for others.
SLACK = 1.2


def bindings_of(run: str) -> tuple[str, list[str]]:
  """Return the gin file of a run, and what is set beside it."""
  name, _, count = run.partition(':')
  if not count:
    return f'runs/{name}.gin', []
  devices, mesh, microbatches = TUNING[name, int(count)]
  depth = architectures.read_model(name).num_layers
  step = depth // 4 if count == '1' else depth // 8
  depths = range(step, step * int(count) + 1, step)
  exits = ','.join(f'{d}:mlp:untied' for d in depths)
  bindings = [
    f'ARCHITECTURE = {name!r}',
    f'EXITS = {exits!r}',
    f'DEVICES = {devices}',
    f'MESH = {mesh!r}',
    f'MICROBATCHES = {microbatches}',
  ]
  if 'stage' in mesh:
    bindings.append('StepConfig.pipeline = @PipelineConfig()')
  return 'runs/tune_llama.gin', bindings


@pytest.fixture(autouse=True)
def forget():
  yield
  gin.clear_config()


class BigRun:
  """What a gin file says of a run."""

  def __init__(self, name: str):
    file, bindings = bindings_of(name)
    needed = ["RUN='a'", *bindings]
    if bindings:
      needed.append("CHECKPOINT='b'")
    args = argparse.Namespace(
      gin_file=[file], gin_bindings=needed, gin_search_paths=[]
    )
    gin_config.parse(args)
    value = lambda macro: gin.query_parameter(f'%{macro}')
    exits = parse_exits(value('EXITS'))
    if bindings:
      model = architectures.read_model(value('ARCHITECTURE'))
    else:
      model = gin.get_configurable('architecture')()
    self.name = name
    self.config = EarlyExitConfig(model, exits)
    self.hardware = hardware.read_hardware(value('HARDWARE'))
    self.devices = value('DEVICES')
    self.mesh = mesh_lib.parse_mesh(value('MESH')).resolved(self.devices)
    self.rows, self.length = value('BATCH_SIZE'), value('SEQUENCE_LENGTH')
    self.objective = gin.get_configurable(Objective)()
    self.step = gin.get_configurable(StepConfig)()
    optimizer = gin.get_configurable('clipped_adamw')(learning_rate=1e-4)
    self.optimizer = optimizer.make()

  def workload(self, dtype: str | None = None) -> Workload:
    return Workload(
      self.config,
      Learns(self.objective.regime.value),
      rows=self.rows,
      length=self.length,
      dtype=dtype or self.step.forward.dtype,
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

  @property
  def compiled_dtype(self) -> str:
    """Return the dtype in which a CPU compiles what accelerators run.

    XLA for the CPU has no products of bfloat16: it would make a float32 copy
    of a frozen backbone, which no accelerator does.
    """
    is_tuning = self.objective.regime is Regime.TUNE
    return 'float32' if is_tuning else self.step.forward.dtype

  def compiled_memory(self) -> ahead.StepMemory:
    forward = dataclasses.replace(self.step.forward, dtype=self.compiled_dtype)
    devices = jax.devices()[: self.devices]
    compiled = ahead.compile_ahead(
      self.config,
      objective=self.objective,
      optimizer=self.optimizer,
      settings=dataclasses.replace(self.step, forward=forward),
      mesh=mesh_lib.make_mesh(self.mesh, devices=devices),
      rows=self.rows,
      length=self.length,
    )
    return ahead.step_memory(compiled)


def test_all_runs_are_there():
  sizes = ('13b', '1b', '30b', '7b')
  assert PRETRAINING == [f'ee_llm_{size}' for size in sizes]


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
  if name.endswith(':1'):
    assert depths == [depth // 4]
  else:
    assert depths == [depth * i // 8 for i in range(1, 9)]
  rate = gin.get_configurable('optax.join_schedules')().make()
  rates = [float(rate(i)) for i in (0, 200, 400, 20_200, 40_000)]
  assert rates == pytest.approx([0, 5e-5, 1e-4, 5.5e-5, 1e-5])


@pytest.mark.parametrize('name', RUNS)
def test_plan_fits_the_hardware(name):
  run = BigRun(name)
  memory = predict_memory(run.workload(), run.arrangement)
  assert memory.total <= USABLE * run.hardware.memory_bytes
  shares = run.mesh.data * run.mesh.fsdp * run.step.microbatches
  assert run.rows % shares == 0


def test_a_large_run_is_compiled_on_its_devices():
  run = BigRun('llama_2_7b:1')
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


def check(run: BigRun, compiled: ahead.StepMemory) -> None:
  """Compare what the compiler says with the plan and the hardware."""
  planned = predict_memory(run.workload(run.compiled_dtype), run.arrangement)
  held = planned.held - planned.idle
  assert compiled.arguments == pytest.approx(held, 1e-3)
  assert compiled.peak + planned.idle <= SLACK * planned.total
  if run.compiled_dtype == run.step.forward.dtype:
    needed = compiled.peak + planned.idle
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
