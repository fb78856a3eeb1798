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
"""How the loop talks to whoever shows its progress."""

import contextlib
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from eejax.progress import SILENT, Bar, Progress


@runtime_checkable
class Reporter(Protocol):
  """Tell a person how a run goes."""

  def start(self, *, step: int, steps: int) -> None:
    """Begin at `step` of `steps`."""

  def advance(self, count: int, values: Mapping[str, float]) -> None:
    """Count `count` steps more and show `values`."""

  def evaluated(self, step: int, values: Mapping[str, float]) -> None:
    """Show held-out means."""

  def say(self, text: str) -> None:
    """Print a sentence."""

  def close(self) -> None:
    """End."""


class ProgressReporter:
  """A bar for the steps of a run, and held-out losses above it."""

  def __init__(self, progress: Progress = SILENT, *, what: str = 'training'):
    """Begin with no bar.

    Args:
      progress: who shows it.
      what: is being done, as in 'tuning'.
    """
    self._progress = progress
    self._what = what
    self._stack = contextlib.ExitStack()
    self._bar: Bar | None = None
    self._at = self._steps = 0

  def start(self, *, step: int, steps: int) -> None:
    """Begin; what follows first is compilation, which no bar counts."""
    self._at, self._steps = step, steps
    self._stack.enter_context(self._progress.waiting('compiling'))

  def advance(self, count: int, values: Mapping[str, float]) -> None:
    """Move the bar."""
    shown = {'loss': f'{values["loss"]:.3f}'}
    if 'tokens_per_s' in values:
      shown['tokens/s'] = f'{values["tokens_per_s"]:.0f}'
    if 'mfu' in values:
      shown['MFU'] = f'{values["mfu"]:.0%}'
    if self._bar is None:
      self._stack.close()
      self._bar = self._progress.bar(self._what, total=self._steps)
      self._bar.start_at(self._at + count)
      count = 0
    self._bar.update(count, **shown)

  def evaluated(self, step: int, values: Mapping[str, float]) -> None:
    """Show the held-out losses."""
    losses = {k: v for k, v in values.items() if k.endswith('/loss')}
    parts = [
      f'{name.removesuffix("/loss").replace("_", " ")} {value:.3f}'
      for name, value in losses.items()
    ]
    self._progress.say(f'step {step}: held-out loss {", ".join(parts)}')

  def say(self, text: str) -> None:
    """Show a sentence."""
    self._progress.say(text)

  def close(self) -> None:
    """Leave the last state standing."""
    self._stack.close()
    if self._bar is not None:
      self._bar.close()
