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
"""How long a step of a layout takes, and where the time goes.

A piece of work takes as long as its arithmetic at a share of the peak that is
assumed, or as the weights it reads, whichever is longer. Messages among the
devices of a stage come on top: nothing is taken to overlap. The ticks of a
pipeline are those of its schedule (`eejax.pipeline.cost`), each as long as
its busiest stage.

Work of a microbatch, in multiplications of a token: 2 a parameter forward and
4 backward, 4 N H T for the scores of attention, and a forward more where the
backward recomputes. An output matrix is multiplied by four times in training,
for its logits are made again in the backward, and three times where it is
frozen. Messages follow Korthikanti et al. 2022 (arXiv 2205.05198), section
4.2.2, along `model`: two gathers and two scatters of the stream a block each
way.
"""

import dataclasses

from eejax.config import ExitConfig, ExitHeadKind, OutputMatrix
from eejax.hardware import Hardware
from eejax.models.decoder import Rematerialization
from eejax.models.experts import unused_values
from eejax.pipeline.balance import PlacedExit, stage_costs
from eejax.pipeline.cost import StageCost, lock_step_cost, steady_cost
from eejax.pipeline.schedule import ScheduleKind
from eejax.planner.workload import (
  Arrangement,
  Learns,
  Workload,
  device_bytes,
  device_values,
  shapes,
)

_FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Machine:
  """A device, and how well a step uses it.

  Attributes:
    hardware: of one device.
    efficiency: share of the peak that matrix products reach, in (0, 1].
    network: bytes a second that a device sends to another host, or slice;
      None for as many as to a neighbour.
    slice_devices: devices of a TPU slice, all of which are neighbours; None
      where there are no slices.
  """

  hardware: Hardware
  efficiency: float = 0.5
  network: float | None = None
  slice_devices: int | None = None

  @property
  def neighbours(self) -> int:
    """Return how many devices fast links join, where there is a network."""
    return self.slice_devices or self.hardware.devices_per_host

  def bandwidth(self, span: int) -> float:
    """Return bytes a second one way within a group of devices.

    Args:
      span: devices from the first of the group to the last.
    """
    within = self.hardware.link_bandwidth / 2  # that counts both directions
    if self.network is None or span <= self.neighbours:
      return within
    return min(self.network, within)


@dataclasses.dataclass(frozen=True)
class StepTime:
  """How long a step takes, in seconds.

  Attributes:
    work: of a device that is never idle, messages apart.
    bubble: in which a stage waits for others.
    messages: among devices.
    update: of the optimizer.
    ticks: of the pipeline; microbatches where there is none.
    model_flops: operations of a step over all devices, recomputation apart.
  """

  work: float
  bubble: float
  messages: float
  update: float
  ticks: int
  model_flops: float

  @property
  def total(self) -> float:
    """Return the sum."""
    return self.work + self.bubble + self.messages + self.update

  @property
  def bubble_share(self) -> float:
    """Return the share of the blocks' and heads' time that is idle."""
    return self.bubble / (self.work + self.bubble)


def predict_time(
  workload: Workload, arrangement: Arrangement, machine: Machine
) -> StepTime:
  """Return how long a step takes.

  Args:
    workload: what a step computes.
    arrangement: how it is laid out.
    machine: on what.
  """
  work = _Work(workload, arrangement, machine)
  update = work.update()
  if not arrangement.is_pipeline:
    count = arrangement.microbatches
    return StepTime(
      work=count * sum(work.all_costs(messages=False)),
      bubble=0.0,
      messages=count * work.message_seconds() + work.gradient_messages(),
      update=update,
      ticks=count,
      model_flops=model_flops(workload),
    )
  schedule = arrangement.pipeline()
  alone = work.costs_of_stages(messages=False)
  both = work.costs_of_stages(messages=True)
  ticks = lock_step_cost(schedule, alone, keep=arrangement.keep)
  with_messages = lock_step_cost(schedule, both, keep=arrangement.keep)
  steady = steady_cost(schedule, alone, keep=arrangement.keep)
  busy = arrangement.microbatches * sum(steady) / schedule.stages
  return StepTime(
    work=busy,
    bubble=ticks - busy,
    messages=with_messages
    - ticks
    + schedule.num_ticks * work.hand_over()
    + work.gradient_messages(),
    update=update,
    ticks=schedule.num_ticks,
    model_flops=model_flops(workload),
  )


