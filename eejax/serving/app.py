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
"""The ASGI application: routes behind a gate that every request passes."""

import logging
import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eejax.serving.api_error import (
  ApiError,
  internal,
  too_many_requests,
  unavailable,
)
from eejax.serving.api_keys import ApiKeys
from eejax.serving.ee_llm import EeLlmRoute
from eejax.serving.http import error_response
from eejax.serving.routes import Routes
from eejax.serving.scheduler import ENGINE_FAILED
from eejax.serving.service import Health, Service

_LOGGER = logging.getLogger(__name__)
_REQUESTS = logging.getLogger('eejax.serving.requests')

# Answered without a key, and however the server is. The page holds nothing.
OPEN_PATHS = frozenset({'/', '/health', '/metrics', '/version', '/favicon.ico'})

_UNAVAILABLE = {
  Health.STARTING: 'the server is still compiling; /health says when it is '
  'ready.',
  Health.DRAINING: 'the server is shutting down.',
  Health.FAILED: ENGINE_FAILED,
}


def make_app(service: Service, keys: ApiKeys) -> ASGIApp:
  """Return the application of a service."""
  application = Starlette(
    routes=[*Routes(service).all(), EeLlmRoute(service).route()],
    exception_handlers={
      ApiError: _answer_api_error,
      HTTPException: _answer_http_error,
      ClientDisconnect: _answer_nobody,
    },
  )
  return AccessControl(application, service, keys)


class AccessControl:
  """Lets requests pass that have a key while the server takes some."""

  def __init__(self, inner: ASGIApp, service: Service, keys: ApiKeys):
    self._inner, self._service, self._keys = inner, service, keys

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request."""
    if scope['type'] != 'http':
      if scope['type'] == 'lifespan':
        await self._inner(scope, receive, send)
      return
    watched = _WatchedSend(send)
    began = time.perf_counter()
    is_open = scope['path'] in OPEN_PATHS
    self._service.in_flight += not is_open
    try:
      await self._answer(scope, receive, watched, is_open=is_open)
    finally:
      self._service.in_flight -= not is_open
      self._service.answered += not is_open
    if watched.status is not None and watched.status >= 400:
      self._service.metrics.refused(watched.status)
    _REQUESTS.info(
      '%s %s %s %.3f s',
      scope['method'],
      _route_name(scope),
      watched.status,
      time.perf_counter() - began,
    )

  async def _answer(
    self, scope: Scope, receive: Receive, send: '_WatchedSend', *, is_open: bool
  ) -> None:
    try:
      if not is_open:
        self._check(Request(scope))
      await self._inner(scope, receive, send)
    except ApiError as error:
      await self._tell(error_response(error), scope, receive, send)
    except Exception as error:
      # Its words might quote a prompt.
      _LOGGER.error(
        'a request failed with %s.',
        type(error).__name__,
        exc_info=_LOGGER.isEnabledFor(logging.DEBUG),
      )
      await self._tell(error_response(internal()), scope, receive, send)

  async def _tell(
    self,
    response: Response,
    scope: Scope,
    receive: Receive,
    send: '_WatchedSend',
  ) -> None:
    if send.status is None:
      await response(scope, receive, send)

  def _check(self, request: Request) -> None:
    """Check that a request may pass.

    Raises:
      ApiError: it may not.
    """
    service = self._service
    self._keys.check(request.headers.get('authorization'))
    if service.is_draining:
      raise unavailable(_UNAVAILABLE[Health.DRAINING])
    health = service.health
    # What has no part in generating is answered while programs are compiled.
    if not health.is_well and request.method != 'GET':
      raise unavailable(_UNAVAILABLE[health])
    if service.in_flight > service.limits.max_in_flight:
      raise too_many_requests(
        f'{service.limits.max_in_flight} requests are answered already, as '
        'many as may be'
      )


class _WatchedSend:
  """Remembers the status of an answer."""

  def __init__(self, send: Send):
    self._send = send
    self.status: int | None = None

  async def __call__(self, message: Message) -> None:
    """Send a part of an answer."""
    if message['type'] == 'http.response.start':
      self.status = message['status']
    await self._send(message)


def _route_name(scope: Scope) -> str:
  """Return a path as a log may have it: that of a route, no one's words."""
  route = scope.get('route')
  return getattr(route, 'path', 'another path')


async def _answer_api_error(request: Request, error: Exception) -> Response:
  del request
  assert isinstance(error, ApiError)
  return error_response(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
  assert isinstance(error, HTTPException)
  words = {
    404: f'there is no route {request.url.path}.',
    405: f'{request.method} is not a method of this route.',
  }
  message = words.get(error.status_code, f'{error.detail}.')
  return error_response(
    ApiError(
      message,
      status=error.status_code,
      code='not_found' if error.status_code == 404 else None,
      headers=dict(error.headers or {}),
    )
  )


async def _answer_nobody(request: Request, error: Exception) -> Response:
  """Return an answer that is not read: the client has left."""
  del request, error
  return Response(status_code=499)
