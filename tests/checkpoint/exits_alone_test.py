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
"""Test exits by themselves, with a stand-in of the Hugging Face hub."""

import dataclasses
import shutil
import types

import huggingface_hub
import jax
import numpy as np
import pytest
import yaml

import eejax
from eejax.checkpoint import exits_alone
from eejax.checkpoint.model import Model
from eejax.errors import ArgumentError, CheckpointError
from eejax.models.stacking import stack
from eejax.testing import tiny

EXITS = '1:norm,2:mlp:untied:gate,3:bottleneck_mlp(5)'


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config(EXITS)
  return Model(config, tiny.tiny_params(config))


def without_exits(model):
  return dataclasses.replace(
    model,
    config=model.config.with_exits(()),
    params={**model.params, 'exits': {}},
  )


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture
def hub(tmp_path, monkeypatch):
  """Return the folder of a hub whose repositories are folders."""
  top = tmp_path / 'hub'

  class Api:
    def create_repo(self, name, *, private, exist_ok):
      assert exist_ok
      (top / name).mkdir(parents=True, exist_ok=True)
      (top / 'private').write_text(str(private))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
      shutil.copytree(folder_path, top / repo_id, dirs_exist_ok=True)
      (top / 'message').write_text(commit_message)
      return types.SimpleNamespace(commit_url=f'https://hub/{repo_id}')

  def download(name, *, allow_patterns, ignore_patterns):
    assert '*.safetensors' in allow_patterns
    return str(top / name)

  monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  return top


def test_pushed_exits_come_back(model, hub):
  address = eejax.push_exits(model, 'lab/exits', private=True)
  assert address == 'https://hub/lab/exits'
  assert (hub / 'private').read_text() == 'True'
  files = {p.name for p in (hub / 'lab' / 'exits').iterdir()}
  assert files == {'README.md', 'exits.json', 'exits.safetensors'}
  found = eejax.pull_exits(without_exits(model), 'lab/exits')
  assert found.config == model.config
  assert_same(found.params, model.params)


def test_a_folder_does_without_the_hub(model, tmp_path):
  exits_alone.save_exits(model, tmp_path / 'exits')
  found = eejax.pull_exits(without_exits(model), tmp_path / 'exits')
  assert_same(found.params['exits'], model.params['exits'])
  with pytest.raises(ArgumentError, match='not empty'):
    exits_alone.save_exits(model, tmp_path / 'exits')


def test_exits_of_another_backbone_are_refused(model, tmp_path):
  exits_alone.save_exits(model, tmp_path / 'exits')
  other = Model(model.config, tiny.tiny_params(model.config, seed=1))
  with pytest.raises(CheckpointError, match='another backbone'):
    eejax.pull_exits(without_exits(other), tmp_path / 'exits')


def test_what_cannot_be_pushed_or_pulled(model, tmp_path):
  with pytest.raises(ArgumentError, match='no exits; add some'):
    eejax.push_exits(without_exits(model), 'lab/exits')
  with pytest.raises(ArgumentError, match='ORGANISATION/NAME'):
    eejax.push_exits(model, 'exits')
  with pytest.raises(ArgumentError, match='no exits at'):
    eejax.pull_exits(model, tmp_path)


def test_a_hub_that_refuses_is_said(model, monkeypatch):
  class Api:
    def create_repo(self, *arguments, **more):
      raise ConnectionError('secret')

  monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
  with pytest.raises(CheckpointError, match='hf auth login') as raised:
    eejax.push_exits(model, 'lab/exits')
  assert 'secret' not in str(raised.value)


# MARK: The card


def card_of(model, **provenance):
  made = dataclasses.replace(model, provenance=provenance)
  text = exits_alone.model_card(made, backbone_hash='abc')
  _, front, body = text.split('---\n', 2)
  return yaml.safe_load(front), body


def test_a_card_says_what_the_exits_are(model):
  front, body = card_of(
    model, source='lab/base', huggingface={}, tune={'steps': 300}
  )
  assert front['library_name'] == 'eejax'
  assert front['base_model'] == 'lab/base'
  assert 'Tuned for 300 steps' in body
  assert '`abc`' in body
  rows = [line for line in body.splitlines() if line.startswith('| ')][1:]
  assert rows[0] == '| 1 | norm | shared | none | 16 |'
  assert [row.split(' | ')[0] for row in rows] == ['| 1', '| 2', '| 3']
  assert 'bottleneck_mlp(5)' in rows[2]


def test_a_card_names_no_file_of_this_machine(model, tmp_path):
  front, body = card_of(model, source=str(tmp_path), huggingface={})
  assert 'base_model' not in front
  assert str(tmp_path) not in body


# MARK: A draft model


@pytest.mark.parametrize(
  'exit', ['2:norm', '2:mlp:untied', '4:block', '3:norm:tied_embedding']
)
@pytest.mark.parametrize('tied', [False, True], ids=['own_head', 'tied'])
def test_a_draft_model_says_what_the_exit_says(exit, tied):
  config = tiny.tiny_config(exit, tied_head=tied)
  model = Model(config, tiny.tiny_params(config))
  depth = config.exits[0].depth
  draft = eejax.draft_model(model, depth)
  tokens = tiny.tiny_tokens(config)
  expected = eejax.logits(model.params, tokens, config=config)[f'exit_{depth}']
  backbone = draft.params['backbone']
  stacked = {**backbone, 'blocks': stack(backbone['blocks'])}
  params = {'backbone': stacked, 'exits': {}}
  found = eejax.logits(params, tokens, config=draft.config)['final']
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_draft_model_is_a_hugging_face_folder(tmp_path):
  config = tiny.tiny_config('2:mlp:untied', tied_head=True)
  model = Model(config, tiny.tiny_params(config))
  eejax.export_folder(eejax.draft_model(model, 2), tmp_path / 'draft')
  found = eejax.import_folder(tmp_path / 'draft')
  assert found.config.model.num_layers == 2
  assert not found.config.model.tied_head
  block = jax.tree.map(lambda x: x[1], found.params['backbone']['blocks'])
  twin = model.params['exits']['exit_2']['mlp']
  assert_same(block['mlp'], twin)


@pytest.mark.parametrize(
  'exit, depth, sentence',
  [
    ('2:norm', 3, 'no exit at depth 3; it has 2'),
    ('2:bottleneck_mlp(4)', 2, 'bottleneck_mlp exit is no model'),
    ('2:embedding', 2, 'embedding exit is no model'),
    ('0:norm', 0, 'depth 0 has no block'),
  ],
)
def test_exits_that_are_no_model(exit, depth, sentence):
  config = tiny.tiny_config(exit)
  model = Model(config, {'backbone': {}, 'exits': {config.exits[0].name: {}}})
  with pytest.raises(ArgumentError, match=sentence):
    eejax.draft_model(model, depth)