def model_flops(workload: Workload) -> float:
  """Return the operations of a step that no layout can spare.

  Forward 2 a parameter and token and 4 N H T for attention's scores, of which
  a causal mask spares half; backward twice as many where it is needed.
  """
  model = workload.config.model
  tokens = workload.rows * workload.length
  scores = 2 * model.num_heads * model.head_dim * workload.length
  blocks = workload.depth * (2 * _block_values(workload) + scores)
  learns = workload.learns is not Learns.TUNE
  total = blocks * (3 if learns else 1)
  matrix = 2 * model.embed_dim * model.vocab_size
  if workload.has_final_head:
    total += 3 * matrix
  for e in workload.exits:
    frozen = not learns and e.output is not OutputMatrix.UNTIED
    total += (2 if frozen else 3) * matrix + 3 * 2 * _inner_values(e, workload)
  return float(tokens * total)


def _block_values(workload: Workload) -> float:
  """Return the parameters of a block that a token is multiplied by."""
  held = _backbone_block(workload, {}) / workload.depth
  return held - unused_values(workload.config.model)


def _backbone_block(workload: Workload, sizes: dict[str, int]) -> float:
  trained, frozen = shapes(workload)
  blocks = {**trained, **frozen}['backbone']['blocks']
  return float(device_values({'blocks': blocks}, sizes))


def _inner_values(e: ExitConfig, workload: Workload) -> float:
  """Return an exit's own parameters but for its output matrix."""
  model = workload.config.model
  match e.head:
    case ExitHeadKind.MLP:
      return float(model.mlp_values)
    case ExitHeadKind.BOTTLENECK_MLP:
      return 2.0 * model.embed_dim * (e.rank or 0)
    case ExitHeadKind.BLOCK:
      return _block_values(workload)
  return 0.0


