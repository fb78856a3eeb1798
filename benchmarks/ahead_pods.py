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
"""The runs of `gin/runs` on their machines, as the compilers of these see them.

  python benchmarks/ahead_pods.py --kept pods.json

Each run's own step, on its whole mesh, is compiled from shapes alone. That
takes minutes a run, so what is compiled goes into a file at once, and a
program that is started again goes on. Runs for GPUs are passed over where the
compiler of GPUs is not installed, see `launch/gpu_compiler.sh`; start it once
more in that environment.
"""

import argparse
import json
import pathlib
import sys
from typing import Any

import figures
import gin
import jax
from ahead_planner import compilers, quick_compilation

from eejax.axes import sharding_rules
from eejax.cli.gin import (
  config as gin_config,
)
from eejax.cli.gin import (
  configurables,  # noqa: F401  (registers what gin files may name)
)
from eejax.cli.gin.planned_run import PlannedRun
from eejax.errors import EejaxError
from eejax.parallel import topologies
from eejax.planner.choose import mesh_words
from eejax.planner.compiled import compile_layout
from eejax.planner.memory import predict_memory

FILES = ('runs/tune_llama.gin', 'runs/ee_llm.gin')


def names() -> list[tuple[str, str, str]]:
  """Return file, model and machine of every run, small machines first."""
  found = []
  for file in FILES:
    _parse(file, [])
    found += [(file, *key) for key in gin.query_parameter('%LAYOUTS')]
  return sorted(found, key=lambda run: topologies.machines_of(run[2]).devices)


def read(file: str, model: str, machine: str) -> tuple[PlannedRun, Any]:
  """Return a run as its gin file has it, and its optimizer."""
  _parse(file, [f'ARCHITECTURE={model!r}', f'MACHINE={machine!r}'])
  run = gin.get_configurable('planned_run')()
  optimizer = gin.get_configurable('clipped_adamw')(learning_rate=1e-4)
  return run, optimizer.make()


def _parse(file: str, bindings: list[str]) -> None:
  needed = ["RUN='a'", *(["CHECKPOINT='b'"] if 'tune' in file else [])]
  gin_config.parse(
    argparse.Namespace(
      gin_file=[file], gin_bindings=[*needed, *bindings], gin_search_paths=[]
    )
  )


def compiled(file: str, model: str, machine: str) -> dict[str, Any]:
  """Return what the compiler says of a run."""
  run, optimizer = read(file, model, machine)
  with sharding_rules(run.sharding):
    found = compile_layout(
      run.workload,
      run.arrangement,
      devices=topologies.devices_of(machine),
      objective=run.objective,
      settings=run.step,
      optimizer=optimizer,
    )
  jax.clear_caches()
  return {
    'step_bytes': found.memory and found.memory.peak,
    'refusal': found.refusal,
    'compile_s': found.compile_s,
  }


def compared(
  run: tuple[str, str, str], found: dict[str, Any]
) -> dict[str, Any]:
  """Return what the planner says of a run, beside what the compiler does.

  `compiled_bytes` includes parameters that a step does not read: they are no
  part of the program, and are held.
  """
  asked, _ = read(*run)
  with sharding_rules(asked.sharding):
    planned = predict_memory(
      asked.workload, asked.arrangement, platform=asked.hardware.platform
    )
  step = found['step_bytes']
  needs = None if step is None else step + planned.idle
  room = asked.hardware.memory_bytes
  return {
    'run': run[0],
    'model': run[1],
    'machine': run[2],
    'mesh': mesh_words(asked.arrangement.mesh),
    'microbatches': asked.arrangement.microbatches,
    'planned_bytes': planned.total,
    'compiled_bytes': needs,
    'memory_bytes': room,
    'error': None if needs is None else planned.total / needs - 1,
    'fits': needs is not None and needs <= room,
    **found,
  }


def pods_compiled(args: argparse.Namespace) -> figures.Figure:
  """Return how many runs compile and fit, of all that there are."""
  kept = pathlib.Path(args.kept) if args.kept else None
  rows: dict[str, Any] = {}
  if kept is not None and kept.is_file():
    rows = json.loads(kept.read_text())
  missing = []
  for run in names():
    name = ' '.join(run)
    if name in rows or run[2] not in (args.machines or [run[2]]):
      continue
    try:
      topologies.devices_of(run[2])
    except EejaxError as error:
      missing.append(f'{name}: {error}')
      continue
    with quick_compilation():
      rows[name] = compiled(*run)
    print(f'  {name}: {rows[name]}', file=sys.stderr, flush=True)
    if kept is not None:
      kept.write_text(json.dumps(rows, indent=2))
  compared_rows = [
    compared(run, rows[' '.join(run)])
    for run in names()
    if ' '.join(run) in rows
  ]
  fitting = sum(row['fits'] for row in compared_rows)
  detail = {
    'compilers': compilers(),
    'libtpu_effort': -1.0,
    'runs': len(names()),
    'compiled': len(rows),
    'rows': compared_rows,
    'not_compiled': [
      ' '.join(run) for run in names() if ' '.join(run) not in rows
    ],
    'missing': missing,
  }
  return float(fitting), detail


FIGURES: dict[str, figures.Measure] = {'pods_compiled': pods_compiled}


def add_arguments(made: argparse.ArgumentParser) -> None:
  """Add what `pods_compiled` takes."""
  made.add_argument(
    '--kept', help='file for what is compiled, and to go on from'
  )
  made.add_argument(
    '--machines',
    type=lambda text: text.split(','),
    help='of the runs, separated by commas (default: all)',
  )


if __name__ == '__main__':
  parser = figures.parser(__doc__, repeats=1)
  add_arguments(parser)
  figures.run(parser, FIGURES)
