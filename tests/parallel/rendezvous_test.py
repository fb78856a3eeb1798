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
"""Test the rendezvous of hosts, with threads for hosts."""

import socket
import threading

import pytest

from eejax.errors import EejaxError
from eejax.parallel import rendezvous


def free_port():
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


class Host(threading.Thread):
  """One host that meets the others, and what it was told."""

  def __init__(self, port, rank, count, timeout_s=20.0):
    super().__init__(daemon=True)
    self.port, self.rank, self.count = port, rank, count
    self.timeout_s, self.error = timeout_s, None
    self.start()

  def run(self):
    try:
      rendezvous.meet(
        f'localhost:{self.port}',
        rank=self.rank,
        count=self.count,
        timeout_s=self.timeout_s,
      )
    except EejaxError as error:
      self.error = str(error)

  def told(self):
    """Return what is wrong, once the host has been told."""
    self.join(30)
    assert not self.is_alive(), 'a host hangs'
    return self.error


def test_all_go_on_when_all_have_come():
  port = free_port()
  hosts = [Host(port, rank, 3) for rank in (2, 0)]
  assert all(host.is_alive() for host in hosts)
  hosts.append(Host(port, 1, 3))
  assert [host.told() for host in hosts] == [None] * 3


def test_one_that_never_joins_is_named():
  port = free_port()
  hosts = [Host(port, rank, 4, timeout_s=0.5) for rank in (0, 1)]
  for host in hosts:
    assert 'hosts 2, 3 never joined within 0.5 s' in host.told()


def test_the_first_that_never_answers_is_named():
  port = free_port()
  said = Host(port, 1, 2, timeout_s=0.3).told()
  assert f'host 0 never answered at localhost:{port} within 0.3 s' in said
  assert '(Connection refused)' in said


def test_the_first_that_ends_early_is_named():
  with socket.create_server(('', 0)) as server:
    host = Host(server.getsockname()[1], 1, 2)
    connection, _ = server.accept()
    with connection:
      connection.recv(4096)
      answer = b'{"decided": false, "wrong": null}'
      connection.sendall(b'HTTP/1.0 200 OK\r\n\r\n' + answer)
  assert 'host 0 ended before all hosts had joined' in host.told()


def test_other_numbers_are_refused():
  port = free_port()
  for host in [Host(port, 0, 2), Host(port, 1, 3)]:
    assert 'told of 3 hosts and host 0 of 2' in host.told()


def test_the_same_number_twice_is_refused():
  port = free_port()
  for host in [Host(port, rank, 3) for rank in (0, 1, 1)]:
    assert 'two hosts say that they are number 1' in host.told()


def test_strangers_on_the_port_do_not_count():
  port = free_port()
  first = Host(port, 0, 2)
  while True:
    try:
      silent = socket.create_connection(('localhost', port))
      break
    except OSError:
      pass
  rude = socket.create_connection(('localhost', port))
  rude.sendall(b'GET /favicon.ico HTTP/1.0\r\n\r\n')
  silent.close()
  assert b'404' in rude.recv(100)
  rude.close()
  second = Host(port, 1, 2)
  assert [first.told(), second.told()] == [None, None]


def test_a_port_that_is_taken():
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    assert f'cannot listen on port {port}' in Host(port, 0, 2).told()


@pytest.mark.parametrize('address', ['here', 'here:', ':80', 'a:b'])
def test_an_address_without_a_port(address):
  with pytest.raises(EejaxError, match='HOST:PORT'):
    rendezvous.split_address(address)
