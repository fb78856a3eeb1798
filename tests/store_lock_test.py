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
"""A lock in a store: one holder, found again when it is gone."""

import concurrent.futures
import json
import subprocess
import sys

import pytest

from eejax import storage, store_folder, store_lock
from eejax.errors import EejaxError, StoreError

pytestmark = pytest.mark.store


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(store_lock, 'BEAT_SECONDS', 0.1)


@pytest.fixture
def lock(bucket):
  return storage.as_path(f'{bucket}/.lock')


def another(lock, number, *, machine='elsewhere', pid=1):
  """Write what a process of another machine leaves when it is killed."""
  record = {'machine': machine, 'pid': pid, 'owner': 'another', 'beat': 3}
  file = lock / f'{number:09}'
  store_folder.create(file, json.dumps(record).encode())
  return record


def test_a_second_one_is_refused_and_a_later_one_is_not(lock):
  with store_lock.hold(lock):
    with pytest.raises(EejaxError, match='another process is working in gs://'):
      with store_lock.hold(lock):
        pass
  with store_lock.hold(lock):
    store_lock.check(lock)
  assert len(store_folder.list_files(lock)) == 1


def test_one_that_is_silent_is_followed(lock):
  another(lock, 7)
  said = []
  with store_lock.hold(lock, say=said.append):
    store_lock.check(lock)
  assert 'waiting for a sign' in said[0]


def test_one_that_has_ended_here_is_followed_at_once(lock):
  ended = subprocess.Popen([sys.executable, '-c', ''])
  ended.wait()
  machine = store_lock._this_process()['machine']
  another(lock, 1, machine=machine, pid=ended.pid)
  said = []
  with store_lock.hold(lock, say=said.append):
    assert said == []


def test_whoever_was_followed_ends(lock):
  with store_lock.hold(lock):
    another(lock, 2)
    with pytest.raises(EejaxError, match='has taken over gs://'):
      store_lock.check(lock)


def test_of_many_one_holds_it(lock):
  another(lock, 1)

  def attempt(_):
    try:
      return store_lock._take(lock, lambda _: None)
    except EejaxError:
      return None

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    taken = [found for found in pool.map(attempt, range(4)) if found]
  for held in taken:
    held.release()
  assert len(taken) == 1


def test_a_store_that_refuses_is_told(lock, store):
  with store.refusing(lambda method, path: method == 'POST'):
    with pytest.raises(StoreError, match='the store refuses'):
      with store_lock.hold(lock):
        pass


def test_what_is_no_lock_is_told(lock):
  store_folder.create(lock / '000000001', b'{')
  with pytest.raises(StoreError, match='is not what a process of eejax wrote'):
    with store_lock.hold(lock):
      pass
