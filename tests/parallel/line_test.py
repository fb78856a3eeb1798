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
"""Test the line between hosts, with threads for hosts."""

import contextlib
import queue
import socket
import threading

import pytest

from eejax.errors import EejaxError
from eejax.parallel import multihost, roll_call
from eejax.parallel.line import Line


def free_port():
  with socket.create_server(('', 0)) as server:
    return server.getsockname()[1]


class Host(threading.Thread):
  """Run one host's part and keep what came of it."""

  def __init__(self, work):
    super().__init__(daemon=True)
    self.work, self.result, self.error = work, None, None
    self.start()

  def run(self):
    try:
      self.result = self.work()
    except EejaxError as error:
      self.error = error

  def wait(self):
    self.join(30)
    assert not self.is_alive(), 'a host hangs'
    return self


def fit(introductions):
  return None


def joining(port, rank, count, introduction=None, check=fit, **options):
  options.setdefault('timeout_s', 20.0)
  return lambda: roll_call.join(
    f'localhost:{port}',
    rank=rank,
    count=count,
    introduction=introduction or {},
    check=check,
    **options,
  )


@contextlib.contextmanager
def connected(count, on_loss=None):
  """Yield the lines of `count` hosts."""
  port = free_port()
  hosts = [
    Host(
      joining(
        port,
        rank,
        count,
        on_loss=(lambda s, r=rank: on_loss.put((r, s))) if on_loss else print,
      )
    )
    for rank in range(count)
  ]
  lines: list[Line] = [host.wait().result for host in hosts]
  assert all(lines), [host.error for host in hosts]
  yield lines
  for line in lines:
    line.close()


def everywhere(lines, work):
  """Return what `work(line)` returns on each host, at the same time."""
  hosts = [Host(lambda line=line: work(line)) for line in lines]
  return [host.wait() for host in hosts]


class TestExchange:
  def test_all_hosts_learn_all_values_in_order(self):
    with connected(3) as lines:
      hosts = everywhere(lines, lambda line: line.exchange({'is': line.rank}))
    expected = [{'is': 0}, {'is': 1}, {'is': 2}]
    assert [host.result for host in hosts] == [expected] * 3

  def test_answers_may_come_later(self):
    def work(line):
      line.begin(f'a{line.rank}')
      line.begin(f'b{line.rank}')
      between = line.exchange(f'c{line.rank}')
      assert line.pending() == 2
      return between, line.finish(), line.finish(), line.pending()

    with connected(2) as lines:
      hosts = everywhere(lines, work)
    expected = (['c0', 'c1'], ['a0', 'a1'], ['b0', 'b1'], 0)
    assert [host.result for host in hosts] == [expected] * 2


class TestALostHost:
  def test_all_others_are_told_at_once(self):
    told: queue.Queue = queue.Queue()
    with connected(3, on_loss=told) as lines:
      lines[1]._peers[0].close()  # what the system does when it is killed
      found = sorted([told.get(timeout=5) for _ in range(3)])
      assert [rank for rank, _ in found] == [0, 1, 2]
      assert found[0][1] == found[2][1]
      assert found[0][1].startswith('host 1 was lost')

  def test_nobody_waits_for_its_answer(self):
    with connected(3) as lines:
      waiting = [Host(lambda i=i: lines[i].exchange(0)) for i in (0, 2)]
      lines[1]._peers[0].close()
      for host in waiting:
        assert 'host 1 was lost' in str(host.wait().error)

  def test_the_first_may_be_lost_too(self):
    told: queue.Queue = queue.Queue()
    with connected(2, on_loss=told) as lines:
      lines[0]._peers[1].close()
      assert 'host 0 was lost' in dict([told.get(5), told.get(5)])[1]

  def test_one_that_fails_says_why(self, monkeypatch):
    monkeypatch.setattr('eejax.parallel.line._GRACE_SECONDS', 0.0)
    told: queue.Queue = queue.Queue()
    with connected(3, on_loss=told) as lines:
      lines[2].fail('its disk is full.')
      sentences = [told.get(timeout=5)[1] for _ in range(2)]
      assert all('host 2 failed (its disk is full.)' in s for s in sentences)

  def test_one_that_ends_well_is_not_lost(self):
    told: queue.Queue = queue.Queue()
    with connected(2, on_loss=told) as lines:
      lines[1].close()
      lines[0].wait_for_others(5)
      assert told.empty()
      assert 'has ended its run' in str(
        Host(lambda: lines[0].exchange(0)).wait().error
      )


