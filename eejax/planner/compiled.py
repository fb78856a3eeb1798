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
from collections.abc import Sequence

import jax

from eejax.models.quantized import quantize_backbone
from eejax.ops.quant import Quantization
from eejax.parallel.mesh import make_mesh
from eejax.parallel.topologies import compiling_for
from eejax.planner.workload import Arrangement, Workload
from eejax.training import ahead
from eejax.training.ahead import StepMemory
from eejax.training.freeze import Regime
from eejax.training.objective import Forward, Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.pipelined_config import PipelineConfig
from eejax.training.step import StepConfig


@dataclasses.dataclass(frozen=True)
class CompiledLayout:
  """A layout as the compiler sees it.

  Attributes:
    arrangement: the layout.
    memory: what a step needs of each device.
    compile_s: seconds that compilation took.
  """

  arrangement: Arrangement
  memory: StepMemory
  compile_s: float


def compile_layout(
  workload: Workload,
  arrangement: Arrangement,
  *,
  devices: Sequence[jax.Device],
) -> CompiledLayout:
  """Compile a training step for devices, from shapes alone.

  Args:
    workload: what a step computes.
    arrangement: how it is laid over the devices.
    devices: as many as the arrangement's mesh has; described ones will do, see
      `eejax.parallel.topologies`.

  Raises:
    ArgumentError: the layout cannot be.
  """
  clock = time.perf_counter()
  int8 = workload.backbone is Quantization.INT8
  settings = StepConfig(
    forward=Forward(
      dtype=workload.dtype, rematerialization=arrangement.rematerialization
    ),
    microbatches=arrangement.microbatches,
    pipeline=_pipeline(arrangement),
  )
  with compiling_for(devices[0]):
    step = ahead.compile_ahead(
      workload.config,
      objective=Objective(
        regime=Regime(workload.learns.value), chunk_size=workload.chunk_size
      ),
      optimizer=clipped_adamw(1e-3),
      settings=settings,
      mesh=make_mesh(arrangement.mesh, devices=list(devices)),
      rows=workload.rows,
      length=workload.length,
      frozen=quantize_backbone if int8 else lambda params: params,
    )
  seconds = time.perf_counter() - clock
  return CompiledLayout(arrangement, ahead.step_memory(step), seconds)


def _pipeline(arrangement: Arrangement) -> PipelineConfig | None:
  if not arrangement.is_pipeline:
    return None
  return PipelineConfig(
    schedule=arrangement.schedule,
    rounds=arrangement.rounds,
    keep=arrangement.keep,
  )
