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

from eejax import axes
from eejax.cli.gin import (
  config as gin_config,
)
from eejax.cli.gin import (
  configurables,  # noqa: F401  (registers what gin files may name)
)
from eejax.config import architectures
from eejax.errors import ArgumentError
from eejax.parallel import topologies
from eejax.planner.compiled import CompiledLayout, compile_layout
from eejax.planner.memory import DeviceMemory, predict_memory
from eejax.training import ahead_of_time
from eejax.training.freeze import Regime

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PRETRAINING, TUNING = 'runs/ee_llm.gin', 'runs/tune_llama.gin'
# Of docs/parallelism.md: eight exits of a model on a machine, to the mesh and
# the microbatches of tune_llama.gin.
EIGHT_EXITS = {
  ('llama_2_7b', '8xH100'): ('8xH100', 1),
  ('llama_2_13b', '8xH100'): ('stage=4,model=2', 16),
  ('llama_2_70b', '8xH100'): ('stage=2,model=4', 16),
  ('llama_3_8b', '8xH100'): ('8xH100', 1),
  ('llama_3_70b', '8xH100'): ('model=8', 4),
}
# The rest of a device's memory is the runtime's.
USABLE = 0.9
# The compiler of a CPU may need so much more than is planned for others.
SLACK = 1.2


def parse(file, *bindings):
  needed = ["RUN='a'", *(["CHECKPOINT='b'"] if file == TUNING else [])]
  gin_config.parse(
    argparse.Namespace(
      gin_file=[file], gin_bindings=[*needed, *bindings], gin_search_paths=[]
    )
  )


def names():
  """Return every run as `MODEL:MACHINE`, `:8` behind those of eight exits."""
  found = [':'.join((*key, '8')) for key in EIGHT_EXITS]
  for file in (PRETRAINING, TUNING):
    parse(file)
    found += [':'.join(key) for key in gin.query_parameter('%LAYOUTS')]
  gin.clear_config()
  return found


RUNS = names()
# Those that a machine without accelerators simulates in minutes.
SIMULATED = [
  name
  for name in RUNS
  if name.endswith((':8', ':1xH100', ':4xH100', 'xA100'))
  and '8xA100' not in name
]


@pytest.fixture(autouse=True)
def forget():
  yield
  gin.clear_config()


