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
"""A line between the hosts of a run, for what is not an array.

Host 0 listens, all others call it. The line finds out who never joins, who
was started with something else, and, because the system closes a connection
when its process ends, at once who is lost in the middle. jax's own runtime
aborts the process in the first case and notices the last after minutes; the
line is there before that runtime is.

Messages are JSON objects, a line each.
"""

import collections
import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from eejax.errors import EejaxError

# A host that fails says so. Others may be failing for the same reason, and
# then their own words are better.
_GRACE_SECONDS = 2.0
# A machine that loses power closes nothing: probes find it.
_KEEPALIVE = {
  'TCP_KEEPIDLE': 10,
  'TCP_KEEPINTVL': 5,
  'TCP_KEEPCNT': 4,
  'TCP_USER_TIMEOUT': 30_000,
}


class Peer:
  """Hold the connection to one other host."""

  def __init__(self, connection: socket.socket):
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _KEEPALIVE.items():
      if hasattr(socket, name):  # Linux has them all
        option = getattr(socket, name)
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    self._connection = connection
    self._reader = connection.makefile('r', encoding='utf-8')
    self._lock = threading.Lock()

  def send(self, message: dict[str, Any]) -> None:
    """Send a message; a host that is gone shows when one is read."""
    data = (json.dumps(message) + '\n').encode()
    with self._lock, contextlib.suppress(OSError):
      self._connection.sendall(data)

  def receive(self, *, within: float | None = None) -> dict[str, Any] | None:
    """Return the next message, None when there are no more."""
    try:
      self._connection.settimeout(within)
      text = self._reader.readline()
      self._connection.settimeout(None)
      return json.loads(text) if text.endswith('\n') else None
    except (OSError, ValueError):
      return None

  def close(self) -> None:
    """Let go of the connection, whoever may be reading it."""
    with contextlib.suppress(OSError):
      self._connection.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError, ValueError):
      self._reader.close()
    self._connection.close()


class Line:
  """Connect all hosts of a run until it ends.

  Every host calls `start` and `exchange` in the same order.
  """

  def __init__(
    self,
    rank: int,
    count: int,
    peers: dict[int, Peer],
    on_loss: Callable[[str], None],
  ):
    """Take over connections; see `join`."""
    self.rank = rank
    self.count = count
    self._peers = peers
    self._on_loss = on_loss
    self._answers: dict[int, queue.Queue] = {r: queue.Queue() for r in peers}
    self._ended: set[int] = set()
    self._own: collections.deque[Any] = collections.deque()
    self._early: collections.deque[list[Any]] = collections.deque()
    self._lock = threading.Lock()
    self._verdict: str | None = None
    self._listeners = [
      threading.Thread(target=self._listen, args=(other,), daemon=True)
      for other in peers
    ]
    for listener in self._listeners:
      listener.start()

  def exchange(self, value: Any) -> list[Any]:
    """Return every host's `value`, host 0's first.

    Args:
      value: plain, for JSON.

    Raises:
      EejaxError: a host was lost.
    """
    self.begin(value)
    # Answers come in the order of the questions; earlier ones are kept.
    while len(self._own) > 1:
      self._early.append(self._finish())
    return self._finish()

  def begin(self, value: Any) -> None:
    """Send what `finish` will return to all, and do not wait."""
    self._own.append(value)
    if self.rank:
      self._peers[0].send({'value': value})

  def finish(self) -> list[Any]:
    """Return what all hosts gave to the oldest `begin` not yet finished.

    Raises:
      EejaxError: a host was lost.
    """
    return self._early.popleft() if self._early else self._finish()

  def _finish(self) -> list[Any]:
    own = self._own.popleft()
    if self.rank:
      return self._answer(0)
    values = [own, *(self._answer(r) for r in range(1, self.count))]
    for peer in self._peers.values():
      peer.send({'value': values})
    return values

  def pending(self) -> int:
    """Return how many exchanges have begun and not finished."""
    return len(self._own) + len(self._early)

  def verdict(self, seconds: float) -> str | None:
    """Return what the line knows of a lost host, waiting a while for it."""
    deadline = time.monotonic() + seconds
    while self._verdict is None and time.monotonic() < deadline:
      time.sleep(0.05)
    return self._verdict

  def close(self) -> None:
    """Say goodbye and hang up."""
    with self._lock:
      self._ended.update(self._peers)
    for peer in self._peers.values():
      peer.send({'bye': self.rank})
      peer.close()

  def fail(self, sentence: str) -> None:
    """Tell the others why this host ends, which should end at once."""
    with self._lock:
      self._ended.update(self._peers)
    for peer in self._peers.values():
      peer.send({'failed': sentence})

  def wait_for_others(self, seconds: float) -> None:
    """Wait until all other hosts have hung up, but not for ever."""
    deadline = time.monotonic() + seconds
    for thread in self._listeners:
      thread.join(max(deadline - time.monotonic(), 0))

  def _answer(self, other: int) -> Any:
    found = self._answers[other].get()
    if isinstance(found, _Loss):
      self._answers[other].put(found)  # for whoever asks again
      raise EejaxError(found.sentence)
    return found

  def _listen(self, other: int) -> None:
    while True:
      message = self._peers[other].receive()
      if message is None:
        self._hang_up(other, f'host {other} was lost')
        return
      if 'value' in message:
        self._answers[other].put(message['value'])
      elif 'bye' in message:
        with self._lock:
          self._ended.add(other)
      elif 'failed' in message:
        time.sleep(_GRACE_SECONDS)
        self._hang_up(other, f'host {other} failed ({message["failed"]})')
        return
      elif 'lost' in message:
        self._hang_up(other, message['lost'])
        return

  def _hang_up(self, other: int, what: str) -> None:
    with self._lock:
      if other in self._ended:
        # A question to a host that has ended well has no answer either.
        gone = f'host {other} has ended its run and this host has not'
        self._answers[other].put(_Loss(_sentence(gone)))
        return
      first = self._verdict is None
      self._verdict = self._verdict or _sentence(what)
    for answers in self._answers.values():
      answers.put(_Loss(self._verdict))
    if first:
      if not self.rank:
        for peer in self._peers.values():
          peer.send({'lost': what})
      self._on_loss(self._verdict)


class _Loss:
  """Stand where an answer would, when none will come."""

  def __init__(self, sentence: str):
    self.sentence = sentence


def _sentence(what: str) -> str:
  return (
    f'{what}, so all hosts stop; start all of them again, and the run goes on '
    'from its last checkpoint.'
  )
