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
"""Tests of devices that are not here."""

from unittest import mock

import jax
import pytest

from eejax.errors import ArgumentError, EejaxError
from eejax.parallel import topologies
from eejax.parallel.topologies import Machines


@pytest.mark.ahead
@pytest.mark.parametrize(
  ('name', 'devices', 'kind'),
  [
    ('v5e-8', 8, 'TPU v5 lite'),
    ('v5p-64', 32, 'TPU v5'),
    ('v6e-4', 4, 'TPU v6 lite'),
  ],
)
def test_slices_by_name(name, devices, kind):
  found = topologies.devices_of(name)
  assert len(found) == devices
  assert found[0].platform == 'tpu' and found[0].device_kind == kind


@pytest.mark.parametrize(
  'name', ['v5e-9', 'v9-8', 'v5e', '', '0xv5e-8', 'xH100']
)
def test_an_unknown_name_is_told_with_those_that_are(name):
  with pytest.raises(ArgumentError, match=r'no topology.*v5e-8.*v5p-64.*H100'):
    topologies.devices_of(name)


@pytest.mark.parametrize(
  ('name', 'remedy'), [('v5e-8', r'eejax\[ahead\]'), ('H100', 'gpu_compiler')]
)
def test_a_compiler_that_is_missing_is_named_with_its_remedy(name, remedy):
  with (
    mock.patch.object(topologies, '_is_installed', lambda package: False),
    pytest.raises(EejaxError, match=f'not installed.*{remedy}'),
  ):
    topologies.devices_of(name)


def test_a_machine_of_the_planner_has_a_topology():
  assert topologies.topology_of('tpu_v5p', devices=32) == 'v5p-64'
  assert topologies.topology_of('h200_141g', devices=8) == '8xH200'


@pytest.mark.parametrize(
  ('name', 'machines'),
  [
    ('v5p-64', Machines('tpu_v5p', 32)),
    ('2xv6e-256', Machines('tpu_v6e', 512, 2)),
    ('H200', Machines('h200_141g', 1)),
    ('64xA100', Machines('a100_80g', 64)),
  ],
)
def test_a_name_says_which_machines_and_how_many(name, machines):
  assert topologies.machines_of(name) == machines
  fields = {'devices': machines.devices, 'slices': machines.slices}
  again = topologies.topology_of(machines.hardware, **fields)
  assert topologies.machines_of(again) == machines


def test_no_program_for_a_device_elsewhere_is_kept():
  enabled = lambda: jax.config.jax_enable_compilation_cache
  elsewhere = mock.Mock(spec=jax.Device, platform='tpu')
  assert enabled()
  with pytest.raises(KeyError), topologies.compiling_for(elsewhere):
    assert not enabled()
    raise KeyError
  assert enabled()
  with topologies.compiling_for(jax.devices()[0]):
    assert enabled()


def test_names_are_those_of_google():
  names = topologies.topology_names()
  assert {'v5e-4', 'v5e-256', 'v5p-8', 'v5p-256', 'v6e-8', 'H200'} <= {*names}
