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
"""Tests of the monitor, whose other hosts are keys in a dictionary here."""

import threading
import time

import pytest

from eejax.parallel import coordination, liveness


class Service(coordination.CoordinationClient):
  """A coordination service without hosts: keys, and a wait for one."""

  def __init__(self):
    self._keys = {}
    self._changed = threading.Condition()

  def put(self, key, value):
    with self._changed:
      self._keys[key] = value
      self._changed.notify_all()

  def get(self, key, *, timeout_s):
    with self._changed:
      self._changed.wait_for(lambda: key in self._keys, timeout_s)
      return self._keys[key]

  def values(self, folder):
    start = f'{folder}/'
    return {
      k.removeprefix(start): v
      for k, v in self._keys.items()
      if k.startswith(start)
    }

  def live(self, count):
    return set(range(count))


@pytest.fixture
def watched():
  """A monitor of host 1 of 2, its service and what `on_loss` was told."""
  service, told = Service(), []
  monitor = liveness.LivenessMonitor(
    service, rank=1, count=2, on_loss=told.append
  )
  yield monitor, service, told
  monitor.fail('the test is over')
  monitor.join()


def until(condition):
  deadline = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_a_process_that_hangs_is_told_by_its_monitor(watched):
  _, service, told = watched
  service.put('failure', 'host 0 was lost')
  until(lambda: told)
  assert told[0].startswith('host 0 was lost, so all hosts stop; start')


def test_whoever_asked_ends_the_process_itself(watched):
  monitor, service, told = watched
  service.put('failure', 'host 0 was lost')
  assert monitor.sentence(30).startswith('host 0 was lost, so all hosts stop')
  monitor.fail('host 0 was lost')
  monitor.join()
  assert told == []


def test_whoever_asked_and_hangs_is_ended(watched, monkeypatch):
  monkeypatch.setattr(liveness, '_OWN_END_SECONDS', 0.1)
  monitor, service, told = watched
  service.put('failure', 'host 0 was lost')
  assert monitor.sentence(30)
  until(lambda: told)
