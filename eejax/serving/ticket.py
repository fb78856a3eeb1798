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
"""One text that was asked of an engine, from its submission to its end."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator

from eejax.decoding.policy.threshold_values import Threshold
from eejax.decoding.results import GeneratedRow, TokenUpdate
from eejax.decoding.text import TextStream
from eejax.ops.sampling import SamplingConfig
from eejax.serving.api_error import ApiError


@dataclasses.dataclass(frozen=True)
class TextJob:
  """What an engine is given for one text.

  Attributes:
    prompt: token ids.
    max_new_tokens: tokens at most.
    sampling: how tokens are chosen.
    thresholds: of the exits of the engine's plan.
    text: turns tokens into text and looks for stop strings; None where the
      model has no tokenizer.
    top_logprobs: how many of the likeliest tokens are told beside each.
  """

  prompt: tuple[int, ...]
  max_new_tokens: int
  sampling: SamplingConfig
  thresholds: tuple[Threshold, ...]
  text: TextStream | None
  top_logprobs: int = 0


@dataclasses.dataclass(frozen=True)
class TextUpdate:
  """What a text grew by in one step of its engine.

  Attributes:
    tokens: the new tokens with their exits; see `TokenUpdate`.
    text: what the text grew by, '' without a tokenizer.
    result: everything about the text, once it has ended.
  """

  tokens: TokenUpdate
  text: str
  result: GeneratedRow | None


@dataclasses.dataclass
class TicketTimes:
  """When a text went through what, in seconds of `time.perf_counter`.

  Attributes:
    submitted: it was asked for.
    started: the step began in which it got a slot.
    first: its first tokens arrived.
    last: its latest tokens arrived.
  """

  submitted: float
  started: float | None = None
  first: float | None = None
  last: float | None = None


class Ticket:
  """The place of one text in an engine; events arrive in the event loop.

  The loop's thread alone calls it.
  """

  def __init__(self, job: TextJob, events: 'Events', *, index: int):
    """Make the ticket of a text.

    Args:
      job: the text.
      events: where what happens to it is put.
      index: its number among the texts of its request.
    """
    self.job, self.index = job, index
    self.times = TicketTimes(submitted=time.perf_counter())
    self.num_tokens = 0
    # Characters of the text that were handed on; the engine's thread counts.
    self.shown = 0
    self.has_ended = False
    self._events = events
    self._accepted = asyncio.get_running_loop().create_future()

  @property
  def is_accepted(self) -> bool:
    """Return whether the engine has taken the text."""
    done = self._accepted.done()
    return done and self._accepted.exception() is None

  async def accepted(self) -> None:
    """Wait until the engine has taken the text.

    Raises:
      ApiError: it has not.
    """
    await asyncio.shield(self._accepted)

  # MARK: Called by the scheduler

  def accept(self) -> None:
    """Tell that the engine has taken the text."""
    if not self._accepted.done():
      self._accepted.set_result(None)

  def take(self, update: TextUpdate, *, step_began: float) -> None:
    """Hand on what the text grew by in a step."""
    now = time.perf_counter()
    if self.times.started is None:
      self.times.started = step_began
    if update.tokens.tokens:
      self.times.first = self.times.first or now
      self.times.last = now
    self.num_tokens += len(update.tokens.tokens)
    self.has_ended = update.result is not None
    self._events.put_nowait((self, update))

  def fail(self, error: ApiError) -> None:
    """Tell that the text cannot be completed."""
    self.has_ended = True
    if self._accepted.done():
      self._events.put_nowait((self, error))
      return
    self._accepted.set_exception(error)
    # Nobody may be waiting any more.
    self._accepted.exception()


Events = asyncio.Queue[tuple[Ticket, TextUpdate | ApiError]]


async def updates(
  events: Events, *, count: int
) -> AsyncIterator[tuple[Ticket, TextUpdate]]:
  """Yield what texts grow by as it comes, until `count` of them have ended.

  Raises:
    ApiError: one of them cannot be completed.
  """
  while count:
    ticket, event = await events.get()
    if isinstance(event, ApiError):
      raise event
    count -= event.result is not None
    yield ticket, event
