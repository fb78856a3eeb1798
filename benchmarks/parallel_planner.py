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
"""Measure the planner against what XLA says; print one JSON object.

  python benchmarks/parallel_planner.py
  python benchmarks/parallel_planner.py --only planner_memory_error

Steps are compiled from shapes alone, on simulated devices, and what the
compiler says they need (`memory_analysis`) is compared with what the planner
predicts: nothing is run. The planner's counts were taken from programs of other
shapes than these.
"""

import argparse
import dataclasses
from typing import Any

import figures
import jax

from eejax import hardware
from eejax.config import (
  EarlyExitConfig,
  ModelConfig,
  architectures,
  parse_exits,
)
from eejax.models.decoder import Rematerialization
from eejax.parallel.mesh import parse_mesh
from eejax.pipeline.cost import Keep
from eejax.pipeline.schedule import ScheduleKind
from eejax.planner.compiled import compile_layout
from eejax.planner.memory import DeviceMemory, predict_memory
from eejax.planner.workload import Arrangement, Learns, Workload
from eejax.training.ahead_of_time import StepMemory
from eejax.training.freeze import Regime

_GIB = 2**30
# The rest of a device's memory is the runtime's.
_USABLE = 0.9

MODEL = ModelConfig(
  vocab_size=4096,
  num_layers=8,
  embed_dim=256,
  num_heads=8,
  num_kv_heads=8,
  head_dim=32,
  mlp_dim=704,
  max_length=2048,
)
EIGHT = ','.join(f'{4 * i}:bottleneck_mlp(256):untied' for i in range(1, 9))


@dataclasses.dataclass(frozen=True)
class Case:
  """Describe a step, for the planner and for the compiler.

  Attributes:
    regime: what is trained.
    mesh: as `parse_mesh` reads it.
    exits: as the command line writes them.
    rows: of a batch.
    length: of a row.
    microbatches: parts of a batch.
    kept: what a backward recomputes.
    schedule: of a pipeline; None for no stages.
    keep: of `one_f_one_b`.
    model: the backbone.
    dtype: what is computed in.
    chunk_size: tokens whose logits stand at once.
  """

  regime: Regime
  mesh: str
  exits: str = ''
  rows: int = 16
  length: int = 320
  microbatches: int = 1
  kept: Rematerialization = Rematerialization.BLOCK
  schedule: ScheduleKind | None = None
  keep: Keep = Keep.RESIDUALS
  model: ModelConfig = MODEL
  dtype: str = 'float32'
  chunk_size: int = 512

  @property
  def config(self) -> EarlyExitConfig:
    """Return the model with its exits."""
    exits = parse_exits(self.exits) if self.exits else ()
    return EarlyExitConfig(self.model, exits)

  @property
  def workload(self) -> Workload:
    """Return what the planner is told."""
    return Workload(
      self.config,
      Learns(self.regime.value),
      rows=self.rows,
      length=self.length,
      dtype=self.dtype,
      chunk_size=self.chunk_size,
    )

  @property
  def arrangement(self) -> Arrangement:
    """Return how it is laid over the devices."""
    mesh = parse_mesh(self.mesh).resolved(self._devices())
    arrangement = Arrangement(
      mesh, self.microbatches, self.kept, keep=self.keep
    )
    if self.schedule is None:
      return arrangement
    return dataclasses.replace(arrangement, schedule=self.schedule)

  def predicted(self) -> DeviceMemory:
    """Return what the planner says."""
    return predict_memory(self.workload, self.arrangement)

  def compiled(self) -> StepMemory:
    """Return what the compiler says."""
    layout = compile_layout(
      self.workload,
      self.arrangement,
      devices=jax.devices()[: self._devices()],
    )
    if layout.memory is None:
      raise RuntimeError(f'no room for {self.mesh}: {layout.refusal}')
    return layout.memory

  def _devices(self) -> int:
    sizes = parse_mesh(self.mesh).sizes().values()
    product = 1
    for size in sizes:
      product *= max(size, 1)
    return product


