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
"""How long a run is, when it tells and keeps something, and what it watches."""

import dataclasses

from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError
from eejax.training.trace import parse_steps


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """Length of a run, and when it tells and keeps something.

  Attributes:
    steps: optimizer steps in all.
    log_every: steps between looks at the metrics; every step is recorded
      whatever this is.
    eval_every: steps between held-out evaluations; 0 has none but the first
      and the last.
    save_every: steps between checkpoints; 0 has the last alone.
    keep: of the newest checkpoints, how many are kept.
    keep_every: steps between checkpoints that are kept for good; 0 is none.
    keep_hours: between checkpoints that are kept for good; 0 is none.
    keep_best: of the checkpoints with the lowest `best_metric`, how many are
      kept; 0 is none. Only a step that is evaluated is compared.
    best_metric: a held-out mean, as `exit_6/loss`; '' is the mean loss of all
      heads.
    hardware: of one device, a name in `configs/hardware` or a file like those;
      '' is what the device says it is, and none is known of a CPU.
    profile: steps whose trace is written, the last left out, as in `10:13`;
      '' traces none.
    stall_seconds: seconds without a step after which it is said who keeps the
      run waiting; 0 never says it.
    wandb: project of Weights & Biases that is told the metrics, too; '' is
      none.
    local_every: steps between checkpoints on the disks of the hosts, beside
      those in the run's folder; 0 has none.
    local_folder: where on each host; '' is a folder of the user's caches.
    resume_step: the checkpoint that a run goes on from, later ones being set
      aside; None is the newest.
  """

  steps: int
  log_every: int = 10
  eval_every: int = 200
  save_every: int = 200
  keep: int = 2
  keep_every: int = 0
  keep_hours: float = 0.0
  keep_best: int = 0
  best_metric: str = ''
  hardware: str = ''
  profile: str = ''
  stall_seconds: float = 300.0
  wandb: str = ''
  local_every: int = 0
  local_folder: str = ''
  resume_step: int | None = None

  def __post_init__(self):
    check_fields(self)
    for name, least in (
      ('steps', 1),
      ('log_every', 1),
      ('eval_every', 0),
      ('save_every', 0),
      ('keep', 1),
      ('keep_every', 0),
      ('keep_hours', 0),
      ('local_every', 0),
      ('keep_best', 0),
      ('stall_seconds', 0),
    ):
      if getattr(self, name) < least:
        raise ArgumentError(
          f'{name} must be at least {least}, not {getattr(self, name)}.'
        )
    _ = self.traced_steps  # raises where it names none

  @property
  def traced_steps(self) -> range:
    """Return the steps whose trace is written, counted from 0."""
    return parse_steps(self.profile) if self.profile else range(0)
