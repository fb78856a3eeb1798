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
"""How a pipeline runs a step, as frozen values."""

import dataclasses
import enum

from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError
from eejax.pipeline.balance import Boundary
from eejax.pipeline.cost import Keep
from eejax.pipeline.schedule import ScheduleKind
from eejax.pipeline.skipping import IdleWork


class Balance(enum.Enum):
  """How blocks are shared out over stages that are not given.

  EVEN  as equal as can be
  COST  so that the slowest stage is fastest, heads counted
  """

  EVEN = 'even'
  COST = 'cost'


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
  """Say how the mesh axis `stage` is used.

  A step's `microbatches` are the pipeline's; the more, the smaller its bubble.

  Attributes:
    schedule: which work is done when; `FORWARD_ONLY` where only exits learn.
    rounds: pieces of depth each stage holds; `INTERLEAVED` alone has several.
    stage_blocks: blocks of each stage (of each piece, with several rounds);
      None shares them out by `balance`.
    balance: how.
    boundary: which stage has an exit that stands between two.
    keep: what a stage of `ONE_F_ONE_B` keeps of a microbatch.
    fillers: how many of the microbatches fill the pipeline ahead of the
      others, with `ONE_F_ONE_B`; see `eejax.pipeline.fill`.
    idle_work: whether stages skip what they have not got.
  """

  schedule: ScheduleKind = ScheduleKind.ONE_F_ONE_B
  rounds: int = 1
  stage_blocks: tuple[int, ...] | None = None
  balance: Balance = Balance.EVEN
  boundary: Boundary = Boundary.AFTER
  keep: Keep = Keep.RESIDUALS
  fillers: int = 0
  idle_work: IdleWork = IdleWork.SKIPPED

  def __post_init__(self):
    check_fields(self)
    if isinstance(self.stage_blocks, list):  # as gin writes it
      object.__setattr__(self, 'stage_blocks', tuple(self.stage_blocks))
    if self.rounds < 1 or self.fillers < 0:
      raise ArgumentError(
        'a pipeline needs rounds >= 1 and fillers >= 0, not '
        f'{self.rounds} and {self.fillers}.'
      )
