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
"""Turn SIGTERM and Ctrl-C into a wish the loop can grant between steps."""

import signal
import threading
from types import FrameType


class StopRequest:
  """Note that the process was asked to end.

  The first signal only sets `requested`; the old handlers are back from then
  on, so that a second one ends the process at once. Off the main thread no
  signal can be caught, and nothing is ever requested.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self):
    self.requested = False
    self._before: dict[signal.Signals, object] = {}

  def __enter__(self) -> 'StopRequest':
    if threading.current_thread() is threading.main_thread():
      self._before = {s: signal.signal(s, self._note) for s in self.SIGNALS}
    return self

  def __exit__(self, *_: object) -> None:
    self._restore()

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.requested = True
    self._restore()

  def _restore(self) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)  # type: ignore[arg-type]
    self._before = {}
