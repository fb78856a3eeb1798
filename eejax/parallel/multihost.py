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
"""Several processes that work on one run: who they are and what they agree on.

Arrays travel through jax's collectives, everything else through the key-value
store of its coordination service. Without other processes everything here
answers as the only host would.
"""

import contextlib
import functools
import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from eejax import errors
from eejax.errors import EejaxError
from eejax.parallel import coordination, rendezvous, same_run
from eejax.parallel.coordination import CoordinationClient, CoordinationError
from eejax.parallel.environment import Hosts
from eejax.parallel.liveness import (
  FOREVER_SECONDS,
  JOIN_SECONDS,
  LivenessMonitor,
)
from eejax.types import PyTree

T = TypeVar('T')

JOIN_TIMEOUT = 'EEJAX_JOIN_TIMEOUT'
HEARTBEAT_TIMEOUT = 'EEJAX_HEARTBEAT_TIMEOUT'

_DEFAULT_JOIN_SECONDS = 300.0
_DEFAULT_HEARTBEAT_SECONDS = 10.0
# For a monitor to report heartbeats that are missing.
_REPORT_SECONDS = 5.0


class _Session:
  """This host's part of a run on several hosts.

  Attributes:
    client: of the coordination service.
    hosts: which host this is, and of how many.
    monitor: of the other hosts.
    heartbeat_timeout_s: seconds after which a silent host counts as lost.
  """

  def __init__(
    self, hosts: Hosts, on_loss: Callable[[str], None], heartbeat_timeout_s: int
  ):
    """Connect to the other hosts, which must all be there."""
    self.hosts = hosts
    self.heartbeat_timeout_s = heartbeat_timeout_s
    self.client: CoordinationClient = coordination.connect(
      hosts, heartbeat_timeout_s=heartbeat_timeout_s
    )
    self.monitor = LivenessMonitor(
      self.client, rank=hosts.rank, count=hosts.count, on_loss=on_loss
    )
    self._numbers = itertools.count()
    self.agreements = itertools.count()
    self._threads: list[threading.Thread] = []

  def start(self, work: Callable[[], None]) -> None:
    """Call `work` on a thread that waits for the coordination service."""
    thread = threading.Thread(target=work, daemon=True)
    self._threads.append(thread)
    thread.start()

  def finish(self) -> None:
    """Disconnect from the other hosts, when all are about to end well.

    A thread that still waits for the service while Python ends would abort
    the process, so all of them are waited for here.
    """
    self.monitor.finish()
    jax.distributed.shutdown()
    self.monitor.join()
    for thread in self._threads:
      thread.join(JOIN_SECONDS)

  def gather(self, value: Any) -> list[Any]:
    """Return every host's plain `value`, in their order; host 0 collects."""
    number = next(self._numbers)
    key = f'gather/{number}'
    if self.hosts.rank:
      self.client.put(f'{key}/{self.hosts.rank}', value)
      return self.client.get(f'{key}/all', timeout_s=FOREVER_SECONDS)
    others = [
      self.client.get(f'{key}/{rank}', timeout_s=FOREVER_SECONDS)
      for rank in range(1, self.hosts.count)
    ]
    self.client.put(f'{key}/all', [value, *others])
    # All have asked for this one, so none still reads the one before.
    self.client.delete(f'gather/{number - 1}')
    return [value, *others]


_hosts: Hosts | None = None
_session: _Session | None = None
# What the only process told.
_alone: dict[str, Any] = {}


def initialize(
  hosts: Hosts,
  *,
  identity: Mapping[str, Any],
  on_loss: Callable[[str], None],
) -> None:
  """Join the other processes of the run; call it before any computation.

  Args:
    hosts: from the environment.
    identity: plain values that decide the losses; all hosts must have the
      same, and the same code.
    on_loss: told in a sentence that a host was lost, on another thread; it
      should end the process, which may hang in a collective.

  Raises:
    EejaxError: a host never joined, or one was started with something else.
  """
  global _hosts, _session
  join_timeout = _seconds(JOIN_TIMEOUT, _DEFAULT_JOIN_SECONDS)
  heartbeat_timeout = _seconds(HEARTBEAT_TIMEOUT, _DEFAULT_HEARTBEAT_SECONDS)
  host, port = rendezvous.split_address(hosts.address)
  rendezvous.meet(
    f'{host}:{port + 1}',
    rank=hosts.rank,
    count=hosts.count,
    timeout_s=join_timeout,
  )
  _session = _Session(hosts, on_loss, max(int(heartbeat_timeout), 1))
  _hosts = hosts
  wrong = same_run.difference(gather(same_run.describe(identity)))
  if wrong is not None:
    raise EejaxError(wrong)


def _seconds(name: str, default: float) -> float:
  text = os.environ.get(name)
  try:
    seconds = default if text is None else float(text)
  except ValueError:
    seconds = 0.0
  if not 0 < seconds < FOREVER_SECONDS:
    raise EejaxError(f'{name} must be a number of seconds, not {text!r}.')
  return seconds


