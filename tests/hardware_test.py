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
import json

import pytest

from eejax import hardware
from eejax.errors import ArgumentError


@pytest.mark.parametrize('name', hardware.hardware_names())
def test_every_machine_can_be_read_and_is_plausible(name):
  found = hardware.read_hardware(name)
  # More operations than bytes a second, or no memory would ever decide.
  assert max(found.peak_flops.values()) > found.memory_bandwidth
  assert found.memory_bandwidth >= found.link_bandwidth
  assert found.devices_per_host in (1, 4, 8)
  with pytest.raises(ArgumentError, match='no peak for float8'):
    found.flops('float8')


def test_every_machine_names_its_source():
  folder = hardware.resources.folder('configs') / 'hardware'
  for path in folder.glob('*.json'):
    assert json.loads(path.read_text())['source'], path


def test_what_cannot_be_read_is_named(tmp_path):
  with pytest.raises(ArgumentError, match='known are .*tpu_v5e'):
    hardware.read_hardware('tpu_v99')
  broken = tmp_path / 'mine.json'
  broken.write_text('{')
  with pytest.raises(ArgumentError, match='mine.json is not JSON'):
    hardware.read_hardware(str(broken))
  broken.write_text('{"name": "mine"}')
  with pytest.raises(ArgumentError, match='does not describe hardware'):
    hardware.read_hardware(str(broken))


def test_figures_must_be_positive():
  with pytest.raises(ArgumentError, match='must be above 0'):
    hardware.Hardware('x', {'float32': 1.0}, 1.0, 0.0, 1.0, 1)


def test_a_device_is_known_by_what_jax_calls_it():
  assert hardware.hardware_of('TPU v6 lite').name == 'TPU v6e'
  assert hardware.hardware_of('NVIDIA H200').name == 'H200 141GB SXM'
  assert hardware.hardware_of('cpu') is None
  machines = map(hardware.read_hardware, hardware.hardware_names())
  kinds = [kind for machine in machines for kind in machine.device_kinds]
  assert len(kinds) == len(set(kinds))
