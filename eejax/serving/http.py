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
"""Reading bodies and writing answers: limits, time-outs, clients that leave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eejax import serialization
from eejax.serving.api_error import ApiError, too_large, too_slow
from eejax.serving.server_settings import ServerLimits

T = TypeVar('T')

# How much of a body that is too large is read all the same, so that its sender
# gets to the answer, and how long.
_DISCARDED = 8
_DISCARDING_S = 2.0


class JsonResponse(Response):
  """An answer of one JSON object, without NaN."""

  media_type = 'application/json'

  def render(self, content: Any) -> bytes:
    """Return the object as text."""
    return serialization.dumps(content).encode('utf-8')


def error_response(error: ApiError) -> JsonResponse:
  """Return the answer that tells of an error."""
  return JsonResponse(
    error.body(), status_code=error.status, headers=dict(error.headers)
  )


async def read_body(request: Request, limits: ServerLimits) -> bytes:
  """Return the body of a request.

  Raises:
    ApiError: it is too large, or does not arrive in time.
  """
  most = limits.max_body_bytes
  length = request.headers.get('content-length', '')
  try:
    async with asyncio.timeout(limits.body_timeout_s):
      if length.isdigit() and int(length) > most:
        await _discard(request, most)
        raise too_large(most)
      parts, size = [], 0
      async for part in request.stream():
        size += len(part)
        if size > most:
          await _discard(request, most)
          raise too_large(most)
        parts.append(part)
  except TimeoutError:
    raise too_slow(limits.body_timeout_s) from None
  return b''.join(parts)


async def _discard(request: Request, most: int) -> None:
  size = 0
  with contextlib.suppress(TimeoutError, RuntimeError, ClientDisconnect):
    async with asyncio.timeout(_DISCARDING_S):
      async for part in request.stream():
        size += len(part)
        if size > _DISCARDED * most:
          return


async def until_disconnected(request: Request, work: Awaitable[T]) -> T:
  """Return what `work` returns; end it if the client leaves before.

  The body has been read.

  Raises:
    ClientDisconnect: the client has left.
  """
  task = asyncio.ensure_future(work)
  leaving = asyncio.ensure_future(_disconnected(request.receive))
  try:
    await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
      return task.result()
    raise ClientDisconnect()
  finally:
    for pending in (task, leaving):
      pending.cancel()
    await asyncio.gather(task, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
  while (await receive())['type'] != 'http.disconnect':
    pass


class EventStream(Response):
  """An answer of server-sent events, which ends when its client leaves.

  A client that does not read on in time has left, too.
  """

  media_type = 'text/event-stream'

  def __init__(
    self,
    events: AsyncIterator[Sequence[str]],
    *,
    write_timeout_s: float,
    close: Callable[[], None],
  ):
    """Stream events.

    Args:
      events: what is sent, the data of events that are written together.
      write_timeout_s: for the client to take one such part.
      close: called when the stream has ended, however it did.
    """
    super().__init__(
      headers={'Cache-Control': 'no-cache', 'X-Accel-Buffering': 'no'}
    )
    del self.headers['content-length']
    self._events, self._close = events, close
    self._write_timeout_s = write_timeout_s

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request."""
    sending = asyncio.ensure_future(self._send_all(send))
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
      await asyncio.wait(
        {sending, leaving}, return_when=asyncio.FIRST_COMPLETED
      )
    finally:
      self._close()
      sending.cancel()
      leaving.cancel()
      done = await asyncio.gather(sending, leaving, return_exceptions=True)
    if isinstance(done[0], Exception) and not isinstance(done[0], TimeoutError):
      raise done[0]

  async def _send_all(self, send: Send) -> None:
    async def write(message: dict[str, Any]) -> None:
      async with asyncio.timeout(self._write_timeout_s):
        await send(message)

    await write(
      {
        'type': 'http.response.start',
        'status': self.status_code,
        'headers': self.raw_headers,
      }
    )
    async for events in self._events:
      body = ''.join(f'data: {event}\n\n' for event in events).encode()
      await write(
        {'type': 'http.response.body', 'body': body, 'more_body': True}
      )
    await write({'type': 'http.response.body', 'body': b''})
