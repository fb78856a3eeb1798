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
"""The planner's memory against the compilers of TPUs and GPUs.

  python benchmarks/ahead_planner.py --only planner_tpu_error

Twelve steps for each are compiled from shapes alone; the planner's counts were
taken from other ones. The figure is the median of the relative errors without
their signs; `detail` has the worst, the worst below and every case.
"""

import argparse
import contextlib
import functools
import importlib.metadata
import json
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import figures
import jax
from parallel_planner import Case

from eejax.config import ModelConfig, architectures
from eejax.errors import EejaxError
from eejax.hardware import Platform
from eejax.models.decoder import Rematerialization
from eejax.parallel import topologies
from eejax.pipeline.cost import Keep
from eejax.pipeline.schedule import ScheduleKind
from eejax.planner.compiled import compile_layout
from eejax.planner.memory import predict_memory
from eejax.training.freeze import Regime

NONE = Rematerialization.NONE
STANDARD, JOINT, TUNE = Regime.STANDARD, Regime.JOINT, Regime.TUNE


def case(
  regime: Regime, model: str | ModelConfig, mesh: str, exits: str = '', **fields
) -> Case:
  """Return a step of a large model, bfloat16 unless it says otherwise."""
  if isinstance(model, str):
    model = architectures.read_model(model)
  defaults = {'length': 2048, 'dtype': 'bfloat16', 'chunk_size': 1024}
  return Case(regime, mesh, exits, model=model, **{**defaults, **fields})


def _bottlenecks(depth: int, rank: int) -> str:
  step = depth // 8
  return ','.join(
    f'{step * i}:bottleneck_mlp({rank}):untied' for i in range(1, 9)
  )


PIPELINE = {'schedule': ScheduleKind.ONE_F_ONE_B}
FORWARD = {'schedule': ScheduleKind.FORWARD_ONLY}
# No count of the planner was fitted to one of these steps. Six of the first and
# all of the second had been seen before counts changed for the sake of others.
JUDGED_TPU = (
  ('v5e-16', case(TUNE, 'llama_2_7b', 'fsdp=16', '8:mlp:untied', rows=32)),
  (
    'v5e-8',
    case(TUNE, 'llama_2_7b', 'fsdp=4,model=2', _bottlenecks(32, 256), rows=8),
  ),
  (
    'v5e-64',
    case(TUNE, 'llama_2_70b', 'fsdp=16,model=4', '20:mlp:untied', rows=64),
  ),
  (
    'v6e-8',
    case(TUNE, 'llama_3_8b', 'fsdp=8', '8:norm:shared,16:norm', rows=16),
  ),
  (
    'v5p-16',
    case(
      TUNE, 'qwen3_8b', 'data=2,fsdp=4', '9:mlp:untied', rows=32, microbatches=2
    ),
  ),
  (
    'v5e-16',
    case(
      TUNE,
      'llama_2_13b',
      'stage=4,model=4',
      '10:mlp:untied,20:mlp:untied',
      rows=32,
      microbatches=8,
      **FORWARD,
    ),
  ),
  (
    'v5p-8',
    case(
      JOINT,
      'ee_llm_1b',
      'data=2,stage=2',
      '6:embedding:tied_embedding',
      rows=32,
      microbatches=8,
      keep=Keep.RESIDUALS,
      **PIPELINE,
    ),
  ),
  ('v5e-16', case(STANDARD, 'ee_llm_1b', 'fsdp=16', rows=32)),
  (
    'v5p-64',
    case(
      JOINT,
      'ee_llm_7b',
      'fsdp=32',
      '8:embedding:untied,16:embedding:untied',
      rows=64,
    ),
  ),
  (
    'v6e-64',
    case(
      JOINT,
      'ee_llm_7b',
      'fsdp=32,model=2',
      '16:mlp:untied',
      rows=256,
      microbatches=4,
    ),
  ),
  ('v5p-32', case(STANDARD, 'mistral_7b', 'fsdp=16', rows=32, kept=NONE)),
  (
    'v5p-64',
    case(
      STANDARD, 'llama_2_13b', 'data=2,fsdp=8,model=2', rows=64, microbatches=2
    ),
  ),
)
JUDGED_GPU = (
  ('1xH100', case(TUNE, 'llama_2_13b', 'data=1', '10:mlp:untied', rows=2)),
  (
    '8xH100',
    case(TUNE, 'llama_2_7b', 'fsdp=4,model=2', _bottlenecks(32, 256), rows=16),
  ),
  (
    '8xH100',
    case(TUNE, 'llama_2_70b', 'fsdp=8', '20:mlp:untied', rows=16),
  ),
  (
    '8xH200',
    case(TUNE, 'llama_3_8b', 'data=8', '8:norm,16:norm', rows=16),
  ),
  (
    '8xA100',
    case(
      TUNE, 'qwen3_8b', 'data=2,fsdp=4', '9:mlp:untied', rows=32, microbatches=2
    ),
  ),
  (
    '8xH100',
    case(
      TUNE,
      'llama_2_13b',
      'stage=4,model=2',
      '10:mlp:untied,20:mlp:untied',
      rows=32,
      microbatches=8,
      **FORWARD,
    ),
  ),
  (
    '4xH100',
    case(
      JOINT,
      'ee_llm_1b',
      'data=2,stage=2',
      '6:embedding:tied_embedding',
      rows=32,
      microbatches=8,
      keep=Keep.RESIDUALS,
      **PIPELINE,
    ),
  ),
  ('8xA100', case(STANDARD, 'ee_llm_1b', 'fsdp=8', rows=32)),
  (
    '16xH100',
    case(
      JOINT,
      'ee_llm_7b',
      'fsdp=16',
      '8:embedding:untied,16:embedding:untied',
      rows=64,
    ),
  ),
  (
    '16xH100',
    case(
      JOINT,
      'ee_llm_7b',
      'data=2,fsdp=4,model=2',
      '16:mlp:untied',
      rows=64,
      microbatches=4,
    ),
  ),
  ('16xH200', case(STANDARD, 'mistral_7b', 'fsdp=16', rows=16, kept=NONE)),
  (
    '32xH100',
    case(
      STANDARD, 'llama_2_13b', 'data=2,fsdp=8,model=2', rows=64, microbatches=2
    ),
  ),
)


