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
import threading

import pytest

from eejax.parallel import multihost
from eejax.training.stalls import Activity, StallWatch, stall_sentence

DATA, STEP = Activity.DATA, Activity.STEP


@pytest.mark.parametrize(
  'places, words',
  [
    ({0: (7, STEP)}, 'it is computing step 7.'),
    (
      {0: (7, STEP), 1: (7, DATA), 2: (7, STEP)},
      'host 1 is reading data for step 7, and the others wait.',
    ),
    (
      {0: (7, DATA), 1: (6, Activity.CHECKPOINT), 2: (6, Activity.CHECKPOINT)},
      'hosts 1, 2 are writing a checkpoint after step 6, and the others wait.',
    ),
    ({0: (7, STEP), 1: (7, STEP)}, 'all 2 hosts are computing step 7.'),
  ],
)
def test_it_names_the_hosts_that_are_behind(places, words):
  assert stall_sentence(places, seconds=300) == f'no step for 300 s: {words}'


def test_a_stall_is_said_once_until_something_moves(monkeypatch):
  said = []
  has_said = threading.Semaphore(0)

  def say(sentence):
    said.append(sentence)
    has_said.release()

  elsewhere = {1: [3, DATA.value]}
  told = multihost.told
  monkeypatch.setattr(
    multihost, 'told', lambda topic: {**told(topic), **elsewhere}
  )
  with StallWatch(seconds=0.05, say=say, period=0.01) as watch:
    watch.at(3, STEP)
    assert has_said.acquire(timeout=30)
    assert not has_said.acquire(timeout=0.2)
    watch.at(4, STEP)
    assert has_said.acquire(timeout=30)
  assert len(said) == 2
  assert all('host 1 is reading data for step 3' in s for s in said)


def test_none_is_looked_for_where_nobody_wants_it():
  count = threading.active_count()
  with StallWatch(seconds=0, say=print):
    assert threading.active_count() == count
