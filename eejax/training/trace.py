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
"""A profiler's trace of some steps of a run.

The trace is written into `profile/` in the run's folder, for XProf or
TensorBoard's profile plugin, and for ui.perfetto.dev.
"""

import pathlib
import shutil
import tempfile
from collections.abc import Callable

import jax

from eejax import storage, store_folder
from eejax.errors import ArgumentError
from eejax.storage import AnyPath
from eejax.types import PyTree

FOLDER = 'profile'


def parse_steps(text: str) -> range:
  """Return the steps that a text such as `10:13` names, the last left out.

  Example:
    >>> parse_steps('10:13')
    range(10, 13)

  Raises:
    ArgumentError: it names none.
  """
  first, _, end = text.partition(':')
  if first.isdigit() and end.isdigit() and int(first) < int(end):
    return range(int(first), int(end))
  raise ArgumentError(
    f'profile takes the first step and the one after the last, as in 10:13, '
    f'not {text!r}.'
  )


class StepTrace:
  """Traces a range of steps; does nothing where that is empty."""

  def __init__(
    self, steps: range, *, folder: AnyPath, say: Callable[[str], None]
  ):
    """Begin with no trace.

    Args:
      steps: to be traced, counted from 0.
      folder: of the run.
      say: is told where the trace is.
    """
    self._steps, self._folder, self._say = steps, folder / FOLDER, say
    self._place: pathlib.Path | None = None

  def before(self, step: int, state: PyTree) -> None:
    """Start the trace, if `step` is the first of those left."""
    if self._place is None and step in self._steps:
      jax.block_until_ready(state)
      self._place = self._local()
      jax.profiler.start_trace(str(self._place))

  def after(self, step: int, state: PyTree) -> None:
    """End the trace, if `step` was the last that is traced."""
    if self._place is not None and step == self._steps[-1]:
      jax.block_until_ready(state)
      self.close()
      self._say(
        f'a trace of steps {self._steps[0]} to {step} is in {self._folder}.'
      )

  def close(self) -> None:
    """End a trace that is running, and bring it to the run's folder.

    Raises:
      StoreError: the store refuses, or fails.
    """
    place, self._place = self._place, None
    if place is None:
      return
    jax.profiler.stop_trace()
    if not storage.is_remote(self._folder):
      return
    with storage.reported(self._folder, what='written'):
      store_folder.copy(place, self._folder)
    shutil.rmtree(place, ignore_errors=True)

  def _local(self) -> pathlib.Path:
    if storage.is_remote(self._folder):
      return pathlib.Path(tempfile.mkdtemp(prefix='eejax-'))
    return storage.local_path(self._folder)
