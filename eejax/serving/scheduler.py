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
"""A thread that owns an engine, and what the event loop asks of it.

The engine is made, compiled and stepped in the thread. Everything else happens
in the event loop: `submit` and `cancel` leave a command for the thread, which
takes all of them before its next step, and what texts grow by comes back as
one callback for each step.

  scheduler = Scheduler(make_engine, limits=limits, watcher=watcher)
  scheduler.start()
  ticket = Ticket(job, events, index=0)
  scheduler.submit(ticket)
  async for ticket, update in updates(events, count=1):
    print(update.text)
"""

import asyncio
import collections
import enum
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.results import TokenUpdate
from eejax.errors import EejaxError
from eejax.serving.api_error import (
  ApiError,
  not_made,
  of_argument,
  too_many_requests,
  unavailable,
)
from eejax.serving.ticket import TextUpdate, Ticket

_LOGGER = logging.getLogger(__name__)

_JOINING_S = 10.0
# How long an idle engine waits for texts that come with the first one: those
# that join after its first step need a step more, and prefill by themselves.
_GATHERING_S = 0.005

ENGINE_FAILED = 'the engine has failed; restart the server.'


class EngineState(enum.Enum):
  """How far an engine is.

  COMPILING: its programs are made. READY: it takes texts. NOT_MADE: they could
  not be made. FAILED: it raised, and is not used again. CLOSED: it was given
  up.
  """

  COMPILING = 'compiling'
  READY = 'ready'
  NOT_MADE = 'not_made'
  FAILED = 'failed'
  CLOSED = 'closed'


@runtime_checkable
class Watcher(Protocol):
  """What hears of the texts of an engine, as metrics do."""

  def grew(self, ticket: Ticket, update: TextUpdate, *, seconds: float) -> None:
    """Hear that a text grew, so long after it did before."""

  def ended(self, ticket: Ticket, update: TextUpdate) -> None:
    """Hear that a text ended."""


Command = Callable[[Engine], None]


