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
"""Test models read straight onto a mesh: the same arrays, a part at a time."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import huggingface, streaming
from eejax.checkpoint.model import Model
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.quantized import quantize_backbone
from eejax.parallel import sharding
from eejax.parallel.mesh import make_mesh, parse_mesh
from eejax.testing import tiny

MESHES = ('data=8', 'fsdp=2,model=2,stage=2')


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config('1:norm,2:mlp:untied,4:embedding')
  return config, tiny.tiny_params(config)


@pytest.fixture(scope='module')
def saved(model, tmp_path_factory):
  path = tmp_path_factory.mktemp('model') / 'tiny'
  config, params = model
  checkpoint_folder.save(path, Model(config=config, params=params))
  return path


@pytest.fixture(scope='module')
def exported(saved, tmp_path_factory):
  path = tmp_path_factory.mktemp('export') / 'hf'
  # Files of a few KiB: an array of the stack lies in several of them.
  huggingface.export_folder(
    checkpoint_folder.load(saved), path, shard_bytes=8_000
  )
  assert len(list(path.glob('*.safetensors'))) > 2
  return path


def assert_equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_placed(params, mesh):
  places = sharding.shardings(params, mesh=mesh)
  for leaf, place in zip(
    jax.tree.leaves(params), jax.tree.leaves(places), strict=True
  ):
    assert leaf.sharding == place


class Watch:
  """Keep the size of the largest array that the host makes."""

  def __init__(self, monkeypatch):
    self.largest = 0
    for name in ('stack', 'array', 'concatenate'):
      monkeypatch.setattr(np, name, self.watched(getattr(np, name)))

  def watched(self, make):
    def made(*args, **options):
      array = make(*args, **options)
      self.largest = max(self.largest, array.nbytes)
      return array

    return made


@pytest.mark.parametrize('words', MESHES)
class TestArrays:
  def test_a_checkpoint_is_read_bit_for_bit(self, model, saved, words):
    mesh = make_mesh(parse_mesh(words))
    found = streaming.load(saved, mesh=mesh)
    assert found.config == model[0]
    assert_equal(found.params, model[1])
    assert_placed(found.params, mesh)

  def test_safetensors_are_read_bit_for_bit(self, model, exported, words):
    mesh = make_mesh(parse_mesh(words))
    found = streaming.import_folder(exported, mesh=mesh)
    assert_equal(found.params, model[1])
    assert_placed(found.params, mesh)

  def test_no_more_than_a_part_is_read_at_once(
    self, model, exported, words, monkeypatch
  ):
    mesh = make_mesh(parse_mesh(words))
    watch = Watch(monkeypatch)
    found = streaming.import_folder(exported, mesh=mesh)
    parts = [
      leaf.addressable_shards[0].data.nbytes
      for leaf in jax.tree.leaves(found.params)
    ]
    assert watch.largest == max(parts)


class TestPartsOfAModel:
  def test_its_first_blocks(self, model, saved):
    mesh = make_mesh(parse_mesh('model=2,data=4'))
    found = streaming.load(saved, mesh=mesh, depth=2, dtype=jnp.bfloat16)
    assert found.config.exit_depths == (1, 2)
    expected = checkpoint_folder.load(saved, depth=2, dtype=jnp.bfloat16)
    assert_equal(found.params, expected.params)

  def test_kernels_in_int8(self, saved):
    mesh = make_mesh(parse_mesh('fsdp=2,model=2,stage=2'))
    mapped = streaming.map_checkpoint(saved)
    found = streaming.place_quantized(
      mapped.params, mesh=mesh, dtype=jnp.float32
    )
    whole = checkpoint_folder.load(saved).params
    expected = jax.jit(quantize_backbone)(whole)
    assert_equal(found, expected)
    assert_placed(found, mesh)

  @pytest.mark.parametrize('depth', [0, 5])
  def test_blocks_there_are_not(self, saved, depth):
    with pytest.raises(ArgumentError, match=f'cannot load {depth} blocks'):
      streaming.map_checkpoint(saved, depth=depth)


class TestMapping:
  def test_leaves_are_views_of_their_files(self, saved):
    mapped = streaming.map_checkpoint(saved)
    leaf = mapped.params['backbone']['blocks'][3]['mlp']['up']['kernel']
    assert not leaf.flags.owndata and not leaf.flags.writeable

  def test_a_leaf_that_is_cut_up_is_read(self, saved, monkeypatch):
    monkeypatch.setattr('eejax.checkpoint.arrays._view', lambda *_: None)
    mesh = make_mesh(parse_mesh('fsdp=8'))
    found = streaming.load(saved, mesh=mesh)
    assert_equal(found.params, checkpoint_folder.load(saved).params)

  def test_a_file_cut_short(self, saved, tmp_path):
    broken = shutil.copytree(saved, tmp_path / 'broken')
    file = broken / 'backbone/blocks/001/mlp.up.kernel/0.0'
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match='bytes, not'):
      streaming.map_checkpoint(broken)


class TestSavingWhatLiesOnAMesh:
  def test_it_is_whole_again(self, model, tmp_path):
    mesh = make_mesh(parse_mesh('fsdp=2,model=2,stage=2'))
    config, params = model
    placed = jax.device_put(params, sharding.shardings(params, mesh=mesh))
    path = tmp_path / 'model'
    checkpoint_folder.save(path, Model(config=config, params=placed))
    assert_equal(checkpoint_folder.load(path).params, params)
