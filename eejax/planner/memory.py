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
"""What a layout needs of each device's memory, part by part.

Parameters, optimizer state and the batch are exact: they are the shapes of
the tree, cut by the rules of `eejax.axes`. What lives during a step is
counted in the arrays of one block, one head and one microbatch:

  s  r T D      the stream               q  r T N H     queries
  F  r T F      an MLP's inner width     k  r T K H     keys, or values
  x  r N C T    attention scores of C = min(T, 512) queries, float32
  l  r c V      logits of a chunk of c tokens a row, float32

with r the rows of a microbatch on the device and N, K, F, V its share of
them. How many of each stand at once where a step is fullest was read off
programs that XLA compiled for the CPU (jaxlib 0.10.2), where they agree
within the bound that `benchmarks/parallel_planner.py` measures. With a kernel
that keeps no scores (cuDNN), a step needs less.

What a pipeline adds follows from its schedule: EE-LLM (arXiv 2312.04916),
section 3, counts the microbatches under way as P - s on stage s; in lock step
they are at most 2 P - 1 (`eejax.pipeline.schedule.ring_size`).
"""

import dataclasses
import math

from eejax.axes import STAGE
from eejax.config import ExitConfig, OutputMatrix
from eejax.hardware import Platform
from eejax.pipeline.cost import Keep
from eejax.pipeline.schedule import ScheduleKind, ring_size
from eejax.planner.counts import COUNTS, ArrayCounts
from eejax.planner.heads import head_space
from eejax.planner.space import (
  FLOAT32,
  Units,
  block_residuals,
  block_space,
  exit_kinds,
  stage_copy,
  tap_streams,
  units_of,
)
from eejax.planner.workload import (
  Arrangement,
  Learns,
  Workload,
  device_bytes,
  device_values,
  shapes,
)
from eejax.types import PyTree

# Five arrays of a batch, four bytes each.
_BATCH_BYTES = 5 * 4


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
  """What each device needs, in bytes.

  Attributes:
    parameters: trained parameters, float32.
    optimizer: its moments.
    frozen: parameters that are read and not trained.
    idle: parameters that are held and that no step reads.
    batch: tokens and what belongs to them.
    gradients: of the trained parameters, with what sums them up.
    update: what the optimizer needs beside what is held, when all else is
      gone.
    activations: what is kept of the forward for the backward.
    blocks: what a block needs while it is worked on.
    heads: what a head needs, a chunk of logits above all.
    frees_blocks: whether what blocks needed is free when gradients are made.
  """

  parameters: float
  optimizer: float
  frozen: float
  idle: float
  batch: float
  gradients: float
  update: float
  activations: float
  blocks: float
  heads: float
  frees_blocks: bool = False

  @property
  def held(self) -> float:
    """Return what is there before a step and after it."""
    return (
      self.parameters + self.optimizer + self.frozen + self.idle + self.batch
    )

  @property
  def temporary(self) -> float:
    """Return what a step needs beside; blocks and heads take turns."""
    if self.frees_blocks:
      working = max(self.blocks, self.gradients + self.heads)
    else:
      working = self.gradients + max(self.blocks, self.heads)
    return max(self.activations + working, self.update)

  @property
  def total(self) -> float:
    """Return what must be free."""
    return self.held + self.temporary

  def parts(self) -> dict[str, float]:
    """Return parts that add up to the total, by name."""
    parts = dataclasses.asdict(self)
    for name in ('update', 'blocks', 'heads', 'frees_blocks'):
      parts.pop(name)
    rest = self.gradients + self.activations
    return {**parts, 'workspace': self.temporary - rest}


def predict_memory(
  workload: Workload,
  arrangement: Arrangement,
  *,
  platform: Platform = Platform.CPU,
) -> DeviceMemory:
  """Return what each device needs.

  Args:
    workload: what a step computes; its rows divide among the devices.
    arrangement: how it is laid out.
    platform: whose compiler makes the program.
  """
  sizes = arrangement.mesh.sizes()
  trained, frozen = shapes(workload)
  units = units_of(workload, arrangement)
  values = device_values(trained, sizes)
  counts = COUNTS[platform]
  read, idle = _read_and_idle(frozen, workload)
  rows = math.ceil(workload.rows / arrangement.row_shares)
  return DeviceMemory(
    parameters=FLOAT32 * values,
    optimizer=FLOAT32 * workload.moments * values,
    frozen=device_bytes(read, sizes),
    idle=device_bytes(idle, sizes),
    batch=_BATCH_BYTES * rows * workload.length,
    gradients=_gradients(workload, arrangement, counts),
    update=counts.updates * FLOAT32 * values,
    activations=_activations(workload, arrangement, units, counts),
    blocks=block_space(workload, arrangement, units, counts),
    heads=head_space(workload, arrangement, units, counts),
    frees_blocks=counts.frees_blocks
    and workload.learns is Learns.TUNE
    and arrangement.microbatches == 1,
  )