def shutdown(exit_code: int, sentence: str = '') -> None:
  """End the work with the other processes; what a process does last.

  One that fails ends here: at Python's own end, jax would wait for the
  others, who wait for this one in a collective.

  Args:
    exit_code: of the process.
    sentence: what went wrong, for the others to show.
  """
  global _session
  session, _session = _session, None
  if session is None:
    return
  if exit_code == 0:
    session.finish()
    return
  session.monitor.fail(sentence)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(exit_code)


def end_at_once(sentence: str) -> None:
  """End a process that may hang in a collective for ever."""
  print(f'eejax: {sentence}', file=sys.stderr, flush=True)
  os._exit(1)


def is_first() -> bool:
  """Return whether this is host 0, which alone writes shared files."""
  return _hosts is None or _hosts.rank == 0


def count() -> int:
  """Return how many processes there are."""
  return 1 if _hosts is None else _hosts.count


def gather(value: Any) -> list[Any]:
  """Return every process's plain `value`; all of them must ask.

  Args:
    value: for JSON.

  Raises:
    EejaxError: a host was lost.
  """
  if _session is None:
    return [value]
  try:
    return _session.gather(value)
  except CoordinationError as error:
    raise EejaxError(lost_host(error) or str(error)) from error


def tell(topic: str, value: Any) -> None:
  """Set this process's plain value of a topic, without waiting for others.

  A service that is gone is let be: `initialize`'s `on_loss` hears of it.
  """
  if _session is None:
    _alone[topic] = value
    return
  with contextlib.suppress(CoordinationError):
    _session.client.put(f'told/{topic}/{_session.hosts.rank}', value)


def told(topic: str) -> dict[int, Any]:
  """Return what processes told last of a topic, by their rank."""
  if _session is None:
    return {0: _alone[topic]} if topic in _alone else {}
  with contextlib.suppress(CoordinationError):
    values = _session.client.values(f'told/{topic}')
    return {int(rank): value for rank, value in values.items()}
  return {}


def barrier() -> None:
  """Wait until all processes are here."""
  gather(None)


def from_first(work: Callable[[], T]) -> T:
  """Return what `work` returns on host 0, where alone it is called.

  Args:
    work: returns plain values for JSON. What it raises is raised everywhere.
  """
  if _session is None:
    return work()
  if is_first():
    try:
      result = work()
    except EejaxError as error:
      gather({'error': type(error).__name__, 'message': str(error)})
      raise
    gather({'result': result})
    return result
  told = gather(None)[0]
  if 'error' in told:
    raise getattr(errors, told['error'], EejaxError)(told['message'])
  return told['result']


class StopAgreement:
  """An agreement of all processes on the step at which they stop.

  A process that is asked to stop says so in the key-value store. On every
  host a thread waits for that, and tells how many steps its host has taken;
  all stop when they have taken as many as the one that was furthest.
  """

  def __init__(self):
    """Listen to the other hosts, if there are any."""
    self._session = _session
    self._steps = 0
    self._last: int | None = None
    self._asked = False
    self._lock = threading.Lock()
    if _session is not None:
      self._key = f'stop/{next(_session.agreements)}'
      _session.start(functools.partial(self._agree, _session))

  def agreed(self, *, requested: bool) -> bool:
    """Return whether to stop now; call it once before every step."""
    if self._session is None:
      return requested
    # Taken by the other thread for as long as hosts tell one another.
    with self._lock:
      if self._last is not None and self._steps >= self._last:
        return True
      if requested and not self._asked:
        self._asked = True
        self._session.client.put(f'{self._key}/asked', True)
      self._steps += 1
      return False

  def _agree(self, session: _Session) -> None:
    client, hosts = session.client, session.hosts
    with contextlib.suppress(CoordinationError):
      client.get(f'{self._key}/asked', timeout_s=FOREVER_SECONDS)
      with self._lock:
        client.put(f'{self._key}/{hosts.rank}', self._steps)
        self._last = max(
          client.get(f'{self._key}/{rank}', timeout_s=FOREVER_SECONDS)
          for rank in range(hosts.count)
        )


def lost_host(error: BaseException) -> str | None:
  """Return the sentence about the lost host that may explain an error.

  A collective fails at once when a host is lost, and which one it was is
  known when its heartbeats have been missing for long enough; so this waits.

  Args:
    error: what was raised. Unless it or one of its causes came from jax's
      runtime, there is no waiting.

  Returns:
    The sentence; None if no host was lost.
  """
  if _session is None:
    return None
  from_runtime = any(isinstance(c, CoordinationError) for c in _causes(error))
  wait = _session.heartbeat_timeout_s + _REPORT_SECONDS if from_runtime else 0
  return _session.monitor.sentence(wait)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def to_host(tree: PyTree) -> PyTree:
  """Return the arrays of a tree whole on every host; all must ask."""
  if count() == 1:
    return jax.device_get(tree)
  with jax.set_mesh(None):
    return multihost_utils.process_allgather(tree, tiled=True)