TWO = '2:norm:untied,4:mlp:untied'
FOUR_MLP = '2:mlp:untied,4:mlp:untied,6:mlp:untied,8:mlp:untied'
FOUR_LOW = ','.join(f'{2 * i}:bottleneck_mlp(48):untied' for i in range(1, 5))
CASES = (
  Case(Regime.STANDARD, 'data=1', rows=4),
  Case(Regime.STANDARD, 'data=1,fsdp=8'),
  Case(Regime.STANDARD, 'data=4,model=2', kept=Rematerialization.NONE),
  Case(
    Regime.STANDARD,
    'data=1,stage=8',
    microbatches=16,
    schedule=ScheduleKind.ONE_F_ONE_B,
    keep=Keep.INPUTS,
  ),
  Case(Regime.JOINT, 'data=1,fsdp=4,model=2', TWO, microbatches=2),
  Case(Regime.JOINT, 'data=2,fsdp=2,model=2', TWO, length=640),
  Case(
    Regime.JOINT,
    'data=2,stage=4',
    TWO,
    microbatches=8,
    schedule=ScheduleKind.ONE_F_ONE_B,
  ),
  Case(
    Regime.JOINT,
    'data=2,stage=2,model=2',
    TWO,
    microbatches=4,
    schedule=ScheduleKind.ONE_F_ONE_B,
  ),
  Case(
    Regime.JOINT,
    'data=1,stage=4,model=2',
    TWO,
    microbatches=16,
    schedule=ScheduleKind.GPIPE,
  ),
  Case(Regime.TUNE, 'data=8', FOUR_LOW),
  Case(Regime.TUNE, 'data=1,fsdp=2,model=4', FOUR_MLP, length=640),
  Case(
    Regime.TUNE,
    'data=2,stage=4',
    FOUR_MLP,
    microbatches=8,
    schedule=ScheduleKind.FORWARD_ONLY,
  ),
)


def planner_memory_error(_: argparse.Namespace) -> figures.Figure:
  """Return the largest relative error of a step's memory over the cases.

  Parameters that a step does not read are no part of the compiled program,
  and of neither number.
  """
  rows = [compare(case) for case in CASES]
  return max(abs(row['error']) for row in rows), {'cases': rows}


def compare(case: Case) -> dict[str, Any]:
  """Return both memories of a case, and how far they are apart."""
  predicted, found = case.predicted(), case.compiled()
  read = predicted.total - predicted.idle
  return {
    'regime': case.regime.value,
    'mesh': case.mesh,
    'schedule': None if case.schedule is None else case.schedule.value,
    'predicted_bytes': read,
    'xla_bytes': found.peak,
    'error': read / found.peak - 1,
    'held_error': (predicted.held - predicted.idle) / found.arguments - 1,
    'temporary_error': predicted.temporary / found.temporary - 1,
  }


def tune_7b_peak_gib(_: argparse.Namespace) -> figures.Figure:
  """Return what tuning 8 bottleneck exits of a 7B needs of one H100.

  XLA for the CPU multiplies no bfloat16: it makes a float32 copy of the whole
  backbone, which is taken off here, as no accelerator does.
  """
  case = Case(
    Regime.TUNE,
    'data=1',
    EIGHT,
    rows=4,
    length=2048,
    model=architectures.read_model('llama_2_7b'),
    dtype='bfloat16',
    chunk_size=1024,
  )
  predicted, found = case.predicted(), case.compiled()
  copy = 2 * predicted.frozen
  machine = hardware.read_hardware('h100_80g')
  in_gib = lambda sizes: {k: v / _GIB for k, v in sizes.items()}
  return predicted.total / _GIB, {
    'parts_gib': in_gib(predicted.parts()),
    'room_gib': _USABLE * machine.memory_bytes / _GIB,
    'fits': predicted.total <= _USABLE * machine.memory_bytes,
    'xla_gib': {
      'arguments': found.arguments / _GIB,
      'temporary': found.temporary / _GIB,
      'of_it_a_float32_backbone': copy / _GIB,
      'peak_without_it': (found.peak + predicted.idle - copy) / _GIB,
    },
    'in_float32': compare(dataclasses.replace(case, dtype='float32')),
    'exits': EIGHT,
    'rows': case.rows,
    'sequence_length': case.length,
  }


FIGURES: dict[str, figures.Measure] = {
  'planner_memory_error': planner_memory_error,
  'tune_7b_peak_gib': tune_7b_peak_gib,
}


def main() -> None:
  # A mesh of eight, whatever there is.
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 8)
  parser = figures.parser(__doc__.split('\n')[0], repeats=1)
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()
