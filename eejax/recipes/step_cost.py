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
"""What a step of a run costs, for its MFU."""

import jax
from jax.sharding import Mesh

from eejax.config import EarlyExitConfig
from eejax.hardware import Hardware, hardware_of, read_hardware
from eejax.planner.time import model_flops
from eejax.planner.workload import Learns, Workload
from eejax.recipes.training_runs import RunSettings
from eejax.training.throughput import StepCost


def step_cost(
  config: EarlyExitConfig,
  settings: RunSettings,
  *,
  mesh: Mesh | None,
  has_cache: bool = False,
) -> StepCost:
  """Return what a step of a run costs.

  Args:
    config: the model with its exits.
    settings: of the run.
    mesh: its devices; None is the default one.
    has_cache: whether the backbone is read from a cache of activations; then,
      and where a part of it is frozen, no operations are stated.

  Raises:
    ArgumentError: there is no hardware of that name.
  """
  devices = 1 if mesh is None else mesh.size
  first = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
  flops = None
  if not has_cache and not settings.frozen:
    flops = model_flops(
      Workload(
        config,
        Learns(settings.objective.regime.value),
        rows=settings.data.batch_size,
        length=settings.data.sequence_length,
      )
    )
  return StepCost.on(
    _hardware(settings.loop.hardware, first),
    dtype=settings.step.forward.dtype,
    devices=devices,
    model_flops=flops,
  )


def _hardware(name: str, device: jax.Device) -> Hardware | None:
  return read_hardware(name) if name else hardware_of(device.device_kind)
