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
"""What a step computes, reads and sends, over what a device can.

The forecast of `eejax.planner.time` is a sum of quotients: operations over a
share of the peak, bytes over the bandwidth of the memory, bytes over that of
the links. Its numerators are counted here, by the same code, on a machine
whose rates are 1.
"""

import dataclasses
import math

from eejax.planner.time import Machine, predict_time
from eejax.planner.workload import Arrangement, Workload


@dataclasses.dataclass(frozen=True)
class Roofline:
  """A step on one device, on average over a pipeline's stages.

  Attributes:
    flops: operations, recomputation with them.
    read_bytes: weights that products read, and what the optimizer reads and
      writes.
    sent_bytes: to other devices.
    compute_s: operations at the peak.
    memory_s: bytes at the bandwidth of the memory.
    links_s: bytes at the bandwidth of links and network.
  """

  flops: float
  read_bytes: float
  sent_bytes: float
  compute_s: float
  memory_s: float
  links_s: float

  @property
  def bound(self) -> str:
    """Return what takes longest: compute, memory or links."""
    seconds = {
      'compute': self.compute_s,
      'memory': self.memory_s,
      'links': self.links_s,
    }
    return max(seconds, key=lambda name: seconds[name])


def roofline(
  workload: Workload, arrangement: Arrangement, machine: Machine
) -> Roofline:
  """Return what a step computes, reads and sends, and how long each takes.

  Args:
    workload: what a step computes.
    arrangement: how it is laid out.
    machine: on what.
  """
  peak = machine.hardware.flops(workload.dtype)
  counted = lambda **rates: predict_time(
    workload, arrangement, _with_rates(machine, workload.dtype, **rates)
  )
  flops = counted(flops=1.0).work
  read = counted(memory=1.0)
  sent = counted(links=1.0).messages
  read_bytes = read.work + read.update
  return Roofline(
    flops=flops,
    read_bytes=read_bytes,
    sent_bytes=sent,
    compute_s=flops / peak,
    memory_s=read_bytes / machine.hardware.memory_bandwidth,
    links_s=predict_time(workload, arrangement, machine).messages,
  )


def _with_rates(
  machine: Machine,
  dtype: str,
  *,
  flops: float = math.inf,
  memory: float = math.inf,
  links: float = math.inf,
) -> Machine:
  """Return a machine with other rates; none takes no time."""
  hardware = dataclasses.replace(
    machine.hardware,
    peak_flops={dtype: flops},
    memory_bandwidth=memory,
    link_bandwidth=2 * links,  # that counts both directions
  )
  return Machine(hardware, efficiency=1.0)
