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
"""Try every layout of a workload over some devices; keep the best that fit."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Sequence

from eejax.axes import EXPERT, MESH_AXES
from eejax.errors import EejaxError
from eejax.models.decoder import Rematerialization
from eejax.parallel.mesh import MeshConfig
from eejax.pipeline.schedule import ScheduleKind
from eejax.planner.memory import DeviceMemory, predict_memory
from eejax.planner.time import Machine, StepTime, predict_time
from eejax.planner.workload import Arrangement, Learns, Workload

_HOUR = 3600.0
# More microbatches than this many a stage shrink a bubble no more that counts.
_MOST_PER_STAGE = 16
_MOST_MICROBATCHES = 64


@dataclasses.dataclass(frozen=True)
class PlanRequest:
  """What is trained, on which devices, and what a step may use.

  Attributes:
    workload: what is trained.
    machine: one of the devices.
    devices: how many there are.
    usable: share of a device's memory that a step may fill; the rest is the
      runtime's.
    price: of a device for an hour, in any currency; None is not known.
    slices: of TPUs, which lie along `data`.
  """

  workload: Workload
  machine: Machine
  devices: int
  usable: float = 0.9
  price: float | None = None
  slices: int = 1

  @property
  def room(self) -> float:
    """Return the bytes of a device that a step may fill."""
    return self.usable * self.machine.hardware.memory_bytes


@dataclasses.dataclass(frozen=True)
class LayoutPlan:
  """One layout with what is predicted of it.

  Attributes:
    arrangement: the layout.
    memory: of each device.
    time: of a step.
    room: bytes of a device that a step may fill.
    devices: how many there are.
    tokens: of a step.
    price: of a device for an hour, or None.
  """

  arrangement: Arrangement
  memory: DeviceMemory
  time: StepTime
  room: float
  devices: int
  tokens: int
  price: float | None = None

  @property
  def fits(self) -> bool:
    """Return whether it fits each device."""
    return self.memory.total <= self.room

  @property
  def tokens_per_second(self) -> float:
    """Return the tokens trained on in a second."""
    return self.tokens / self.time.total

  @property
  def device_hours_per_billion(self) -> float:
    """Return hours of devices that a billion tokens take."""
    return self.devices * 1e9 / self.tokens_per_second / _HOUR

  @property
  def cost_per_billion(self) -> float | None:
    """Return what a billion tokens cost, where a price is known."""
    if self.price is None:
      return None
    return self.price * self.device_hours_per_billion


@dataclasses.dataclass(frozen=True)
class ImpossibleMeshes:
  """Meshes that cannot train the workload, and why.

  Attributes:
    why: the reason.
    meshes: which, in the words of `parse_mesh`.
  """

  why: str
  meshes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Layouts:
  """Layouts of a workload, sorted.

  Attributes:
    fitting: layouts that fit, fastest first, the best of each mesh and
      schedule.
    too_large: layouts that do not, the closest first, one a mesh.
    refused: meshes that cannot be.
  """

  fitting: tuple[LayoutPlan, ...]
  too_large: tuple[LayoutPlan, ...]
  refused: tuple[ImpossibleMeshes, ...]


def choose(
  request: PlanRequest, *, among: Iterable[MeshConfig] | None = None
) -> Layouts:
  """Return the layouts of a workload over some devices, sorted.

  Args:
    request: what is asked.
    among: the meshes to look at; None looks at all.

  Raises:
    EejaxError: no mesh can hold the model and the batch as they are.
  """
  best: dict[tuple, LayoutPlan] = {}
  least: dict[MeshConfig, LayoutPlan] = {}
  refused: dict[str, list[str]] = {}
  for mesh in meshes(request.devices) if among is None else among:
    why = refusal(request, mesh)
    if why is not None:
      refused.setdefault(why, []).append(mesh_words(mesh))
      continue
    for arrangement in arrangements(request.workload, mesh):
      layout = plan(request, arrangement)
      if layout.fits:
        key = (mesh, arrangement.schedule if mesh.stage > 1 else None)
        if key not in best or layout.time.total < best[key].time.total:
          best[key] = layout
      if mesh not in least or layout.memory.total < least[mesh].memory.total:
        least[mesh] = layout
  if not least:
    reasons = '; '.join(refused)
    raise EejaxError(
      f'no mesh of {request.devices} devices can train this: {reasons}.'
    )
  return Layouts(
    fitting=tuple(sorted(best.values(), key=lambda p: p.time.total)),
    too_large=tuple(
      sorted(
        (p for p in least.values() if not p.fits),
        key=lambda p: p.memory.total,
      )
    ),
    refused=tuple(ImpossibleMeshes(k, tuple(v)) for k, v in refused.items()),
  )


def plan(request: PlanRequest, arrangement: Arrangement) -> LayoutPlan:
  """Return what is predicted of one layout."""
  workload = request.workload
  return LayoutPlan(
    arrangement=arrangement,
    memory=predict_memory(
      workload, arrangement, platform=request.machine.hardware.platform
    ),
    time=predict_time(workload, arrangement, request.machine),
    room=request.room,
    devices=request.devices,
    tokens=workload.rows * workload.length,
    price=request.price,
  )


# MARK: What there is to try


def meshes(devices: int) -> Iterator[MeshConfig]:
  """Yield every way of arranging some devices."""
  # Experts are shared out where that is asked for, never by choice.
  axes = [a for a in MESH_AXES if a != EXPERT]
  for sizes in _factors(devices, len(axes)):
    yield MeshConfig(**dict(zip(axes, sizes, strict=True)))


@functools.cache
def _factors(number: int, count: int) -> tuple[tuple[int, ...], ...]:
  """Return all ordered products of `count` factors."""
  if count == 1:
    return ((number,),)
  return tuple(
    (d, *rest)
    for d in range(1, number + 1)
    if number % d == 0
    for rest in _factors(number // d, count - 1)
  )


def refusal(request: PlanRequest, mesh: MeshConfig) -> str | None:
  """Return why a mesh is out of the question, or None."""
  workload, model = request.workload, request.workload.config.model
  shares = mesh.row_shares
  if mesh.stage > workload.depth:
    return f'the {workload.depth} blocks that run make no more stages'
  if mesh.data % request.slices:
    return f'{request.slices} slices lie along data, which they do not divide'
  if workload.rows % shares:
    return f'a batch of {workload.rows} rows does not divide by data x fsdp'
  experts = model.experts
  if experts is not None:
    learns = workload.learns is not Learns.TUNE
    if mesh.stage > 1 and learns and experts.balance_weight > 0:
      return 'experts are balanced over all blocks, and a stage has its own'
    if experts.num_experts % mesh.expert:
      return f'{experts.num_experts} experts do not divide by expert'
  width = model.mlp_dim if experts is None else experts.expert_dim
  heads = (model.num_heads, model.num_kv_heads, width)
  if any(n % mesh.model for n in heads):
    return (
      f'{model.num_heads} heads, {model.num_kv_heads} key/value heads and an '
      f'MLP of {width} do not divide by model'
    )
  if model.embed_dim % mesh.fsdp:
    return f'a stream of {model.embed_dim} does not divide by fsdp'
  machine = request.machine
  if machine.network is not None and mesh.model > machine.neighbours:
    return (
      f'model would reach over hosts of {machine.neighbours} devices, and its '
      'messages are the most'
    )
  return None


def arrangements(workload: Workload, mesh: MeshConfig) -> Iterator[Arrangement]:
  """Yield the ways of using a mesh."""
  for microbatches in _microbatch_counts(workload, mesh):
    for kept in _rematerializations(workload):
      if mesh.stage == 1:
        yield Arrangement(mesh, microbatches, kept)
        continue
      for schedule, rounds in _schedules(workload, mesh, microbatches):
        yield Arrangement(mesh, microbatches, kept, schedule, rounds)


def _microbatch_counts(workload: Workload, mesh: MeshConfig) -> list[int]:
  rows = workload.rows // mesh.row_shares
  most = _MOST_MICROBATCHES
  if mesh.stage > 1:
    most = _MOST_PER_STAGE * mesh.stage
  counts = [2**i for i in range(int(math.log2(most)) + 1)]
  return [n for n in counts if rows % n == 0]


def _rematerializations(workload: Workload) -> Sequence[Rematerialization]:
  if workload.learns is Learns.TUNE:
    return (Rematerialization.NONE,)
  return (Rematerialization.NONE, Rematerialization.BLOCK)


def _schedules(
  workload: Workload, mesh: MeshConfig, microbatches: int
) -> Iterator[tuple[ScheduleKind, int]]:
  if workload.learns is Learns.TUNE:
    yield ScheduleKind.FORWARD_ONLY, 1
    return
  yield ScheduleKind.ONE_F_ONE_B, 1
  yield ScheduleKind.GPIPE, 1
  pieces = 2 * mesh.stage
  if workload.depth >= pieces and microbatches % mesh.stage == 0:
    yield ScheduleKind.INTERLEAVED, 2


def mesh_words(mesh: MeshConfig) -> str:
  """Return a mesh without the axes of size 1, as `parse_mesh` reads it."""
  sizes = [f'{k}={v}' for k, v in mesh.sizes().items() if v > 1]
  return ','.join(sizes) or 'data=1'