def compared(
  machine: str, one: Case, kept: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
  """Return what the planner and the machine's compiler say of a step.

  Parameters that a step does not read are no part of the compiled program, and
  of neither number.
  """
  platform = Platform.TPU if '-' in machine else Platform.GPU
  planned = predict_memory(one.workload, one.arrangement, platform=platform)
  read = planned.total - planned.idle
  found = kept.get(words(machine, one))
  if found is None:
    found = compiled(machine, one)
  needs = found['compiled_bytes']
  return {
    'case': words(machine, one),
    'predicted_bytes': read,
    'error': None if needs is None else read / needs - 1,
    **found,
  }


def compilers() -> dict[str, str]:
  """Return the versions of the compilers that are installed here."""
  found = {}
  for package in ('libtpu', 'jax-cuda13-plugin'):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[package] = importlib.metadata.version(package)
  return found


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
  """Let libtpu leave out what makes a program faster, and takes minutes.

  Nothing runs beside collectives then. Two steps that were compiled both ways
  needed 0 and 7 % more with it.
  """
  name = 'jax_exec_time_optimization_effort'
  before = getattr(jax.config, name)
  jax.config.update(name, -1.0)
  try:
    yield
  finally:
    jax.config.update(name, before)


def words(machine: str, one: Case) -> str:
  """Return what tells a step from the others."""
  model = f'{one.model.num_layers}x{one.model.embed_dim}'
  return (
    f'{machine} {one.regime.value} {model} {one.exits or "no exits"} '
    f'{one.mesh} rows={one.rows} microbatches={one.microbatches} '
    f'recompute={one.kept.value}'
  )


def compiled(machine: str, one: Case) -> dict[str, Any]:
  """Return what the compiler says of a step."""
  found = compile_layout(
    one.workload, one.arrangement, devices=topologies.devices_of(machine)
  )
  jax.clear_caches()
  return {
    'compiled_bytes': found.memory and found.memory.peak,
    'argument_bytes': found.memory and found.memory.arguments,
    'temporary_bytes': found.memory and found.memory.temporary,
    'refusal': found.refusal,
    'compile_s': found.compile_s,
  }


def planner_error(
  cases: tuple[tuple[str, Case], ...], args: argparse.Namespace
) -> figures.Figure:
  """Return the median error of a step's memory, its sign left out."""
  rows = []
  file = pathlib.Path(args.kept_steps) if args.kept_steps else None
  kept = {}
  if file is not None and file.is_file():
    kept = json.loads(file.read_text())
  try:
    for machine, one in cases:
      with quick_compilation():
        rows.append(compared(machine, one, kept))
      print(f'  {rows[-1]}', file=sys.stderr, flush=True)
      kept[rows[-1]['case']] = {
        k: v
        for k, v in rows[-1].items()
        if k not in ('case', 'predicted_bytes', 'error')
      }
      if file is not None:
        file.write_text(json.dumps(kept, indent=2))
  except EejaxError as error:
    return None, {'missing': str(error)}
  errors = [row['error'] for row in rows if row['error'] is not None]
  return statistics.median(map(abs, errors)), {
    'compilers': compilers(),
    'libtpu_effort': -1.0,
    'worst': max(errors, key=abs),
    'worst_below': min(0.0, *errors),
    'cases': rows,
  }


FIGURES: dict[str, figures.Measure] = {
  'planner_tpu_error': functools.partial(planner_error, JUDGED_TPU),
  'planner_gpu_error': functools.partial(planner_error, JUDGED_GPU),
}


def add_arguments(made: argparse.ArgumentParser) -> None:
  """Add what the planner's figures take."""
  made.add_argument(
    '--kept-steps', help='file for what is compiled, and to go on from'
  )


def main() -> None:
  made = figures.parser(__doc__, repeats=1)
  add_arguments(made)
  figures.run(made, FIGURES)


if __name__ == '__main__':
  main()