def _read_and_idle(frozen: PyTree, workload: Workload) -> tuple[PyTree, PyTree]:
  """Part frozen parameters that a step reads from those it never does."""
  if workload.learns is not Learns.TUNE:
    return {}, frozen
  backbone = dict(frozen['backbone'])
  idle = {'final_norm': backbone.pop('final_norm')}
  used = {e.output for e in workload.exits}
  if OutputMatrix.SHARED not in used and 'head' in backbone:
    idle['head'] = backbone.pop('head')
  return {'backbone': backbone}, idle


# MARK: Gradients


def _gradients(
  workload: Workload, arrangement: Arrangement, counts: ArrayCounts
) -> float:
  """Return the bytes of gradients, before and after they are summed up."""
  sizes = arrangement.mesh.sizes()
  trained, _ = shapes(workload)
  whole = FLOAT32 * device_values(trained, sizes)
  if not arrangement.is_pipeline:
    # Those of one microbatch are added to those of the others.
    return whole * (1 + (arrangement.microbatches > 1))
  on_stage = FLOAT32 * _stage_values(workload, arrangement)
  if workload.learns is Learns.TUNE:
    return whole + (counts.tuning_gradients - 1) * on_stage
  return whole + on_stage + _received(workload, arrangement)


def _received(workload: Workload, arrangement: Arrangement) -> float:
  """Return the bytes of exits that their owner gets for a step.

  Where `model` cuts a stage, streams are kept in parts as well, which are
  counted whole and outweigh it.
  """
  is_joint = workload.learns is Learns.JOINT
  if not is_joint or arrangement.mesh.model > 1:
    return 0.0
  return FLOAT32 * sum(_slot_values(workload, arrangement))


def _stage_values(workload: Workload, arrangement: Arrangement) -> float:
  """Return the trained numbers that a stage sums gradients of."""
  sizes = arrangement.mesh.sizes()
  trained, _ = shapes(workload)
  total = 0.0
  if 'backbone' in trained:
    total += device_values({'backbone': trained['backbone']}, sizes)
  if 'exits' in trained:
    total += sum(_slot_values(workload, arrangement))
  return total


def _slot_values(workload: Workload, arrangement: Arrangement) -> list[float]:
  """Return the numbers of the exit in each slot of a stage.

  A slot holds exits of one kind, at most one a piece of depth. Their owner has
  them whole during a step.
  """
  sizes = {**arrangement.mesh.sizes(), STAGE: 1}
  placement = arrangement.placement(workload)
  trained, frozen = shapes(workload)
  exits = {**trained, **frozen}['exits']
  taken: dict[ExitConfig, list[set[int]]] = {}
  values = []
  for e, piece in zip(workload.exits, placement.exit_places, strict=True):
    kind = dataclasses.replace(e, depth=1)
    for pieces in taken.setdefault(kind, []):
      if piece not in pieces:
        pieces.add(piece)
        break
    else:
      taken[kind].append({piece})
      tree = {'exits': {e.name: exits.get(e.name, {})}}
      values.append(arrangement.rounds * device_values(tree, sizes))
  return [float(n) for n in values]


# MARK: Activations


def _activations(
  workload: Workload,
  arrangement: Arrangement,
  units: Units,
  counts: ArrayCounts,
) -> float:
  """Return what is kept of the forward until the backward."""
  if arrangement.is_pipeline:
    return _stage_activations(workload, arrangement, units, counts)
  if workload.learns is Learns.TUNE:
    return 0.0
  return workload.depth * block_residuals(arrangement, units, counts)


def _stage_activations(
  workload: Workload,
  arrangement: Arrangement,
  units: Units,
  counts: ArrayCounts,
) -> float:
  """Return what a stage keeps of all microbatches that are under way."""
  blocks = max(arrangement.placement(workload).blocks)
  residuals = blocks * block_residuals(arrangement, units, counts)
  taps = tap_streams(exit_kinds(workload)) * units.stream
  residuals += stage_copy(workload, arrangement)
  # What heads read, and what the backward of reading it off keeps.
  reads = units.stream + 2 * taps
  match arrangement.schedule:
    case ScheduleKind.FORWARD_ONLY:
      return units.stream + taps + stage_copy(workload, arrangement)
    case ScheduleKind.ONE_F_ONE_B:
      places = ring_size(arrangement.mesh.stage)
      if arrangement.keep is Keep.RESIDUALS:
        # Of the microbatches that go forward and backward it holds copies.
        return (places + 2) * (reads + residuals)
      return places * units.stream + reads + residuals
    case _:
      ticks = arrangement.pipeline().forward_ticks
      return ticks * units.stream + reads + residuals