class Scheduler:
  """Takes texts in the event loop and decodes them in a thread of its own.

  Invariant: a ticket is in `_tickets` from its submission until it has ended,
  was refused or was cancelled.
  """

  def __init__(
    self,
    make_engine: Callable[[], Engine],
    *,
    limits: EngineLimits,
    watcher: Watcher,
  ):
    """Make a scheduler whose thread has not begun.

    Args:
      make_engine: returns the engine, its programs compiled; called in the
        thread.
      limits: of the engine.
      watcher: hears of texts, in the event loop.
    """
    self._make_engine, self._limits = make_engine, limits
    self._watcher = watcher
    self._loop = asyncio.get_running_loop()
    self._settled = asyncio.Event()
    self._tickets: set[Ticket] = set()
    self._running: dict[int, Ticket] = {}  # the thread's own, by request id
    self._commands: collections.deque[Command | None] = collections.deque()
    self._wakes = threading.Condition()
    self._thread = threading.Thread(
      target=self._run, name='eejax-engine', daemon=True
    )
    self.state = EngineState.COMPILING
    self.last_used = time.monotonic()

  def start(self) -> None:
    """Begin to compile."""
    self._thread.start()

  async def settled(self) -> None:
    """Wait until the engine is ready or has failed."""
    await self._settled.wait()

  @property
  def is_idle(self) -> bool:
    """Return whether no text is under way."""
    return not self._tickets

  @property
  def num_running(self) -> int:
    """Return how many texts have a slot, as far as is known."""
    return sum(t.times.started is not None for t in self._tickets)

  @property
  def num_waiting(self) -> int:
    """Return how many texts have no slot yet."""
    return len(self._tickets) - self.num_running

  @property
  def cache_usage(self) -> float:
    """Return the share of all slots' positions that texts have filled."""
    filled = sum(
      len(t.job.prompt) + t.num_tokens
      for t in self._tickets
      if t.times.started is not None
    )
    longest = self._limits.max_length or 1
    return min(1.0, filled / (self._limits.slots * longest))

  def check_room(self, count: int) -> None:
    """Check that so many more texts may come.

    Raises:
      ApiError: the engine has failed, or too many texts wait.
    """
    if self.state in (EngineState.FAILED, EngineState.CLOSED):
      raise unavailable(ENGINE_FAILED)
    if self.state is EngineState.NOT_MADE:
      raise not_made()
    room = self._limits.slots + self._limits.max_waiting - len(self._tickets)
    if count > room:
      raise too_many_requests(
        f'{len(self._tickets)} texts are decoded or wait already, and there '
        f'is room for {max(room, 0)} more'
      )

  def submit(self, ticket: Ticket) -> None:
    """Ask for a text; `check_room` comes before."""
    self._tickets.add(ticket)
    self.last_used = time.monotonic()
    self._command(lambda engine: self._submit(engine, ticket))

  def cancel(self, ticket: Ticket) -> None:
    """Take a text out before the next step; nothing more comes of it."""
    if ticket not in self._tickets:
      return
    self._tickets.discard(ticket)
    self._command(lambda engine: self._cancel(engine, ticket))

  async def close(self) -> None:
    """End the thread after its present step; texts under way are lost."""
    self.state = EngineState.CLOSED
    self._fail_all(unavailable('the server is shutting down.'))
    with self._wakes:
      self._commands.append(None)
      self._wakes.notify()
    # A thread that still compiles ends with the process.
    await asyncio.to_thread(self._thread.join, _JOINING_S)

  def _command(self, command: Command) -> None:
    with self._wakes:
      self._commands.append(command)
      self._wakes.notify()

  # MARK: In the thread

  def _run(self) -> None:
    at_failure = EngineState.NOT_MADE
    try:
      engine = self._make_engine()
      at_failure = EngineState.FAILED
      self._call_back(self._settle, EngineState.READY)
      while self._obey(engine):
        self._step(engine)
    except Exception as error:
      # Its words might quote a prompt.
      _LOGGER.error(
        'an engine has failed with %s; requests for it are refused.',
        type(error).__name__,
        exc_info=_LOGGER.isEnabledFor(logging.DEBUG),
      )
      self._call_back(self._settle, at_failure)

  def _obey(self, engine: Engine) -> bool:
    """Carry out all commands; wait for one if there is nothing to do."""
    while True:
      with self._wakes:
        if engine.is_idle:
          self._gather()
        commands = list(self._commands)
        self._commands.clear()
      for command in commands:
        if command is None:
          return False
        command(engine)
      if not engine.is_idle:
        return True

  def _gather(self) -> None:
    """Wait for a command, and a moment for as many more as have room."""
    while not self._commands:
      self._wakes.wait()
    deadline = time.monotonic() + _GATHERING_S
    while None not in self._commands:
      left = deadline - time.monotonic()
      if left <= 0 or len(self._commands) >= self._limits.slots:
        return
      self._wakes.wait(left)

  def _submit(self, engine: Engine, ticket: Ticket) -> None:
    job = ticket.job
    try:
      request_id = engine.submit(
        job.prompt,
        max_new_tokens=job.max_new_tokens,
        sampling=job.sampling,
        thresholds=job.thresholds,
        text=job.text,
        top_logprobs=job.top_logprobs,
      )
    except EejaxError as error:
      self._call_back(self._refuse, ticket, of_argument(error))
      return
    self._running[request_id] = ticket
    self._call_back(ticket.accept)

  def _cancel(self, engine: Engine, ticket: Ticket) -> None:
    for request_id, running in self._running.items():
      if running is ticket:
        engine.cancel(request_id)
        engine.result(request_id)
        del self._running[request_id]
        return

  def _step(self, engine: Engine) -> None:
    began = time.perf_counter()
    updates = []
    for update in engine.step():
      ticket = self._running.get(update.row)
      if ticket is not None:
        updates.append((ticket, self._text_update(engine, ticket, update)))
    if updates:
      self._call_back(self._deliver, updates, began)

  def _text_update(
    self, engine: Engine, ticket: Ticket, update: TokenUpdate
  ) -> TextUpdate:
    text = ticket.job.text
    grown = '' if text is None else text.text[ticket.shown :]
    ticket.shown += len(grown)
    result = None
    if update.finish_reason is not None:
      result = engine.result(update.row)
      del self._running[update.row]
    return TextUpdate(update, grown, result)

  def _call_back(self, function: Callable, *args: object) -> None:
    try:
      self._loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
      pass  # The loop has ended, and with it everybody who waits.

  # MARK: In the event loop, called by the thread

  def _settle(self, state: EngineState) -> None:
    if self.state is not EngineState.CLOSED:
      self.state = state
    self._settled.set()
    if state is EngineState.FAILED:
      self._fail_all(unavailable(ENGINE_FAILED))
    if state is EngineState.NOT_MADE:
      self._fail_all(not_made())

  def _refuse(self, ticket: Ticket, error: ApiError) -> None:
    self._tickets.discard(ticket)
    ticket.fail(error)

  def _fail_all(self, error: ApiError) -> None:
    for ticket in list(self._tickets):
      self._refuse(ticket, error)

  def _deliver(
    self, updates: list[tuple[Ticket, TextUpdate]], began: float
  ) -> None:
    for ticket, update in updates:
      if ticket not in self._tickets:
        continue  # It was cancelled meanwhile.
      before = ticket.times.last
      ticket.take(update, step_began=began)
      since = time.perf_counter() - (before or ticket.times.submitted)
      self._watcher.grew(ticket, update, seconds=since)
      if update.result is not None:
        self._tickets.discard(ticket)
        self._watcher.ended(ticket, update)
