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
"""Pipeline schedules as plain arithmetic: who does what in which tick.

All stages of one program move in lock step: a tick ends when streams have been
handed on, so it lasts as long as its busiest stage. Stages, microbatches,
rounds and ticks count from 0. The functions of one tick take integers or
traced arrays alike, so a test plays the very arithmetic that a program runs.

  gpipe         all forwards, then all backwards in reverse
  one_f_one_b   a forward and a backward in every tick
  forward_only  forwards alone; for exits on a frozen backbone
  interleaved   like gpipe, every stage holding several short pieces of depth

Reference:
  GPipe (arXiv 1811.06965), section 2.2; PipeDream-Flush, Megatron-LM (arXiv
  2104.04473), section 2.2; EE-LLM (arXiv 2312.04916), section 3.
"""

import dataclasses
import enum
import functools
from typing import Any

from eejax.errors import ArgumentError


class ScheduleKind(enum.Enum):
  """Which schedule; see this module's docstring."""

  GPIPE = 'gpipe'
  ONE_F_ONE_B = 'one_f_one_b'
  FORWARD_ONLY = 'forward_only'
  INTERLEAVED = 'interleaved'


class Work(enum.Enum):
  """What a stage does with a microbatch."""

  FORWARD = 'F'
  BACKWARD = 'B'


