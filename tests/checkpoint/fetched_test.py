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
"""Test models of other programs that lie in a store."""

import collections
import pathlib
import shutil

import jax
import numpy as np
import pytest

from eejax import storage, store_folder
from eejax.checkpoint import fetched, folder, huggingface
from eejax.checkpoint.load import load, map_source
from eejax.checkpoint.model import Model
from eejax.cli import main
from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError, CheckpointError, StoreError
from eejax.testing import tiny

pytestmark = pytest.mark.store


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))


@pytest.fixture(scope='module')
def model():
  config = EarlyExitConfig(tiny.tiny_model_config())
  return Model(config, tiny.tiny_params(config))


@pytest.fixture
def address(model, bucket, tmp_path):
  """Return the address of a Hugging Face folder, with what nobody reads."""
  huggingface.export_folder(model, tmp_path / 'model')
  (tmp_path / 'model/pytorch_model.bin').write_bytes(b'the same again')
  store_folder.copy(tmp_path / 'model', storage.as_path(f'{bucket}/model'))
  shutil.rmtree(tmp_path / 'model')
  return f'{bucket}/model'


@pytest.fixture
def copied(monkeypatch):
  """Return how often each file was fetched."""
  counts = collections.Counter()
  copy_file = store_folder.copy_file

  def counting(source, dest):
    counts[source.name] += 1
    copy_file(source, dest)

  monkeypatch.setattr(store_folder, 'copy_file', counting)
  return counts


def assert_same(found, model):
  jax.tree.map(np.testing.assert_array_equal, found.params, model.params)


def test_a_huggingface_folder_is_read(address, model, copied):
  assert_same(load(address), model)
  assert copied['model.safetensors'] == copied['config.json'] == 1
  assert copied['pytorch_model.bin'] == 0


def test_it_is_fetched_once_and_again_when_it_has_changed(
  address, model, copied
):
  load(address)
  map_source(address)
  assert copied['model.safetensors'] == 1
  other = jax.tree.map(lambda leaf: 2 * leaf, model.params)
  local = fetched.local_copy(address)
  shutil.rmtree(local)
  huggingface.export_folder(Model(model.config, other), local)
  for name in ('model.safetensors', 'config.json'):
    store_folder.copy_file(local / name, storage.as_path(address) / name)
  copied.clear()
  assert_same(load(address), Model(model.config, other))
  assert copied['model.safetensors'] == 1


def test_what_was_cut_off_goes_on(address, model, copied):
  local = pathlib.Path(fetched.local_copy(address))
  (local / 'model.safetensors').unlink()
  copied.clear()
  assert_same(load(address), model)
  assert dict(copied) == {'model.safetensors': 1}


def test_a_checkpoint_of_eejax_stays_where_it_is(model, bucket, tmp_path):
  address = f'{bucket}/own'
  folder.save(address, model)
  assert fetched.local_copy(address) == address


def test_the_verb_imports_from_a_store_into_a_store(address, bucket, model):
  assert main.main(['import', address, f'{bucket}/imported']) == 0
  assert_same(load(f'{bucket}/imported'), model)


def test_nothing_there(bucket):
  with pytest.raises(ArgumentError, match='there is nothing at gs://'):
    load(f'{bucket}/nothing')


def test_no_such_bucket(store):
  with pytest.raises((ArgumentError, StoreError), match='gs://no-such'):
    load('gs://no-such/model')


def test_no_room(address, monkeypatch):
  usage = collections.namedtuple('usage', 'total used free')
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage(1, 1, 0))
  with pytest.raises(CheckpointError, match='make room'):
    load(address)
