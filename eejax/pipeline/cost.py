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
"""What a step of a pipeline costs, tick by tick.

A tick ends when every stage has handed its stream on, so it costs as much as
its busiest stage, and a step costs

  T = sum over ticks of max over stages of the work in that tick.

With equal stages (forward f, backward b), a final head of cost h = f_h + b_h
behind the last and `Keep.RESIDUALS`, `one_f_one_b` has P - 1 ticks of a
forward alone, M in which the last stage does both, and P - 1 of a backward
alone, so

  T0 = (P - 1) f + M (f + b + h) + (P - 1) b.

Heads are computed where their backward is, not before. While the last stage
works, an exit no dearer than the final head hides in its shadow on any stage.
Afterwards it shows in every tick in which its stage, s, still goes backward:

  T = T0 + (P - 1 - s) h,     s the first stage that has an exit,

however many exits follow and whatever M is. In time that is free of ticks, n
exits on different stages cost n h (EE-LLM): the same if the stages s to P - 2
have one each, less if they share one, more where the first is far from the
last.
"""

import dataclasses
import enum
from collections.abc import Sequence

from eejax.pipeline.schedule import Cell, Schedule, ScheduleKind, Work, cells


class Keep(enum.Enum):
  """What a stage keeps of a microbatch between its forward and backward.

  INPUTS     its inputs; the backward runs the stage forward once more
  RESIDUALS  what the backward reads, weights apart

  The gradient of `GPIPE` and `INTERLEAVED` always keeps inputs alone.
  """

  INPUTS = 'inputs'
  RESIDUALS = 'residuals'


@dataclasses.dataclass(frozen=True)
class StageCost:
  """Say what one microbatch costs on one stage, in any unit.

  Attributes:
    forward: its blocks, forward.
    backward: its blocks, backward.
    head_forward: its exits and the final head, forward.
    head_backward: its exits and the final head, backward.
  """

  forward: float
  backward: float
  head_forward: float = 0.0
  head_backward: float = 0.0

  @property
  def head(self) -> float:
    """Return what its heads cost, both ways."""
    return self.head_forward + self.head_backward


def lock_step_cost(
  schedule: Schedule,
  costs: Sequence[StageCost],
  *,
  keep: Keep = Keep.RESIDUALS,
) -> float:
  """Return what a step costs: the sum over ticks of the busiest stage.

  Args:
    schedule: which stage does what when.
    costs: of each stage; with several rounds, of all its pieces together.
    keep: what `one_f_one_b` keeps.
  """
  busy = [[0.0] * schedule.stages for _ in range(schedule.num_ticks)]
  for c in cells(schedule):
    busy[c.tick][c.stage] += _cell_cost(c, costs[c.stage], schedule, keep)
  return sum(map(max, busy))


def steady_cost(
  schedule: Schedule,
  costs: Sequence[StageCost],
  *,
  keep: Keep = Keep.RESIDUALS,
) -> list[float]:
  """Return what one microbatch costs each stage, forward and backward."""
  total = [0.0] * schedule.stages
  for c in cells(schedule):
    # A microbatch that every stage takes whole.
    if c.microbatch == schedule.fillers:
      total[c.stage] += _cell_cost(c, costs[c.stage], schedule, keep)
  return total


def _cell_cost(
  cell: Cell, cost: StageCost, schedule: Schedule, keep: Keep
) -> float:
  """Return what a stage's work in a tick costs, as the programs do it."""
  kind = schedule.kind
  if kind is ScheduleKind.FORWARD_ONLY:
    return cost.forward + cost.head
  if kind is ScheduleKind.ONE_F_ONE_B:
    again = keep is Keep.INPUTS
    if cell.work is Work.BACKWARD:
      return cost.backward + cost.head + again * cost.forward
    # The last stage's output goes nowhere, and its backward runs it anyway.
    is_last = cell.stage == schedule.stages - 1
    return 0.0 if again and is_last else cost.forward
  piece = cost.forward + cost.head_forward
  if cell.work is Work.BACKWARD:
    piece += cost.backward + cost.head_backward
  return piece / schedule.rounds


def exit_overhead(
  schedule: Schedule, *, first_stage: int, head: float
) -> float:
  """Return what exits add to a step by the formula above.

  It holds for `one_f_one_b` with `Keep.RESIDUALS`, equal stages, M >= P and
  exits no dearer than the final head, at most one a stage, none on the last.

  Args:
    schedule: P and M.
    first_stage: the first stage that has an exit.
    head: cost of one head, forward and backward.
  """
  return (schedule.stages - 1 - first_stage) * head