@dataclasses.dataclass(frozen=True)
class Cell:
  """Say that a stage works on a microbatch in a tick.

  Attributes:
    tick: when.
    stage: which device.
    work: forward or backward.
    microbatch: on which microbatch.
    round: which of the stage's pieces; 0 unless the schedule is interleaved.
  """

  tick: int
  stage: int
  work: Work
  microbatch: int
  round: int = 0


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Describe a schedule; all else follows.

  Attributes:
    kind: which one.
    stages: devices along the pipeline (P), >= 1.
    microbatches: microbatches (M), >= 1.
    rounds: pieces of depth every stage holds; above 1 with `INTERLEAVED`
      alone, and then P divides M.
    fillers: further microbatches, ahead of the others, that go backward from
      an early stage; `ONE_F_ONE_B` alone, at most P - 1. See
      `eejax.pipeline.fill`.
  """

  kind: ScheduleKind
  stages: int
  microbatches: int
  rounds: int = 1
  fillers: int = 0

  def __post_init__(self):
    for name in ('stages', 'microbatches', 'rounds'):
      if getattr(self, name) < 1:
        raise ArgumentError(
          f'a pipeline needs {name} >= 1, not {getattr(self, name)}.'
        )
    if self.rounds > 1:
      self._check_rounds()
    one_f_one_b = self.kind is ScheduleKind.ONE_F_ONE_B
    most = self.stages - 1 if one_f_one_b else 0
    if not 0 <= self.fillers <= most:
      raise ArgumentError(
        f'{self.kind.value} over {self.stages} stages has room for at most '
        f'{most} fillers, not {self.fillers}.'
      )

  def _check_rounds(self):
    if self.kind is not ScheduleKind.INTERLEAVED:
      raise ArgumentError(
        f'{self.kind.value} has one round; use interleaved for {self.rounds}.'
      )
    if self.microbatches % self.stages:
      raise ArgumentError(
        f'interleaved stages take microbatches in groups of {self.stages}, '
        f'so {self.microbatches} microbatches must be a multiple of it.'
      )

  @property
  def has_backward(self) -> bool:
    """Return whether gradients travel from stage to stage."""
    return self.kind is not ScheduleKind.FORWARD_ONLY

  @property
  def forward_ticks(self) -> int:
    """Return ticks of a sweep forward."""
    return self.microbatches * self.rounds + self.stages - 1

  @property
  def num_ticks(self) -> int:
    """Return ticks of a whole step."""
    match self.kind:
      case ScheduleKind.ONE_F_ONE_B:
        return self.fillers + self.microbatches + 2 * (self.stages - 1)
      case ScheduleKind.FORWARD_ONLY:
        return self.forward_ticks
    return 2 * self.forward_ticks


# MARK: One tick


def in_range(index: Any, count: int) -> Any:
  """Return whether `index` is one of `count`."""
  return (index >= 0) & (index < count)


def circular_work(
  tick: Any, stage: Any, *, schedule: Schedule
) -> tuple[Any, Any, Any]:
  """Return whether a stage goes forward, the microbatch and the round.

  Microbatches enter in groups of P; a group goes round until it is through,
  so what the last stage hands to the first is used in the very next tick.
  """
  turn = tick - stage
  group_ticks = schedule.stages * schedule.rounds
  within = turn % group_ticks
  microbatch = turn // group_ticks * schedule.stages + within % schedule.stages
  total = schedule.microbatches * schedule.rounds
  return in_range(turn, total), microbatch, within // schedule.stages


def forward_microbatch(tick: Any, stage: Any) -> Any:
  """Return the microbatch that goes forward; out of range where none does."""
  return tick - stage


def backward_microbatch(tick: Any, stage: Any, *, stages: int) -> Any:
  """Return the microbatch that goes backward with `ONE_F_ONE_B`.

  The last stage goes backward in the tick in which it went forward.
  """
  return tick - 2 * (stages - 1) + stage


def reaches(microbatch: Any, stage: Any, *, stages: int, fillers: int) -> Any:
  """Return whether a microbatch goes through a stage.

  The first are the fillers: each turns back one stage later than the one
  before, so that no tick is the first to go backward because of them.
  """
  last = stages - 1 - fillers + microbatch
  return (microbatch >= fillers) | (stage <= last)


def ring_size(stages: int) -> int:
  """Return how many microbatches a stage of `ONE_F_ONE_B` may hold.

  Microbatch m comes in tick m + s and leaves in tick m + 2 (P - 1) - s, so
  the first stage holds the most: 2 P - 1, whatever M is.
  """
  return 2 * stages - 1


# MARK: Whole schedules


@functools.cache
def cells(schedule: Schedule) -> tuple[Cell, ...]:
  """Return all work, in the order of ticks."""
  if schedule.kind is ScheduleKind.ONE_F_ONE_B:
    return tuple(_one_f_one_b_cells(schedule))
  forward = [
    Cell(tick, stage, Work.FORWARD, microbatch, round_)
    for tick in range(schedule.forward_ticks)
    for stage in range(schedule.stages)
    for busy, microbatch, round_ in [
      circular_work(tick, stage, schedule=schedule)
    ]
    if busy
  ]
  if not schedule.has_backward:
    return tuple(forward)
  last = schedule.num_ticks - 1
  backward = [
    dataclasses.replace(c, tick=last - c.tick, work=Work.BACKWARD)
    for c in reversed(forward)
  ]
  return tuple(forward + backward)


def _one_f_one_b_cells(schedule: Schedule):
  count = schedule.fillers + schedule.microbatches
  for tick in range(schedule.num_ticks):
    for stage in range(schedule.stages):
      found = {
        Work.FORWARD: forward_microbatch(tick, stage),
        Work.BACKWARD: backward_microbatch(tick, stage, stages=schedule.stages),
      }
      for work, microbatch in found.items():
        if in_range(microbatch, count) and reaches(
          microbatch, stage, stages=schedule.stages, fillers=schedule.fillers
        ):
          yield Cell(tick, stage, work, microbatch)


def bubble(schedule: Schedule) -> float:
  """Return the share of a step in which a stage is idle.

  Stages are taken to be equal, a backward to last as long as a forward; a
  tick of `ONE_F_ONE_B` in which some stage does both lasts two.
  """
  lengths: dict[int, int] = {}
  for tick in range(schedule.num_ticks):
    work = {(c.stage, c.work) for c in cells(schedule) if c.tick == tick}
    per_stage = [
      sum(stage == s for stage, _ in work) for s in range(schedule.stages)
    ]
    lengths[tick] = max(per_stage)
  return 1 - len(cells(schedule)) / (schedule.stages * sum(lengths.values()))


def diagram(schedule: Schedule) -> str:
  """Draw a schedule: a row a stage, a column a tick.

  F2 is microbatch 2 going forward, B0 microbatch 0 going backward, F2B0 both
  in one tick, a dot an idle stage; F2a and F2b are rounds of one microbatch.
  """
  drawn: dict[tuple[int, int], str] = {}
  for c in cells(schedule):
    letter = chr(ord('a') + c.round) if schedule.rounds > 1 else ''
    key = (c.stage, c.tick)
    mark = f'{c.work.value}{c.microbatch}{letter}'
    drawn[key] = drawn.get(key, '') + mark
  ticks = range(schedule.num_ticks)
  rows = [['tick', *map(str, ticks)]]
  for stage in range(schedule.stages):
    marks = [drawn.get((stage, tick), '.') for tick in ticks]
    rows.append([f'stage {stage}', *marks])
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join(
    ' '.join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip()
    for row in rows
  )
