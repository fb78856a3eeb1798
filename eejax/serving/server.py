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
"""Running a service on a socket until it is asked to stop.

The first SIGTERM or SIGINT drains: requests under way are finished, others get
503. The second one stops at once.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from eejax.checkpoint.model import Model
from eejax.decoding.policy.policy import Policy
from eejax.errors import EejaxError
from eejax.serving.api_keys import ApiKeys
from eejax.serving.app import make_app
from eejax.serving.metrics import Metrics
from eejax.serving.served_model import Numbers, ServedModel
from eejax.serving.server_settings import ServerLimits
from eejax.serving.service import Health, Service


class ServerFailed(EejaxError):
  """Report that a server ended without being asked to."""


def make_service(
  models: Mapping[str, Model],
  *,
  policies: Mapping[str, Policy],
  limits: ServerLimits,
  numbers: Numbers,
) -> Service:
  """Return a service, none of whose engines is made yet.

  Args:
    models: by the name that requests give them.
    policies: of each, followed where a request says nothing of exits.
    limits: what is taken on.
    numbers: what is computed in.

  Raises:
    ArgumentError: a policy does not fit its model.
  """
  metrics = Metrics()
  served = {
    name: ServedModel(
      name,
      model,
      policy=policies[name],
      limits=limits,
      watcher=metrics.watcher(name, model.config),
      numbers=numbers,
    )
    for name, model in models.items()
  }
  return Service(served, limits=limits, metrics=metrics)


class Server(uvicorn.Server):
  """Serves a service; see the module."""

  def __init__(
    self,
    service: Service,
    *,
    keys: ApiKeys,
    compiled: Mapping[str, Sequence[Policy]],
    on_ready: Callable[[], None] = lambda: None,
  ):
    """Make a server that does not listen yet.

    Args:
      service: what is served.
      keys: who may ask.
      compiled: policies of each model whose programs are made before requests
        are taken.
      on_ready: called in the event loop once requests are taken.
    """
    self._service, self._compiled = service, compiled
    self._on_ready = on_ready
    self._stopping_since: float | None = None
    self._starting: asyncio.Task | None = None
    limits = service.limits

    def protocol(*args, **kwargs) -> H11Protocol:
      return _TimedProtocol(
        *args, header_timeout_s=limits.header_timeout_s, **kwargs
      )

    super().__init__(
      uvicorn.Config(
        self._with_engines(make_app(service, keys)),
        # uvicorn takes what makes a protocol, though it asks for a class.
        http=protocol,  # type: ignore[arg-type]
        ws='none',
        lifespan='on',
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
      )
    )

  def stop(self) -> None:
    """Drain; called a second time, stop at once."""
    if self._stopping_since is not None:
      self.should_exit = True
    self._stopping_since = time.monotonic()
    self._service.is_draining = True

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    """Take a signal."""
    del sig, frame
    self.stop()

  async def on_tick(self, counter: int) -> bool:
    """Return whether to end; called ten times a second."""
    since = self._stopping_since
    if since is not None:
      waited = time.monotonic() - since
      is_late = waited > self._service.limits.drain_timeout_s
      if self._service.in_flight == 0 or is_late:
        self.should_exit = True
    return await super().on_tick(counter)

  def _with_engines(self, app: ASGIApp) -> ASGIApp:
    """Return an application that makes and ends engines with the server."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
      if scope['type'] != 'lifespan':
        await app(scope, receive, send)
        return
      await receive()
      self._starting = asyncio.create_task(self._start())
      await send({'type': 'lifespan.startup.complete'})
      await receive()
      self._starting.cancel()
      with contextlib.suppress(asyncio.CancelledError):
        await self._starting
      await self._service.close()
      await send({'type': 'lifespan.shutdown.complete'})

    return application

  async def _start(self) -> None:
    await self._service.start(self._compiled)
    if self._service.health is Health.READY:
      self._on_ready()


class _TimedProtocol(H11Protocol):
  """Closes a connection whose first request does not come in time."""

  def __init__(self, *args, header_timeout_s: float, **kwargs):
    super().__init__(*args, **kwargs)
    self._header_timeout_s = header_timeout_s

  def connection_made(self, transport: Any) -> None:
    """Begin to wait."""
    super().connection_made(transport)
    self.loop.call_later(self._header_timeout_s, self._close_if_silent)

  def _close_if_silent(self) -> None:
    if self.cycle is None and not self.transport.is_closing():
      self.transport.close()


def listening_socket(host: str, port: int) -> socket.socket:
  """Return a socket at an address, for `Server.run`.

  Raises:
    ServerFailed: the address is taken, or none of this machine's.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  listening = socket.socket(family, socket.SOCK_STREAM)
  listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    listening.bind((host, port))
  except (OSError, OverflowError) as error:
    listening.close()
    why = getattr(error, 'strerror', None) or 'no such address'
    raise ServerFailed(
      f'cannot listen at {host}:{port} ({why}); name another port or host.'
    ) from error
  return listening
