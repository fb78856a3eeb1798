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
"""What the compiler of a machine says a layout needs, beside the forecast."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import optax

from eejax.models.quantized import quantize_backbone
from eejax.ops.quant import Quantization
from eejax.parallel.mesh import make_mesh
from eejax.parallel.topologies import compiling_for
from eejax.planner.workload import Arrangement, Workload
from eejax.training import ahead_of_time
from eejax.training.ahead_of_time import StepMemory
from eejax.training.freeze import Regime
from eejax.training.objective import Forward, Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.pipelined_config import PipelineConfig
from eejax.training.step import StepConfig
from eejax.types import Params

_NO_ROOM = 'RESOURCE_EXHAUSTED:'


@dataclasses.dataclass(frozen=True)
class CompiledLayout:
  """A layout as the compiler sees it.

  Attributes:
    arrangement: the layout.
    memory: what a step needs of each device; None where the compiler made no
      program, because a device has not so much.
    compile_s: seconds that compilation took.
    refusal: what the compiler said instead of making a program.
  """

  arrangement: Arrangement
  memory: StepMemory | None
  compile_s: float
  refusal: str = ''


def compile_layout(
  workload: Workload,
  arrangement: Arrangement,
  *,
  devices: Sequence[jax.Device],
  objective: Objective | None = None,
  settings: StepConfig | None = None,
  optimizer: optax.GradientTransformation | None = None,
) -> CompiledLayout:
  """Compile a training step for devices, from shapes alone.

  Args:
    workload: what a step computes.
    arrangement: how it is laid over the devices.
    devices: as many as the arrangement's mesh has; described ones will do, see
      `eejax.parallel.topologies`.
    objective: of a run; None is the plain one of the workload.
    settings: of a run; None are those of the arrangement.
    optimizer: of a run; None is Adam.

  Raises:
    ArgumentError: the layout cannot be.
  """
  mesh = make_mesh(arrangement.mesh, devices=list(devices))
  clock = time.perf_counter()
  memory, refusal = None, ''
  try:
    with compiling_for(devices[0]):
      step = ahead_of_time.compile_ahead(
        workload.config,
        objective=objective or _objective(workload),
        optimizer=optimizer or clipped_adamw(1e-3),
        settings=settings or _settings(workload, arrangement),
        mesh=mesh,
        rows=workload.rows,
        length=workload.length,
        frozen=_as_held(workload),
      )
      memory = ahead_of_time.step_memory(step, device=devices[0])
  except jax.errors.JaxRuntimeError as error:
    if not str(error).startswith(_NO_ROOM):
      raise
    refusal = str(error).removeprefix(_NO_ROOM).split('\n')[0].strip()
  seconds = time.perf_counter() - clock
  return CompiledLayout(arrangement, memory, seconds, refusal)


def _objective(workload: Workload) -> Objective:
  return Objective(
    regime=Regime(workload.learns.value), chunk_size=workload.chunk_size
  )


def _settings(workload: Workload, arrangement: Arrangement) -> StepConfig:
  forward = Forward(
    dtype=workload.dtype, rematerialization=arrangement.rematerialization
  )
  return StepConfig(
    forward=forward,
    microbatches=arrangement.microbatches,
    pipeline=_pipeline(arrangement),
  )


def _as_held(workload: Workload) -> Callable[[Params], Params]:
  if workload.backbone is Quantization.INT8:
    return quantize_backbone
  return lambda params: params


def _pipeline(arrangement: Arrangement) -> PipelineConfig | None:
  if not arrangement.is_pipeline:
    return None
  return PipelineConfig(
    schedule=arrangement.schedule,
    rounds=arrangement.rounds,
    keep=arrangement.keep,
  )