class TestJoining:
  def test_one_that_never_joins_is_named(self):
    port = free_port()
    hosts = [Host(joining(port, rank, 4, timeout_s=0.5)) for rank in (0, 1)]
    for host in hosts:
      error = host.wait().error
      assert 'hosts 2, 3 never joined within 0.5 s' in str(error)
      assert error.exit_code == 1

  def test_the_first_that_never_answers_is_named(self):
    port = free_port()
    error = Host(joining(port, 1, 2, timeout_s=0.3)).wait().error
    assert f'host 0 never answered at localhost:{port}' in str(error)

  def test_hosts_that_differ_are_refused_everywhere(self):
    port = free_port()
    check = multihost.disagreement
    say = lambda rate: {'code': 'c', 'identity': {'RATE': rate, 'STEPS': 3}}
    hosts = [
      Host(joining(port, rank, 3, say(rate), check))
      for rank, rate in enumerate([0.1, 0.1, 0.2])
    ]
    for host in hosts:
      words = str(host.wait().error)
      assert 'host 2 was started with another configuration' in words
      assert 'RATE is 0.2 there and 0.1 on host 0' in words

  def test_other_code_is_refused(self):
    words = multihost.disagreement(
      [{'code': 'a', 'identity': {}}, {'code': 'b', 'identity': {}}]
    )
    assert 'host 1 runs other code' in words

  def test_other_numbers_are_refused(self):
    port = free_port()
    hosts = [Host(joining(port, 0, 2)), Host(joining(port, 1, 3))]
    for host in hosts:
      assert 'told of 3 hosts and host 0 of 2' in str(host.wait().error)

  def test_the_same_number_twice_is_refused(self):
    port = free_port()
    hosts = [Host(joining(port, rank, 3)) for rank in (0, 1, 1)]
    for host in hosts:
      assert 'two hosts say that they are number 1' in str(host.wait().error)

  def test_a_stranger_on_the_port_does_not_count(self):
    port = free_port()
    first = Host(joining(port, 0, 2))
    while True:
      with contextlib.suppress(OSError):
        socket.create_connection(('localhost', port)).close()
        break
    second = Host(joining(port, 1, 2))
    lines = [first.wait().result, second.wait().result]
    assert all(lines)
    for line in lines:
      line.close()

  def test_a_port_that_is_taken(self):
    with socket.create_server(('', 0)) as server:
      port = server.getsockname()[1]
      error = Host(joining(port, 0, 2)).wait().error
    assert f'cannot listen on port {port}' in str(error)

  @pytest.mark.parametrize('address', ['here', 'here:', ':80', 'a:b'])
  def test_an_address_without_a_port(self, address):
    with pytest.raises(EejaxError, match='HOST:PORT'):
      roll_call.split_address(address)


class TestAgreement:
  """Of one host; with several it is tested in tests/cli."""

  def test_alone_everything_is_agreed_at_once(self):
    assert multihost.is_first()
    assert multihost.gather(3) == [3]
    assert multihost.from_first(lambda: {'a': 1}) == {'a': 1}
    agreement = multihost.StopAgreement()
    assert not agreement.agreed(requested=False)
    assert agreement.agreed(requested=True)

  @pytest.fixture
  def two(self, monkeypatch):
    """Return a runner of `work` on two hosts, each with its own line."""
    local = threading.local()
    monkeypatch.setattr('eejax.parallel.multihost.line', lambda: local.line)

    def run(work):
      def on(line):
        local.line = line
        return work()

      with connected(2) as lines:
        return everywhere(lines, on)

    return run

  def test_hosts_stop_at_the_same_step(self, two):
    def work():
      agreement = multihost.StopAgreement()
      step = 0
      while not agreement.agreed(
        requested=step >= 3 and not multihost.is_first()
      ):
        step += 1
        multihost.gather(step)  # as a checkpoint does
      agreement.settle()
      return step, multihost.gather('done')

    hosts = two(work)
    assert [host.result for host in hosts] == [(5, ['done', 'done'])] * 2

  def test_what_the_first_does_happens_once(self, two):
    calls = []
    hosts = two(
      lambda: multihost.from_first(lambda: calls.append(1) or {'n': 7})
    )
    assert [host.result for host in hosts] == [{'n': 7}] * 2
    assert calls == [1]

  def test_what_the_first_raises_is_raised_everywhere(self, two):
    def fail():
      raise EejaxError('the folder is taken.')

    for host in two(lambda: multihost.from_first(fail)):
      assert str(host.error) == 'the folder is taken.'
