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
"""Which hosts of a run are alive, watched by threads on every host."""

import contextlib
import threading
import time
from collections.abc import Callable

from eejax.parallel.coordination import CoordinationClient, CoordinationError

# Longer than any run; a call that waits ends with the service.
FOREVER_SECONDS = 7 * 24 * 3600.0
# For a thread to notice, on a busy machine, that the service is gone.
JOIN_SECONDS = 60.0

_INTERVAL_SECONDS = 0.5
# A host that fails says so. Others may be failing for the same reason, and
# then their own sentences are better.
_GRACE_SECONDS = 2.0
_OTHERS_SECONDS = 5.0
_DISCONNECT_SECONDS = 30.0
# For a thread that asked for the sentence to print it and end the process.
_OWN_END_SECONDS = 10.0

# Keys: why the run ends on all hosts; and, by host, that it has ended.
_FAILURE = 'failure'
_ENDED = 'ended'


class LivenessMonitor:
  """Two threads that notice when another host is lost or fails.

  One asks the coordination service which hosts are alive. The service answers
  when all of those have asked, so a host that has died holds the answer up
  until its heartbeats have been missing for too long. The other thread waits
  for a host to say that it failed, and for the loss of the service.
  """

  def __init__(
    self,
    client: CoordinationClient,
    *,
    rank: int,
    count: int,
    on_loss: Callable[[str], None],
  ):
    """Start to watch.

    Args:
      client: of the coordination service.
      rank: number of this host.
      count: how many hosts there are.
      on_loss: takes a sentence about the host that was lost; called once, on
        a thread of the monitor. Whoever asked for the sentence has ten
        seconds to end the process before that.
    """
    self._client = client
    self._rank = rank
    self._count = count
    self._on_loss = on_loss
    self._lost: set[int] = set()
    self._reason: str | None = None
    self._lock = threading.Lock()
    self._known = threading.Event()
    self._asked = threading.Event()
    self._stopped = threading.Event()
    self._threads = [
      threading.Thread(target=target, daemon=True)
      for target in (self._watch_hosts, self._watch_failure)
    ]
    for thread in self._threads:
      thread.start()

  def sentence(self, timeout_s: float) -> str | None:
    """Return the sentence about a lost host, waiting a while for it."""
    self._asked.set()
    self._known.wait(timeout_s)
    return None if self._reason is None else _sentence(self._reason)

  def fail(self, sentence: str) -> None:
    """Tell the others why this host ends, which should end at once."""
    self._stopped.set()
    with contextlib.suppress(CoordinationError):
      self._client.put(_FAILURE, f'host {self._rank} failed ({sentence})')
      self._end()

  def finish(self) -> None:
    """Stop watching when all hosts are about to end well.

    Host 0 returns when all others have disconnected, for it has the service.
    """
    self._client.barrier('end', timeout_s=FOREVER_SECONDS)
    self._stopped.set()
    self._client.put(f'{_ENDED}/{self._rank}', True)
    deadline = time.monotonic() + _DISCONNECT_SECONDS
    while self._rank == 0 and time.monotonic() < deadline:
      if self._client.live(self._count) == {0}:
        break
      time.sleep(_INTERVAL_SECONDS / 10)

  def join(self) -> None:
    """Wait for the threads, once jax's runtime is shut down."""
    for thread in self._threads:
      thread.join(JOIN_SECONDS)

  def _watch_hosts(self) -> None:
    everyone = set(range(self._count))
    # Without the service the other thread ends as well, and says so.
    with contextlib.suppress(CoordinationError):
      while not self._stopped.wait(_INTERVAL_SECONDS):
        silent = everyone - self._client.live(self._count)
        if silent:
          self._lost |= silent - self._ended()
        if self._lost:
          reason = f'host {min(self._lost)} was lost'
          self._client.put(_FAILURE, reason)
          self._report(reason)
          return

  def _watch_failure(self) -> None:
    try:
      reason = self._client.get(_FAILURE, timeout_s=FOREVER_SECONDS)
      self._stopped.wait(_GRACE_SECONDS)
    except CoordinationError:
      # jax is about to abort this process: the sentence should be first.
      reason = 'host 0 was lost'
    self._report(reason)

  def _report(self, reason: str) -> None:
    with self._lock:
      if self._stopped.is_set() or self._reason is not None:
        return
      self._reason = reason
    self._known.set()
    with contextlib.suppress(CoordinationError):
      self._end()
    # Two threads that print the sentence would write into each other's line.
    if self._asked.is_set() and self._stopped.wait(_OWN_END_SECONDS):
      return
    self._on_loss(_sentence(reason))

  def _end(self) -> None:
    """Say that this host ends; host 0 has the service and lets others go."""
    self._client.put(f'{_ENDED}/{self._rank}', True)
    deadline = time.monotonic() + _GRACE_SECONDS + _OTHERS_SECONDS
    while self._rank == 0 and time.monotonic() < deadline:
      if len(self._ended() | self._lost) == self._count:
        return
      time.sleep(_INTERVAL_SECONDS / 10)

  def _ended(self) -> set[int]:
    return {int(rank) for rank in self._client.values(_ENDED)}


def _sentence(reason: str) -> str:
  return (
    f'{reason}, so all hosts stop; start all of them again, and the run goes '
    'on from its last checkpoint.'
  )
