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
"""Who keeps a run waiting that takes no steps any more.

Every host says where it is, through the coordination service; the first one
looks at all of them. A host that is lost is another matter, see
`eejax.parallel.liveness`.
"""

import enum
import threading
import time
from collections.abc import Callable, Mapping

from eejax.parallel import multihost

_TOPIC = 'activity'
# Seconds between two looks.
_PERIOD = 5.0


class Activity(enum.Enum):
  """What a host does, in the order in which it does it for one step."""

  DATA = 'reading data for'
  STEP = 'computing'
  EVALUATION = 'measuring after'
  CHECKPOINT = 'writing a checkpoint after'


# Step and activity of a host.
Place = tuple[int, Activity]


def stall_sentence(places: Mapping[int, Place], *, seconds: float) -> str:
  """Return who keeps a run waiting.

  Args:
    places: where each host is.
    seconds: how long nothing has changed.

  Example:
    >>> stall_sentence({0: (7, Activity.DATA)}, seconds=300)
    'no step for 300 s: it is reading data for step 7.'
  """
  order = list(Activity)
  rank = lambda place: (place[0], order.index(place[1]))
  least = min(places.values(), key=rank)
  behind = [host for host, place in places.items() if place == least]
  doing = f'{least[1].value} step {least[0]}'
  words = f'no step for {seconds:.0f} s: '
  if len(places) == 1:
    return f'{words}it is {doing}.'
  if len(behind) == len(places):
    return f'{words}all {len(places)} hosts are {doing}.'
  hosts, verb = 'host', 'is'
  if len(behind) > 1:
    hosts, verb = 'hosts', 'are'
  names = ', '.join(map(str, sorted(behind)))
  return f'{words}{hosts} {names} {verb} {doing}, and the others wait.'


class StallWatch:
  """Says who keeps a run waiting, from a thread of its own."""

  def __init__(
    self, *, seconds: float, say: Callable[[str], None], period: float = _PERIOD
  ):
    """Begin with no thread.

    Args:
      seconds: without a change after which it is said, once; 0 is never.
      say: is told the sentence, on the first host alone.
      period: seconds between two looks.
    """
    self._seconds, self._say, self._period = seconds, say, period
    self._place: Place = (0, Activity.DATA)
    self._ended = threading.Event()
    self._thread: threading.Thread | None = None

  def at(self, step: int, activity: Activity) -> None:
    """Note where this host is."""
    self._place = (step, activity)

  def __enter__(self) -> 'StallWatch':
    if self._seconds:
      self._thread = threading.Thread(target=self._watch, daemon=True)
      self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._ended.set()
    if self._thread is not None:
      self._thread.join()

  def _watch(self) -> None:
    seen, since = None, time.monotonic()
    has_said = False
    while not self._ended.wait(self._period):
      places = self._places()
      if places is None:
        continue
      if places != seen:
        seen, since, has_said = places, time.monotonic(), False
      waited = time.monotonic() - since
      if waited >= self._seconds and not has_said:
        has_said = True
        self._say(stall_sentence(places, seconds=waited))

  def _places(self) -> dict[int, Place] | None:
    """Return where all hosts are, on the first one."""
    step, activity = self._place
    multihost.tell(_TOPIC, [step, activity.value])
    if not multihost.is_first():
      return None
    told = multihost.told(_TOPIC)
    return {host: (s, Activity(a)) for host, (s, a) in told.items()}
