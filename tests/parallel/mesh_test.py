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
"""Test how devices are arranged, and what is said when they cannot be."""

import json

import jax
import pytest

from eejax import resources
from eejax.errors import EejaxError
from eejax.hardware import hardware_names
from eejax.parallel import mesh as mesh_lib
from eejax.parallel import topologies
from eejax.parallel.mesh import MeshConfig, make_mesh, parse_mesh


class TestSizes:
  def test_one_axis_takes_the_rest(self):
    mesh = make_mesh(MeshConfig(model=2, stage=2))
    assert dict(mesh.shape) == {
      'stage': 2,
      'data': 2,
      'fsdp': 1,
      'expert': 1,
      'model': 2,
    }

  def test_neighbours_on_model_are_neighbours(self):
    mesh = make_mesh(MeshConfig(stage=2, data=2, model=2))
    assert [d.id for d in mesh.devices[0, 0, 0, 0]] == [0, 1]
    assert [d.id for d in mesh.devices[:, 0, 0, 0, 0]] == [0, 4]

  @pytest.mark.parametrize(
    'config', [MeshConfig(data=3), MeshConfig(model=3), MeshConfig(data=4)]
  )
  def test_axes_must_multiply_to_the_devices(self, config):
    with pytest.raises(EejaxError, match='devices and there are 8') as caught:
      make_mesh(config)
    assert caught.value.exit_code == 1

  def test_fewer_devices_may_be_named(self):
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:2])
    assert mesh.shape['data'] == 2

  def test_two_axes_cannot_take_the_rest(self):
    with pytest.raises(EejaxError, match='one axis'):
      MeshConfig(fsdp=-1)

  def test_an_axis_has_at_least_one_device(self):
    with pytest.raises(EejaxError, match='model must be at least 1'):
      MeshConfig(model=0)


class TestWords:
  def test_axes(self):
    assert parse_mesh('data=2, model=4') == MeshConfig(data=2, model=4)

  def test_data_takes_the_rest(self):
    assert parse_mesh('model=4').data == -1

  def test_data_leaves_the_rest_to_another(self):
    assert parse_mesh('fsdp=-1') == MeshConfig(data=1, fsdp=-1)

  @pytest.mark.parametrize('text', ['data=two', 'layers=2', 'model='])
  def test_other_words(self, text):
    with pytest.raises(EejaxError, match='no axis of a mesh'):
      parse_mesh(text)

  def test_an_unknown_name(self):
    with pytest.raises(EejaxError, match='there is no mesh') as caught:
      parse_mesh('9xB200')
    assert '8xA100' in str(caught.value)

  def test_words_and_mesh_say_the_same(self):
    config = MeshConfig(data=2, fsdp=3, stage=4, model=5)
    assert parse_mesh(config.describe()) == config


class TestNamedMeshes:
  @pytest.mark.parametrize('name', mesh_lib.mesh_names())
  def test_it_multiplies_to_its_devices(self, name):
    path = resources.folder('configs') / 'meshes' / f'{name}.json'
    values = json.loads(path.read_text())
    config = parse_mesh(name)
    assert config.resolved(values['devices']) == config
    assert values['devices'] % values['hosts'] == 0
    assert values['hardware'] in hardware_names()

  def test_there_is_one_for_each_machine(self):
    assert {'cpu-1', 'cpu-8', 'v5e-8', 'v5e-256', '8xA100', '64xA100'} <= set(
      mesh_lib.mesh_names()
    )


class TestWhatDoesNotFit:
  def test_rows_must_divide(self):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    mesh_lib.check_batch(mesh, rows=8, microbatches=2)
    with pytest.raises(EejaxError, match='multiple of 4') as caught:
      mesh_lib.check_batch(mesh, rows=6)
    assert caught.value.exit_code == 1
    with pytest.raises(EejaxError, match='multiple of 12'):
      mesh_lib.check_batch(mesh, rows=8, microbatches=3)

  def test_stages_must_have_blocks(self):
    mesh = make_mesh(MeshConfig(stage=4))
    mesh_lib.check_stages(mesh, blocks=4)
    with pytest.raises(EejaxError, match='4 stages cannot share 3 blocks'):
      mesh_lib.check_stages(mesh, blocks=3)

  def test_devices_cannot_be_simulated_afterwards(self):
    jax.devices()
    mesh_lib.simulate(MeshConfig(simulated_devices=8))  # there are as many
    with pytest.raises(EejaxError, match='JAX_NUM_CPU_DEVICES=16'):
      mesh_lib.simulate(MeshConfig(simulated_devices=16))


@pytest.mark.ahead
class TestSlices:
  def test_they_lie_along_data(self):
    devices = topologies.devices_of('2xv5e-4')
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2), devices=devices)
    for index in range(2):
      row = mesh.devices[0, index].flatten()
      assert {d.slice_index for d in row} == {index}

  def test_data_must_divide_by_them(self):
    devices = topologies.devices_of('2xv5e-4')
    with pytest.raises(EejaxError, match='2 slices are joined along data'):
      make_mesh(MeshConfig(data=1, fsdp=8), devices=devices)
