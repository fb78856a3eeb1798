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
"""What a gin file says of a large run, as the planner takes it."""

import dataclasses
from collections.abc import Mapping

from eejax.config import EarlyExitConfig, architectures, parse_exits
from eejax.hardware import Hardware, read_hardware
from eejax.parallel.mesh import parse_mesh
from eejax.parallel.topologies import Machines, machines_of
from eejax.planner.workload import Arrangement, Learns, Workload
from eejax.training.objective import Objective
from eejax.training.step import StepConfig


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """A run of a gin file, laid over the machine that it was made for.

  Attributes:
    workload: what a step computes.
    arrangement: how it is laid over the devices.
    machine: name of the devices, see `eejax.parallel.topologies`.
    machines: which and how many these are.
    hardware: one of them.
    objective: what is minimised.
    step: how a step is computed.
    sharding: mesh axes of parameters by letter, see `axes.sharding_rules`.
  """

  workload: Workload
  arrangement: Arrangement
  machine: str
  machines: Machines
  hardware: Hardware
  objective: Objective
  step: StepConfig
  sharding: Mapping[str, tuple[str, ...]]


def planned_run(
  *,
  architecture: str,
  exits: str,
  machine: str,
  mesh: str,
  batch_size: int,
  sequence_length: int,
  objective: Objective,
  step: StepConfig,
  sharding: Mapping[str, tuple[str, ...]],
) -> PlannedRun:
  """Return a run as the planner takes it.

  Args:
    architecture: a name in `configs/models`.
    exits: as `add-exits` takes them.
    machine: name of the devices, such as 2xv5e-256 or 8xH100.
    mesh: as `--mesh` takes it.
    batch_size: sequences of a step.
    sequence_length: tokens of a sequence.
    objective: what is minimised.
    step: how a step is computed.
    sharding: mesh axes of parameters by letter, see `axes.sharding_rules`.
  """
  config = EarlyExitConfig(
    architectures.read_model(architecture), parse_exits(exits)
  )
  machines = machines_of(machine)
  arrangement = Arrangement(
    parse_mesh(mesh).resolved(machines.devices),
    step.microbatches,
    step.forward.rematerialization,
  )
  if step.pipeline is not None:
    arrangement = dataclasses.replace(
      arrangement, schedule=step.pipeline.schedule, keep=step.pipeline.keep
    )
  workload = Workload(
    config,
    Learns(objective.regime.value),
    rows=batch_size,
    length=sequence_length,
    dtype=step.forward.dtype,
    chunk_size=objective.chunk_size,
  )
  return PlannedRun(
    workload,
    arrangement,
    machine,
    machines,
    read_hardware(machines.hardware),
    objective,
    step,
    sharding,
  )
