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
"""Test several processes that work on one run, and what jax gives for it.

A process of a test runs this file; see `main`.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.errors import ArgumentError, EejaxError
from eejax.parallel import coordination, multihost
from eejax.parallel.environment import Hosts

SCRIPT = pathlib.Path(__file__)
REPOSITORY = SCRIPT.parent.parent.parent
COUNT = 3
# A hang must not take the suite with it.
PATIENCE = 240


def free_address():
  with socket.create_server(('', 0)) as server:
    return f'localhost:{min(server.getsockname()[1], 65000)}'


def start(*arguments, **more):
  environ = {
    **os.environ,
    'PYTHONPATH': str(REPOSITORY),
    'JAX_NUM_CPU_DEVICES': '1',
    'EEJAX_JOIN_TIMEOUT': '100',
    **more,
  }
  return subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    env=environ,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run_hosts(what, **more):
  """Return exit code, stdout and stderr of each host."""
  address = free_address()
  hosts = [start(SCRIPT, address, r, COUNT, what, **more) for r in range(COUNT)]
  try:
    said = [host.communicate(timeout=PATIENCE) for host in hosts]
  finally:
    for host in hosts:
      host.kill()
  return [(host.returncode, *s) for host, s in zip(hosts, said, strict=True)]


def last_line(text):
  return text.strip().splitlines()[-1]


# MARK: What a host does


def agree(rank):
  """Return what this host learns from the others."""
  calls = []

  def fail():
    raise ArgumentError('the folder is taken.')

  learnt = {
    'gathered': [multihost.gather({'is': rank}), multihost.gather(rank)],
    'first': multihost.from_first(lambda: calls.append(rank) or {'n': 7}),
    'calls': calls,
    'count': multihost.count(),
    'is_first': multihost.is_first(),
    'lost': multihost.lost_host(ValueError('something else')),
  }
  try:
    multihost.from_first(fail)
  except EejaxError as error:
    learnt['raised'] = [type(error).__name__, str(error)]
  multihost.barrier()
  mesh = Mesh(np.array(jax.devices()), ('data',))
  cut = jax.make_array_from_callback(
    (multihost.count(),),
    NamedSharding(mesh, PartitionSpec('data')),
    lambda index: np.array([10.0 + rank]),
  )
  learnt['whole'] = multihost.to_host(cut).tolist()
  return learnt


def stop(rank):
  """Return after how many steps this host stops, which host 1 asks for."""
  stops = []
  for asked in (3, 0):
    agreement = multihost.StopAgreement()
    steps = 0
    while not agreement.agreed(requested=rank == 1 and steps >= asked):
      steps += 1
      time.sleep(0.01 * rank)  # hosts are not equally fast
      if steps % 5 == 0:
        multihost.gather(steps)  # as a checkpoint does
    stops.append(steps)
  # One that nobody asked for.
  idle = multihost.StopAgreement()
  assert not any(idle.agreed(requested=False) for _ in range(3))
  return stops


def be_told():
  """Wait for what the monitor says, as in a collective that hangs."""
  time.sleep(120)


def work(rank, what):
  """Do what the test wants of this host."""
  if what == 'agree':
    return {**agree(rank), 'stops': stop(rank)}
  victim, how = int(what[-1]), what[:-1]
  multihost.barrier()
  if rank != victim:
    be_told()
  if how == 'kill':
    os.kill(os.getpid(), signal.SIGKILL)
  raise EejaxError('its disk is full.')


def main(address, rank, count, what):
  """Run this host, and end as `eejax.cli.main` does."""
  rank, count = int(rank), int(count)
  identity = {'RATE': 0.2 if what == 'differ' and rank == 2 else 0.1}

  def on_loss(sentence):
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)

  try:
    multihost.initialize(
      Hosts(address, rank, count), identity=identity, on_loss=on_loss
    )
    learnt = work(rank, what)
    multihost.shutdown(0)
    print(json.dumps(learnt))
  except EejaxError as error:
    print(error, file=sys.stderr)
    multihost.shutdown(error.exit_code, str(error))
    sys.exit(error.exit_code)


# MARK: Tests


class TestAgreement:
  @pytest.fixture(scope='class')
  def learnt(self):
    hosts = run_hosts('agree')
    assert [code for code, _, _ in hosts] == [0] * COUNT, hosts
    return [json.loads(last_line(out)) for _, out, _ in hosts]

  def test_all_hosts_learn_all_values_in_order(self, learnt):
    values = [[{'is': 0}, {'is': 1}, {'is': 2}], [0, 1, 2]]
    assert [host['gathered'] for host in learnt] == [values] * COUNT

  def test_they_know_who_they_are(self, learnt):
    assert [host['count'] for host in learnt] == [COUNT] * COUNT
    assert [host['is_first'] for host in learnt] == [True, False, False]

  def test_what_the_first_does_happens_once(self, learnt):
    assert [host['first'] for host in learnt] == [{'n': 7}] * COUNT
    assert [host['calls'] for host in learnt] == [[0], [], []]

  def test_what_the_first_raises_is_raised_everywhere(self, learnt):
    expected = ['ArgumentError', 'the folder is taken.']
    assert [host['raised'] for host in learnt] == [expected] * COUNT

  def test_an_array_is_whole_on_every_host(self, learnt):
    assert [host['whole'] for host in learnt] == [[10.0, 11.0, 12.0]] * COUNT

  def test_hosts_stop_at_the_same_step(self, learnt):
    first, again = learnt[0]['stops']
    assert [host['stops'] for host in learnt] == [[first, again]] * COUNT
    # What is asked for before a step is granted after it at the earliest.
    assert first > 3
    assert again > 0

  def test_an_error_of_one_host_is_no_loss(self, learnt):
    assert [host['lost'] for host in learnt] == [None] * COUNT


class TestALostHost:
  def test_all_others_are_told_which(self):
    hosts = run_hosts('kill1', EEJAX_HEARTBEAT_TIMEOUT='4')
    assert [code for code, _, _ in hosts] == [1, -signal.SIGKILL, 1], hosts
    for rank in (0, 2):
      assert last_line(hosts[rank][2]) == (
        'host 1 was lost, so all hosts stop; start all of them again, and the '
        'run goes on from its last checkpoint.'
      )

  def test_without_the_first_jax_may_speak_sooner(self):
    hosts = run_hosts('kill0')
    assert hosts[0][0] == -signal.SIGKILL
    for code, _, said in hosts[1:]:
      # The service went with host 0. jax then aborts a process, as a rule
      # before a thread of ours, which learns of it as soon, can speak.
      assert code in (1, -signal.SIGABRT), said
      assert 'host 0 was lost' in said or (
        'Either the leader task was preempted/died/restarted' in said
      )

  @pytest.mark.parametrize('rank', [0, 2])
  def test_one_that_fails_says_why(self, rank):
    hosts = run_hosts(f'fail{rank}')
    assert [code for code, _, _ in hosts] == [1] * COUNT, hosts
    for other, (_, _, said) in enumerate(hosts):
      assert last_line(said).startswith(
        'its disk is full.'
        if other == rank
        else f'host {rank} failed (its disk is full.), so all hosts stop'
      )

  def test_hosts_that_differ_are_refused_everywhere(self):
    hosts = run_hosts('differ')
    assert [code for code, _, _ in hosts] == [1] * COUNT, hosts
    for _, _, said in hosts:
      assert last_line(said) == (
        'host 2 was started with another configuration: RATE is 0.2 there and '
        '0.1 on host 0; start all hosts with the same command.'
      )


def test_jax_alone_does_not_name_a_host_that_is_absent():
  """The reason for a rendezvous of our own, see docs/decisions.md."""
  code = (
    'import jax\n'
    f"jax.distributed.initialize('{free_address()}', 2, 0, "
    'initialization_timeout=1)'
  )
  process = start('-c', code)
  _, said = process.communicate(timeout=PATIENCE)
  assert process.returncode == -signal.SIGABRT
  assert 'DEADLINE_EXCEEDED' in said
  assert 'task:1' not in said


class TestAlone:
  def test_everything_is_agreed_at_once(self):
    assert multihost.is_first()
    assert multihost.count() == 1
    assert multihost.gather(3) == [3]
    assert multihost.from_first(lambda: {'a': 1}) == {'a': 1}
    assert multihost.lost_host(EejaxError('x')) is None
    agreement = multihost.StopAgreement()
    assert not agreement.agreed(requested=False)
    assert agreement.agreed(requested=True)

  @pytest.mark.parametrize('text', ['soon', '0', '-1', 'nan'])
  def test_a_time_out_is_a_number_of_seconds(self, monkeypatch, text):
    monkeypatch.setenv('EEJAX_HEARTBEAT_TIMEOUT', text)
    hosts = Hosts('localhost:1', 0, 2)
    with pytest.raises(EejaxError, match='EEJAX_HEARTBEAT_TIMEOUT must be'):
      multihost.initialize(hosts, identity={}, on_loss=print)

  def test_another_client_of_jax_is_an_error(self):
    with pytest.raises(EejaxError, match='client without .*get_live_nodes'):
      coordination.CoordinationClient(object())


if __name__ == '__main__':
  main(*sys.argv[1:])
