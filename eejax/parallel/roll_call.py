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
"""Bring the hosts of a run together, or say who is missing.

Host 0 listens, all others call it; see `eejax.parallel.line` for what they do
from then on.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

from eejax.errors import EejaxError
from eejax.parallel.line import Line, Peer

_RETRY_SECONDS = 0.1
_GREETING_SECONDS = 10.0


def join(
  address: str,
  *,
  rank: int,
  count: int,
  introduction: dict[str, Any],
  check: Callable[[list[dict[str, Any]]], str | None],
  on_loss: Callable[[str], None] = lambda sentence: None,
  timeout_s: float = 300.0,
) -> Line:
  """Wait for every host, and let host 0 judge whether they fit together.

  Args:
    address: `HOST:PORT` of host 0.
    rank: number of this host, 0..count-1.
    count: how many hosts there are.
    introduction: what this host says of itself, for JSON.
    check: takes all introductions, host 0's first, and returns a sentence
      about what is wrong, or None; asked on host 0 alone.
    on_loss: is told in a sentence, on a thread of its own, that a host was
      lost; it should end the process, which may hang in a collective.
    timeout_s: how long hosts wait for one another.

  Raises:
    EejaxError: a host never joined, or they do not fit together.
  """
  deadline = time.monotonic() + timeout_s
  if rank == 0:
    return _receive_all(
      address, count, introduction, check, on_loss, deadline, timeout_s
    )
  peer = _call(address, deadline, timeout_s)
  peer.send({'rank': rank, 'count': count, 'introduction': introduction})
  answer = peer.receive()
  if answer is None or answer.get('refused'):
    peer.close()
  if answer is None:
    raise EejaxError(
      'host 0 ended before all hosts had joined; see what it says.'
    )
  if answer.get('refused'):
    raise EejaxError(answer['refused'])
  return Line(rank, count, {0: peer}, on_loss)


def _receive_all(
  address, count, introduction, check, on_loss, deadline, timeout_s
) -> Line:
  peers: dict[int, Peer] = {}
  said = {0: introduction}
  with _listening(address, count) as server:
    wrong = None
    while wrong is None and len(peers) < count - 1:
      server.settimeout(max(deadline - time.monotonic(), 0.001))
      try:
        connection, _ = server.accept()
      except TimeoutError:
        wrong = _never_joined(set(range(count)) - {0} - set(peers), timeout_s)
        break
      peer = Peer(connection)
      greeting = peer.receive(within=_GREETING_SECONDS)
      if greeting is None or 'introduction' not in greeting:
        peer.close()  # somebody else looked at the port
        continue
      wrong = _misfit(greeting, peers, count)
      if wrong is not None:
        peer.send({'refused': wrong})
        peer.close()
        break
      peers[greeting['rank']] = peer
      said[greeting['rank']] = greeting['introduction']
  if wrong is None:
    wrong = check([said[rank] for rank in range(count)])
  for peer in peers.values():
    peer.send({'refused': wrong})
  if wrong is not None:
    for peer in peers.values():
      peer.close()
    raise EejaxError(wrong)
  return Line(0, count, peers, on_loss)


def _misfit(greeting, peers, count: int) -> str | None:
  rank = greeting['rank']
  if greeting.get('count') != count:
    return (
      f'host {rank} was told of {greeting.get("count")} hosts and host 0 of '
      f'{count}; start all with the same number.'
    )
  if rank in peers or not 0 < rank < count:
    return (
      f'two hosts say that they are number {rank}; number them 0 to '
      f'{count - 1}.'
    )
  return None


def _never_joined(missing: set[int], timeout_s: float) -> str:
  names = ', '.join(str(rank) for rank in sorted(missing))
  hosts = f'host {names}' if len(missing) == 1 else f'hosts {names}'
  return (
    f'{hosts} never joined within {timeout_s:g} s; see why not, or give them '
    'more time with EEJAX_JOIN_TIMEOUT.'
  )


@contextlib.contextmanager
def _listening(address: str, count: int):
  _, port = split_address(address)
  try:
    server = socket.create_server(('', port), backlog=count)
  except OSError as error:
    raise EejaxError(
      f'host 0 cannot listen on port {port} ({error.strerror}); name another '
      'one.'
    ) from error
  with server:
    yield server


def _call(address: str, deadline: float, timeout_s: float) -> Peer:
  host, port = split_address(address)
  while True:
    try:
      left = max(deadline - time.monotonic(), 0.001)
      return Peer(socket.create_connection((host, port), timeout=left))
    except OSError as error:
      if time.monotonic() + _RETRY_SECONDS >= deadline:
        raise EejaxError(
          f'host 0 never answered at {address} within {timeout_s:g} s '
          f'({error.strerror or error}); start it, or correct the address.'
        ) from error
    time.sleep(_RETRY_SECONDS)


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
  return host.strip('[]'), int(port)
