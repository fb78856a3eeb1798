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
"""What a training run leaves."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint.model import Model
from eejax.recipes.result import Result
from eejax.storage import AnyPath
from eejax.training import metrics, run_folder

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_LOSS = '/loss'


@dataclasses.dataclass(frozen=True)
class RunResult(Result):
  """A training run that has come to its end.

  Attributes:
    folder: of the run; its `model` is an eejax checkpoint.
    steps: optimizer steps taken.
    curve: held-out evaluations in their order: `step`, and means by names as
      `exit_6/loss` (nats), `exit_6/accuracy` and `exit_6/agreement` (with the
      final head). Empty where nothing was held out.
    in_memory: the model, where it came from memory.
  """

  folder: AnyPath
  steps: int
  curve: tuple[Mapping[str, float], ...]
  in_memory: Model | None = dataclasses.field(
    default=None, repr=False, compare=False
  )

  @functools.cached_property
  def model(self) -> Model:
    """Return the trained model, ready to decode; read once."""
    if self.in_memory is not None:
      return self.in_memory
    return checkpoint_folder.load(self.folder / run_folder.MODEL)

  @property
  def held_out(self) -> dict[str, float]:
    """Return the last held-out means by name; none where none was taken."""
    last = self.curve[-1] if self.curve else {}
    return {name: value for name, value in last.items() if name != 'step'}

  @property
  def losses(self) -> dict[str, tuple[float, float]]:
    """Return held-out losses before and after the run, by head, in nats."""
    return {
      name.removesuffix(_LOSS): (self.curve[0][name], after)
      for name, after in self.held_out.items()
      if name.endswith(_LOSS)
    }

  def summary(self) -> str:
    """Return how long it was, and what became of the held-out losses."""
    sentence = f'{self.title}: {self.steps} steps, in {self.folder}.'
    if not self.losses:
      return f'{sentence} Nothing was held out to measure.'
    parts = [
      f'{_shown(head)} {before:.3f} to {after:.3f}'
      for head, (before, after) in self.losses.items()
    ]
    return f'{sentence} Held-out loss: {", ".join(parts)}.'

  def table(self) -> list[dict[str, Any]]:
    """Return a line for every head."""
    return [
      {
        'head': _shown(head),
        'loss before': before,
        'loss after': after,
        'agreement': self.held_out.get(f'{head}/agreement'),
      }
      for head, (before, after) in self.losses.items()
    ]

  def to_json(self) -> dict[str, Any]:
    """Return folders, steps, and held-out means before, after and between."""
    return {
      'run': str(self.folder),
      'model': str(self.folder / run_folder.MODEL),
      'steps': self.steps,
      'held_out': self.held_out,
      'losses': {head: list(pair) for head, pair in self.losses.items()},
      'curve': [dict(point) for point in self.curve],
    }

  def draw(self, axes: 'Axes') -> None:
    """Draw the held-out loss of every head over the steps."""
    steps = [point['step'] for point in self.curve]
    for head in self.losses:
      values = [point[head + _LOSS] for point in self.curve]
      axes.plot(steps, values, marker='.', label=_shown(head))
    axes.set_xlabel('optimizer steps')
    axes.set_ylabel('held-out loss (nats a token)')
    if self.losses:
      axes.legend()


def read_curve(folder: AnyPath) -> tuple[Mapping[str, float], ...]:
  """Return the held-out evaluations that a run folder has."""
  return tuple(
    {name: value for name, value in record.items() if name != 'kind'}
    for record in metrics.read_records(folder)
    if record['kind'] == metrics.HELD_OUT
  )


def _shown(head: str) -> str:
  return head.replace('_', ' ')
