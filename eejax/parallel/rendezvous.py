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
"""The rendezvous of the hosts of a run, before jax's own.

`jax.distributed.initialize` ends the process, with a stack trace and without
a name, when a host does not come or gives a wrong number. So hosts ask host 0
over HTTP whether all are there, until they are.
"""

import http
import http.client
import http.server
import json
import socketserver
import time
import urllib.request
import uuid

from eejax.errors import EejaxError

_RETRY_SECONDS = 0.2
# For a host to fetch what was decided, and for host 0 to have decided it.
_ANSWER_SECONDS = 10.0


def meet(address: str, *, rank: int, count: int, timeout_s: float) -> None:
  """Wait until all hosts of a run are there.

  Args:
    address: `HOST:PORT` at which host 0 listens for the others.
    rank: number of this host, 0..count-1.
    count: how many hosts there are.
    timeout_s: seconds that hosts wait for one another.

  Raises:
    EejaxError: hosts that never came, by number; or two hosts of one number,
      or hosts that were told of different counts.
  """
  if rank == 0:
    wrong = _receive(address, count, timeout_s)
  else:
    wrong = _ask(address, f'{rank}/{count}/{uuid.uuid4().hex}', timeout_s)
  if wrong is not None:
    raise EejaxError(wrong)


class _Register(socketserver.TCPServer):
  """Host 0's server, which notes who is there and tells what was decided."""

  allow_reuse_address = True
  timeout = _RETRY_SECONDS

  def __init__(self, port: int, count: int):
    """Listen, but answer only in `handle_request`."""
    super().__init__(('', port), _Handler)
    self.count = count
    self.names = {0: ''}  # by rank
    self.wrong: str | None = None
    self.decided = False
    self.waiting: set[str] = set()

  def join(self, rank: int, count: int, name: str) -> None:
    """Note a host, which may ask many times."""
    self.waiting.add(name)
    if self.decided:
      self.waiting.remove(name)
    elif count != self.count:
      self.wrong = (
        f'host {rank} was told of {count} hosts and host 0 of {self.count}; '
        'start all with the same number.'
      )
    elif self.names.setdefault(rank, name) != name or not 0 < rank < count:
      self.wrong = (
        f'two hosts say that they are number {rank}; number them 0 to '
        f'{self.count - 1}.'
      )


class _Handler(http.server.BaseHTTPRequestHandler):
  timeout = 2.0  # for a stranger who says nothing
  server: _Register

  def do_GET(self) -> None:
    """Answer `/RANK/COUNT/NAME` of a host with what is decided so far."""
    try:
      rank, count, name = self.path.strip('/').split('/')
      self.server.join(int(rank), int(count), name)
    except ValueError:
      self.send_error(http.HTTPStatus.NOT_FOUND)
      return
    self.send_response(http.HTTPStatus.OK)
    self.end_headers()
    answer = {'decided': self.server.decided, 'wrong': self.server.wrong}
    self.wfile.write(json.dumps(answer).encode())

  def log_message(self, format: str, *args: object) -> None:
    """Print nothing about requests."""


def _receive(address: str, count: int, timeout_s: float) -> str | None:
  _, port = split_address(address)
  deadline = time.monotonic() + timeout_s
  try:
    server = _Register(port, count)
  except OSError as error:
    return (
      f'host 0 cannot listen on port {port} ({error.strerror}); name another '
      'one.'
    )
  with server:
    while server.wrong is None and len(server.names) < count:
      if time.monotonic() > deadline:
        missing = set(range(count)) - set(server.names)
        server.wrong = _never_joined(missing, timeout_s)
      server.handle_request()
    server.decided = True
    deadline = time.monotonic() + _ANSWER_SECONDS
    while server.waiting and time.monotonic() < deadline:
      server.handle_request()
    return server.wrong


def _ask(address: str, who: str, timeout_s: float) -> str | None:
  split_address(address)
  # Hosts of one run are not behind a proxy.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  deadline = time.monotonic() + timeout_s
  url = f'http://{address}/{who}'
  patience = min(_ANSWER_SECONDS, timeout_s)
  answered = False
  while True:
    try:
      with opener.open(url, timeout=patience) as response:
        answer = json.load(response)
    except (OSError, ValueError, http.client.HTTPException) as error:
      if answered:
        return 'host 0 ended before all hosts had joined; see what it says.'
      if time.monotonic() > deadline:
        reason = getattr(error, 'reason', error)
        reason = getattr(reason, 'strerror', None) or reason
        return (
          f'host 0 never answered at {address} within {timeout_s:g} s '
          f'({reason}); start it, or correct the address.'
        )
    else:
      answered = True
      if answer['decided']:
        return answer['wrong']
    time.sleep(_RETRY_SECONDS)


def _never_joined(missing: set[int], timeout_s: float) -> str:
  names = ', '.join(str(rank) for rank in sorted(missing))
  hosts = f'host {names}' if len(missing) == 1 else f'hosts {names}'
  return (
    f'{hosts} never joined within {timeout_s:g} s; see why not, or give them '
    'more time with EEJAX_JOIN_TIMEOUT.'
  )


def split_address(address: str) -> tuple[str, int]:
  """Return host and port of `HOST:PORT`.

  Raises:
    EejaxError: it is not that.
  """
  host, _, port = address.rpartition(':')
  if not host or not port.isdigit() or not 0 < int(port) < 65535:
    raise EejaxError(
      f'{address!r} is no address of host 0; write it as HOST:PORT.'
    )
  return host, int(port)