class _Work:
  """Cost a microbatch on one device, in seconds."""

  def __init__(
    self, workload: Workload, arrangement: Arrangement, machine: Machine
  ):
    self._workload, self._arrangement = workload, arrangement
    self._machine = machine
    self._mesh = arrangement.mesh
    rows = workload.rows / (arrangement.row_shares * arrangement.microbatches)
    self._tokens = rows * workload.length
    self._learns = workload.learns is not Learns.TUNE
    hardware = machine.hardware
    self._flops = machine.efficiency * hardware.flops(workload.dtype)

  # MARK: Blocks and heads

  def all_costs(self, *, messages: bool) -> list[float]:
    """Return the seconds of all blocks, and of each head."""
    block = self._block(messages)
    heads = [self._exit(e, messages) for e in self._workload.exits]
    costs = [self._workload.depth * (block.forward + block.backward)]
    costs += [e.forward + e.backward for e in heads]
    if self._workload.has_final_head:
      costs.append(self._final(messages).head)
    return costs

  def message_seconds(self) -> float:
    """Return the seconds of messages a microbatch needs."""
    return sum(self.all_costs(messages=True)) - sum(
      self.all_costs(messages=False)
    )

  def costs_of_stages(self, *, messages: bool) -> list[StageCost]:
    """Return what a microbatch costs each stage, all its pieces together."""
    final = StageCost(0.0, 0.0)
    if self._workload.has_final_head:
      final = self._final(messages)
    pieces = stage_costs(
      self._arrangement.placement(self._workload),
      block=self._block(messages),
      exits=[self._exit(e, messages) for e in self._workload.exits],
      final=final,
    )
    stages = self._mesh.stage
    return [_joined(pieces[s::stages]) for s in range(stages)]

  def _block(self, messages: bool) -> StageCost:
    workload, parts = self._workload, self._mesh.model
    model = workload.config.model
    of_group = _backbone_block(workload, {'model': parts}) / workload.depth
    used = of_group - unused_values(model) / parts
    sizes = {'model': parts, 'expert': self._mesh.expert}
    values = _backbone_block(workload, sizes) / workload.depth
    heads = (
      model.num_heads / parts
      if model.num_heads % parts == 0
      else (model.num_heads)
    )
    scores = 4 * heads * model.head_dim * workload.length
    seconds = self._seconds(2 * used + scores, values)
    again = self._recomputes()
    backward = (2 + again) * seconds if self._learns else 0.0
    if not messages:
      return StageCost(seconds, backward)
    moved = 4 * self._along_model() + self._along_fsdp(values)
    # Gradients of the parameters are shared out, too.
    back = (4 + 4 * again) * self._along_model() + 2 * self._along_fsdp(values)
    return StageCost(seconds + moved, backward + (back if self._learns else 0))

  def _recomputes(self) -> int:
    """Return how often a block's backward runs its forward once more.

    Stages that keep their inputs run forward as a whole in the cost of the
    schedule; GPipe's is the gradient of such a program.
    """
    arrangement = self._arrangement
    blockwise = arrangement.rematerialization is not Rematerialization.NONE
    sweeps = arrangement.is_pipeline and (
      arrangement.schedule is not ScheduleKind.ONE_F_ONE_B
    )
    return int(blockwise) + int(sweeps)

  def _exit(self, e: ExitConfig, messages: bool) -> PlacedExit:
    frozen = not self._learns and e.output is not OutputMatrix.UNTIED
    inner = _inner_values(e, self._workload) / self._mesh.model
    seconds = self._seconds(2 * inner, inner) if inner else 0.0
    head = self._matrix(frozen, messages)
    return PlacedExit(
      depth=e.depth,
      forward=head.head_forward + seconds,
      backward=head.head_backward + 2 * seconds,
      movable=e.head is not ExitHeadKind.MLP,
    )

  def _final(self, messages: bool) -> StageCost:
    return self._matrix(False, messages)

  def _matrix(self, frozen: bool, messages: bool) -> StageCost:
    """Return what an output matrix costs, as the cost of heads."""
    model, parts = self._workload.config.model, self._mesh.model
    cut = parts if model.vocab_size % parts == 0 else 1
    values = model.embed_dim * model.vocab_size / cut
    seconds = self._seconds(2 * values, values)
    forward, backward = seconds, (2 if frozen else 3) * seconds
    if messages:
      forward += self._along_model() + self._along_fsdp(values)
      backward += self._along_model() + self._along_fsdp(values)
    return StageCost(0.0, 0.0, forward, backward)

  def _seconds(self, flops_of_token: float, values: float) -> float:
    """Return the time of a product with some weights."""
    read = values * self._workload.value_bytes
    return max(
      flops_of_token * self._tokens / self._flops,
      read / self._machine.hardware.memory_bandwidth,
    )

  # MARK: Messages

  def _along_model(self) -> float:
    """Return the seconds of a gather, or a scatter, of the stream."""
    parts = self._mesh.model
    size = (
      self._tokens
      * self._workload.config.model.embed_dim
      * self._workload.value_bytes
    )
    moved = size * (parts - 1) / parts
    return moved / self._machine.bandwidth(parts)

  def _along_fsdp(self, values: float) -> float:
    """Return the seconds of gathering, or sharing out, some parameters."""
    parts = self._mesh.fsdp
    each = _FLOAT32 if self._learns else self._workload.value_bytes
    moved = values * each * (parts - 1) / parts
    return moved / self._machine.bandwidth(parts * self._mesh.model)

  def hand_over(self) -> float:
    """Return the seconds in which stages hand on streams, each tick.

    Each device of a stage sends its own stretch of the text.
    """
    size = (
      self._tokens
      * self._workload.config.model.embed_dim
      * self._workload.value_bytes
      / self._mesh.model
    )
    # Stages lie within a slice.
    span = self._machine.slice_devices or self._arrangement.devices
    return size / self._machine.bandwidth(span)

  def gradient_messages(self) -> float:
    """Return the seconds of summing gradients over `data`, once a step."""
    parts = self._mesh.data
    trained, _ = shapes(self._workload)
    size = device_bytes(trained, self._mesh.sizes())
    moved = 2 * size * (parts - 1) / parts
    span = parts * self._mesh.fsdp * self._mesh.model
    return moved / self._machine.bandwidth(span)

  def update(self) -> float:
    """Return the seconds of the optimizer, which reads and writes all."""
    trained, _ = shapes(self._workload)
    values = device_values(trained, self._mesh.sizes())
    # Parameters and moments both ways, and gradients, of float32.
    moved = _FLOAT32 * values * (2 * (1 + self._workload.moments) + 1)
    return moved / self._machine.hardware.memory_bandwidth


def _joined(pieces: list[StageCost]) -> StageCost:
  """Return the cost of several pieces of one stage."""
  return StageCost(
    sum(p.forward for p in pieces),
    sum(p.backward for p in pieces),
    sum(p.head_forward for p in pieces),
    sum(p.head_backward for p in pieces),
  )
