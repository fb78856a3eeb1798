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
"""Test which process of how many the environment says this is."""

import pytest

from eejax.errors import EejaxError
from eejax.parallel.environment import Hosts, first_node, from_environment

EXPLICIT = {
  'EEJAX_COORDINATOR': 'a:1234',
  'EEJAX_NUM_PROCESSES': '4',
  'EEJAX_PROCESS_ID': '2',
}
SLURM = {
  'SLURM_JOB_ID': '123456',
  'SLURM_STEP_NODELIST': 'gpu[007-010,12],cpu3',
  'SLURM_STEP_NUM_TASKS': '8',
  'SLURM_STEP_TASKS_PER_NODE': '1(x8)',
  'SLURM_PROCID': '5',
  'SLURM_LOCALID': '1',
}


def no_metadata(attribute):
  raise OSError(attribute)


class TestExplicit:
  def test_it_is_taken_as_it_is(self):
    assert from_environment(EXPLICIT) == Hosts('a:1234', 2, 4)

  def test_devices_may_be_named(self):
    hosts = from_environment({**EXPLICIT, 'EEJAX_LOCAL_DEVICES': '0,3'})
    assert hosts.local_devices == (0, 3)

  def test_it_comes_before_slurm(self):
    assert from_environment({**SLURM, **EXPLICIT}).count == 4

  def test_one_process_is_none(self):
    one = {'EEJAX_NUM_PROCESSES': '1', 'EEJAX_PROCESS_ID': '0'}
    assert from_environment({**EXPLICIT, **one}) is None

  @pytest.mark.parametrize('name', EXPLICIT)
  def test_what_is_missing_is_named(self, name):
    environ = {k: v for k, v in EXPLICIT.items() if k != name}
    with pytest.raises(EejaxError, match=f'^{name} is missing'):
      from_environment(environ)

  def test_words_are_no_numbers(self):
    with pytest.raises(EejaxError, match="must be a number, not 'two'"):
      from_environment({**EXPLICIT, 'EEJAX_PROCESS_ID': 'two'})

  def test_numbers_start_at_0(self):
    with pytest.raises(EejaxError, match='process 4 of 4 cannot be'):
      from_environment({**EXPLICIT, 'EEJAX_PROCESS_ID': '4'})


class TestSlurm:
  def test_a_task_a_node(self):
    hosts = from_environment(SLURM)
    assert (hosts.rank, hosts.count, hosts.local_devices) == (5, 8, None)
    host, port = hosts.address.split(':')
    assert host == 'gpu007'
    assert 1024 < int(port) < 65535

  @pytest.mark.parametrize('tasks', ['2(x4)', '16', '4,4'])
  def test_a_task_a_device(self, tasks):
    environ = {**SLURM, 'SLURM_STEP_TASKS_PER_NODE': tasks}
    assert from_environment(environ).local_devices == (1,)

  @pytest.mark.parametrize(
    ('nodes', 'first'),
    [
      ('a1', 'a1'),
      ('a1,b2', 'a1'),
      ('n[3,5-7]', 'n3'),
      ('x-y[01-02]', 'x-y01'),
    ],
  )
  def test_lists_of_nodes(self, nodes, first):
    assert first_node(nodes) == first


class TestTpu:
  def test_the_environment_of_a_slice(self):
    environ = {'TPU_WORKER_HOSTNAMES': 'w0,w1', 'TPU_WORKER_ID': '1'}
    assert from_environment(environ) == Hosts('w0:8476', 1, 2)

  def test_a_slice_of_one_host(self):
    environ = {'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'}
    assert from_environment(environ) is None

  def test_the_metadata_server(self):
    answers = {
      'attributes/worker-network-endpoints': 'a:b:10.0.0.2,c:d:10.0.0.3',
      'attributes/agent-worker-number': '1',
    }
    hosts = from_environment({}, fetch=answers.__getitem__)
    assert hosts == Hosts('10.0.0.2:8476', 1, 2)

  def test_the_hosts_of_two_slices_are_counted_through(self):
    environ = {
      'TPU_WORKER_HOSTNAMES': 'w0,w1',
      'TPU_WORKER_ID': '1',
      'MEGASCALE_NUM_SLICES': '2',
      'MEGASCALE_SLICE_ID': '1',
      'MEGASCALE_COORDINATOR_ADDRESS': 'first:8080',
    }
    assert from_environment(environ) == Hosts('first:8476', 3, 4)
    del environ['MEGASCALE_COORDINATOR_ADDRESS']
    with pytest.raises(EejaxError, match='COORDINATOR_ADDRESS is missing'):
      from_environment(environ)

  def test_the_metadata_server_tells_of_slices(self):
    answers = {
      'attributes/worker-network-endpoints': 'a:b:10.0.0.2',
      'attributes/agent-worker-number': '0',
      'attributes/tpu-env': (
        "ZONE: 'a'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9'\n"
      ),
    }
    hosts = from_environment({}, fetch=answers.__getitem__)
    assert hosts == Hosts('10.0.0.9:8476', 1, 2)

  def test_a_tpu_without_metadata_has_one_host(self):
    assert from_environment({}, fetch=no_metadata) is None


def test_a_machine_that_says_nothing_is_alone():
  assert from_environment({}) is None
