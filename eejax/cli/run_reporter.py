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
"""Show a training run on stderr."""

import contextlib
from collections.abc import Mapping

from eejax import progress
from eejax.cli import output


class ProgressReporter:
  """Draw a bar, and say held-out losses above it."""

  def __init__(self, what: str):
    self._what = what
    self._stack = contextlib.ExitStack()
    self._bar: progress.Bar | None = None
    self._at = self._steps = 0

  def start(self, *, step: int, steps: int) -> None:
    """Begin; what follows first is compilation, which no bar counts."""
    self._at, self._steps = step, steps
    self._stack.enter_context(output.waiting('compiling'))

  def advance(self, count: int, values: Mapping[str, float]) -> None:
    """Move the bar."""
    shown = {'loss': f'{values["loss"]:.3f}'}
    if 'tokens_per_s' in values:
      shown['tokens/s'] = f'{values["tokens_per_s"]:.0f}'
    if self._bar is None:
      self._stack.close()
      self._bar = output.progress(self._what, total=self._steps, unit='step')
      self._bar.start_at(self._at + count)
      count = 0
    self._bar.update(count, **shown)

  def evaluated(self, step: int, values: Mapping[str, float]) -> None:
    """Say the held-out losses."""
    losses = {k: v for k, v in values.items() if k.endswith('/loss')}
    parts = [
      f'{name.removesuffix("/loss").replace("_", " ")} {value:.3f}'
      for name, value in losses.items()
    ]
    output.say(f'step {step}: held-out loss {", ".join(parts)}')

  def say(self, text: str) -> None:
    """Print a sentence."""
    output.say(text)

  def close(self) -> None:
    """Leave the last state standing."""
    self._stack.close()
    if self._bar is not None:
      self._bar.close()