def read(name):
  """Return what the gin file says of a run, and its optimizer."""
  model, machine, *eight = name.split(':')
  bindings = [f'ARCHITECTURE = {model!r}', f'MACHINE = {machine!r}']
  if eight:
    depth = architectures.read_model(model).num_layers
    depths = range(depth // 8, depth + 1, depth // 8)
    exits = ','.join(f'{d}:mlp:untied' for d in depths)
    mesh, microbatches = EIGHT_EXITS[model, machine]
    bindings += [f'EXITS = {exits!r}', f'MESH = {mesh!r}']
    bindings += [f'MICROBATCHES = {microbatches}']
  parse(PRETRAINING if model.startswith('ee_llm') else TUNING, *bindings)
  run = gin.get_configurable('planned_run')()
  optimizer = gin.get_configurable('clipped_adamw')(learning_rate=1e-4)
  return run, optimizer.make()


def in_compiled_dtype(run):
  """Return a run as a CPU compiles what accelerators run.

  XLA for the CPU has no products of bfloat16: it would make a float32 copy of
  a frozen backbone, which no accelerator does.
  """
  if run.objective.regime is not Regime.TUNE:
    return run
  forward = dataclasses.replace(run.step.forward, dtype='float32')
  return dataclasses.replace(
    run,
    step=dataclasses.replace(run.step, forward=forward),
    workload=dataclasses.replace(run.workload, dtype='float32'),
  )


def compiled(name) -> CompiledLayout:
  run, optimizer = read(name)
  run = in_compiled_dtype(run)
  return compile_layout(
    run.workload,
    run.arrangement,
    devices=jax.devices()[: run.machines.devices],
    objective=run.objective,
    settings=run.step,
    optimizer=optimizer,
  )


def test_all_runs_are_there():
  sizes = ('1b', '7b', '13b', '30b')
  tuned = ('llama_2_7b', 'llama_2_13b', 'llama_2_70b', 'llama_3_8b')
  tuned += ('llama_3_70b', 'qwen3_8b')
  for model in (*(f'ee_llm_{size}' for size in sizes), *tuned):
    machines = {n.split(':')[1] for n in RUNS if n.startswith(f'{model}:')}
    for kind in ('v5e', 'v5p', 'v6e', 'A100', 'H100', 'H200', '2x'):
      assert any(kind in machine for machine in machines), (model, kind)


@pytest.mark.parametrize('name', RUNS)
def test_shapes_exits_and_weights(name):
  run, _ = read(name)
  depth = run.workload.config.model.num_layers
  depths = [e.depth for e in run.workload.config.exits]
  if name.startswith('ee_llm'):
    model = name.split(':')[0]
    assert run.workload.config == architectures.read_early_exit(
      model, exits=model
    )
    weights = run.objective.exit_weights.weights
    assert weights == ((0.25, 0.5) if model == 'ee_llm_1b' else (0.1, 0.2))
    assert run.objective.regime is Regime.JOINT
    return
  assert run.objective.regime is Regime.TUNE
  if name.endswith(':8'):
    assert depths == [depth * i // 8 for i in range(1, 9)]
  else:
    assert depths == [depth // 4]


def test_the_rate_is_that_of_ee_tuning():
  read('llama_2_7b:1xH100')
  rate = gin.get_configurable('optax.join_schedules')().make()
  rates = [float(rate(i)) for i in (0, 200, 400, 20_200, 40_000)]
  assert rates == pytest.approx([0, 5e-5, 1e-4, 5.5e-5, 1e-5])


@pytest.mark.parametrize('name', RUNS)
def test_plan_fits_the_hardware(name):
  run, _ = read(name)
  memory = planned(run)
  assert memory.total <= USABLE * run.hardware.memory_bytes
  mesh, machines = run.arrangement.mesh, run.machines
  assert mesh.data % machines.slices == 0
  assert run.workload.rows % (mesh.row_shares * run.step.microbatches) == 0


def planned(run) -> DeviceMemory:
  return predict_memory(
    run.workload, run.arrangement, platform=run.hardware.platform
  )


def test_a_machine_without_a_layout_is_told_with_those_that_have_one():
  with pytest.raises(ArgumentError, match=r'ee_llm_7b on v5e-8; .*64xA100'):
    read('ee_llm_7b:v5e-8')


def test_rules_of_a_gin_file_lay_parameters_out():
  parse(TUNING, "SHARDING = {'D': ('fsdp', 'data')}", "MACHINE = '8xH100'")
  run = gin.get_configurable('planned_run')()
  assert run.sharding == {'D': ('fsdp', 'data')}
  as_it_is = planned(run)
  with axes.sharding_rules(run.sharding):
    assert planned(run).parameters < as_it_is.parameters / 7


@pytest.mark.ahead
def test_a_run_for_two_slices_is_compiled_for_them():
  run, optimizer = read('llama_2_7b:2xv5e-8')
  model = dataclasses.replace(
    run.workload.config.model, embed_dim=256, mlp_dim=512, vocab_size=512
  )
  config = dataclasses.replace(run.workload.config, model=model.with_depth(8))
  workload = dataclasses.replace(run.workload, config=config, length=128)
  found = compile_layout(
    workload,
    run.arrangement,
    devices=topologies.devices_of(run.machine),
    objective=run.objective,
    settings=run.step,
    optimizer=optimizer,
  )
  expected = predict_memory(workload, run.arrangement)
  held = expected.held - expected.idle
  assert found.memory.arguments == pytest.approx(held, rel=0.1)


def test_a_large_run_is_compiled_on_its_devices():
  check('llama_2_7b:1xH100', compiled('llama_2_7b:1xH100').memory)


@pytest.mark.slow
@pytest.mark.parametrize('name', SIMULATED)
def test_runs_are_compiled_on_their_devices(name):
  run, _ = read(name)
  environment = {
    **os.environ,
    'JAX_NUM_CPU_DEVICES': str(run.machines.devices),
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
  check(name, ahead_of_time.StepMemory(**json.loads(done.stdout)))


def check(name, found: ahead_of_time.StepMemory) -> None:
  """Compare what a CPU's compiler says with the plan and the hardware."""
  run, _ = read(name)
  same = in_compiled_dtype(run)
  expected = predict_memory(same.workload, same.arrangement)
  held = expected.held - expected.idle
  assert found.arguments == pytest.approx(held, 1e-3)
  assert found.peak + expected.idle <= SLACK * expected.total
  if same is run:
    assert found.peak + expected.idle <= run.hardware.memory_bytes


if __name__ == '__main__':
  print(json.dumps(dataclasses.asdict(compiled(sys.argv[1]).memory)))
