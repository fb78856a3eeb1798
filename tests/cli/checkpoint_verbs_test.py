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
"""Tests of `eejax import`, `export` and `add-exits`."""

import json
import shutil

import jax
import numpy as np
import pytest

from eejax.checkpoint import exits_alone, folder, huggingface
from eejax.checkpoint.model import Model
from eejax.cli import main
from eejax.testing import tiny


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """Return a Hugging Face folder."""
  path = tmp_path_factory.mktemp('source') / 'model'
  config = tiny.tiny_config('')
  checkpoint = Model(config, tiny.tiny_params(config))
  huggingface.export_folder(checkpoint, path)
  return path


@pytest.fixture(scope='module')
def imported(source, tmp_path_factory):
  path = tmp_path_factory.mktemp('imported') / 'model'
  assert main.main(['import', str(source), str(path), '--quiet']) == 0
  return path


def run(capsys, *argv):
  """Run a verb with `--json` and return its object."""
  code = main.main([*map(str, argv), '--json'])
  out, err = capsys.readouterr()
  assert code == 0, err
  return json.loads(out)


def refused(capsys, *argv):
  """Run a verb that fails and return its code and sentence."""
  code = main.main([*map(str, argv)])
  out, err = capsys.readouterr()
  assert out == ''
  assert err.count('\n') == 1
  return code, err


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_import_reports_what_it_made(capsys, source, tmp_path):
  result = run(capsys, 'import', source, tmp_path / 'a')
  loaded = folder.load(tmp_path / 'a')
  leaves = jax.tree.leaves(loaded.params)
  assert result['source'] == str(source)
  assert result['path'] == str(tmp_path / 'a')
  assert result['config']['model']['family'] == 'llama'
  assert result['parameters'] == {
    'backbone': sum(leaf.size for leaf in leaves),
    'exits': 0,
  }
  assert result['bytes'] >= sum(leaf.nbytes for leaf in leaves)
  assert result['backbone_hash'] == folder.backbone_hash(loaded.params)
  assert result['dtypes'] == ['float32']
  assert result['seconds'] > 0


def test_import_converts(capsys, source, tmp_path):
  result = run(capsys, 'import', source, tmp_path / 'a', '--dtype', 'bfloat16')
  assert result['dtypes'] == ['bfloat16']
  loaded = folder.load(tmp_path / 'a')
  expected = huggingface.import_folder(source, dtype='bfloat16')
  assert_same(loaded.params, expected.params)


def test_people_are_told_as_well(capsys, source, tmp_path):
  assert main.main(['import', str(source), str(tmp_path / 'a')]) == 0
  out, _ = capsys.readouterr()
  assert 'llama, 4 blocks, 16 wide, 29 tokens' in out
  assert 'no exits yet' in out
  argv = ['add-exits', str(tmp_path / 'a'), str(tmp_path / 'b')]
  assert main.main([*argv, '--exits', '1:norm:gate,2:mlp']) == 0
  out, _ = capsys.readouterr()
  assert 'exits at depth 1 (norm, gate), 2 (mlp)' in out


def test_the_whole_way_round(capsys, source, imported, tmp_path):
  run(
    capsys,
    *('add-exits', imported, tmp_path / 'b'),
    *('--exits', '1:norm:gate,2:mlp:untied,3:block'),
  )
  result = run(capsys, 'export', tmp_path / 'b', tmp_path / 'hf')
  assert result['exit_depths'] == [1, 2, 3]
  for name in ('config.json', 'model.safetensors'):
    assert (tmp_path / 'hf' / name).read_bytes() == (source / name).read_bytes()
  run(capsys, 'import', tmp_path / 'hf', tmp_path / 'c')
  first, second = folder.load(tmp_path / 'b'), folder.load(tmp_path / 'c')
  assert first.config == second.config
  assert first.backbone_hash == second.backbone_hash
  assert_same(first.params, second.params)


def test_export_into_several_files(capsys, imported, tmp_path):
  run(capsys, 'export', imported, tmp_path / 'hf', '--shard-gb', '0.00001')
  assert len(list((tmp_path / 'hf').glob('model-*.safetensors'))) > 1


def test_exits_are_extended_and_dropped(capsys, imported, tmp_path):
  a, b, c = tmp_path / 'a', tmp_path / 'b', tmp_path / 'c'
  run(capsys, 'add-exits', imported, a, '--exits', '1:mlp,3:norm')
  result = run(capsys, 'add-exits', a, b, '--exits', '2:norm', '--drop', '3')
  assert result['exit_depths'] == [1, 2]
  # An exit of another kind takes a dropped one's place.
  result = run(capsys, 'add-exits', b, c, '--exits', '2:mlp', '--drop', '2')
  assert [e['head'] for e in result['config']['exits']] == ['mlp', 'mlp']
  first, third = folder.load(a), folder.load(c)
  assert_same(first.params['backbone'], third.params['backbone'])
  assert_same(first.params['exits']['exit_1'], third.params['exits']['exit_1'])


def test_random_exits_follow_the_seed(capsys, imported, tmp_path):
  kernels = []
  for i, options in enumerate(
    [('--seed', '1'), ('--seed', '1'), ('--seed', '2')]
  ):
    path = tmp_path / str(i)
    argv = ('--exits', '2:mlp', '--init', 'random', *options)
    run(capsys, 'add-exits', imported, path, *argv)
    exit = folder.load(path).params['exits']['exit_2']
    kernels.append(np.asarray(exit['mlp']['up']['kernel']))
  np.testing.assert_array_equal(kernels[0], kernels[1])
  assert (kernels[0] != kernels[2]).any()


def test_a_checkpoint_is_changed_in_place(capsys, imported, tmp_path):
  copy = shutil.copytree(imported, tmp_path / 'copy')
  argv = ('add-exits', copy, copy, '--exits', '2:norm')
  code, words = refused(capsys, *argv)
  assert code == 2 and 'not empty' in words
  result = run(capsys, *argv, '--overwrite')
  assert result['exit_depths'] == [2]
  assert folder.load(copy).config.exit_depths == (2,)
  assert [p.name for p in tmp_path.iterdir()] == ['copy']


@pytest.mark.parametrize(
  ('argv', 'code', 'words'),
  [
    (['import', 'nowhere', 'DEST'], 2, 'there is no folder nowhere'),
    (['import', 'CKPT', 'DEST'], 2, 'no config.json'),
    (['import', 'SRC', 'DEST', '--dtype', 'int8'], 2, '--dtype'),
    (['import', 'SRC', 'CKPT'], 2, 'not empty'),
    (['import', 'SRC', 'SRC', '--overwrite'], 2, 'eejax.json'),
    (['export', 'nowhere', 'DEST'], 2, 'no eejax checkpoint'),
    (['export', 'SRC', 'DEST'], 2, 'eejax import'),
    (['export', 'CKPT', 'SRC'], 2, 'not empty'),
    (['export', 'CKPT', 'DEST', '--shard-gb', '0'], 2, '--shard-gb'),
    (['add-exits', 'CKPT', 'DEST'], 2, '--exits'),
    (['add-exits', 'CKPT', 'DEST', '--exits', '9:norm'], 2, 'beyond'),
    (['add-exits', 'CKPT', 'DEST', '--exits', '1:norm,1:mlp'], 2, 'depth 1'),
    (['add-exits', 'CKPT', 'DEST', '--exits', '1:tree'], 2, "'tree'"),
    (['add-exits', 'CKPT', 'DEST', '--drop', '1'], 2, 'no exit at depth 1'),
    (['add-exits', 'CKPT', 'DEST', '--drop', 'x'], 2, "'x' is not the depth"),
  ],
)
def test_wrong_arguments(capsys, source, imported, tmp_path, argv, code, words):
  names = {'SRC': source, 'CKPT': imported, 'DEST': tmp_path / 'dest'}
  found = refused(capsys, *[names.get(word, word) for word in argv])
  assert found[0] == code
  assert words in found[1]
  assert not (tmp_path / 'dest').exists()


@pytest.mark.parametrize('verb', ['import', 'export', 'add-exits'])
def test_help_has_an_example(capsys, verb):
  assert main.main([verb, '--help']) == 0
  assert f'eejax {verb} ' in capsys.readouterr().out.split('example:')[1]


# MARK: Other programs


@pytest.mark.parametrize('layout', ['maxtext', 'gemma'])
def test_other_layouts_there_and_back(capsys, layout, tmp_path):
  config = tiny.tiny_config('1:norm', tied_head=True, head_dim=16)
  folder.save(tmp_path / 'a', Model(config, tiny.tiny_params(config)))
  there = ('export', tmp_path / 'a', tmp_path / 'b', '--format', layout)
  assert run(capsys, *there)['exit_depths'] == [1]
  result = run(
    capsys, 'import', tmp_path / 'b', tmp_path / 'c', '--format', layout
  )
  before = folder.read_manifest(tmp_path / 'a')
  assert result['backbone_hash'] == before.backbone_hash
  assert_same(
    folder.load(tmp_path / 'c').params, folder.load(tmp_path / 'a').params
  )


def test_exits_travel_alone(capsys, source, imported, tmp_path):
  run(
    capsys,
    *('add-exits', imported, tmp_path / 'a', '--exits', '1:norm,2:mlp:untied'),
  )
  run(capsys, 'export', tmp_path / 'a', tmp_path / 'exits', '--exits-only')
  files = {p.name for p in (tmp_path / 'exits').iterdir()}
  assert files == {'README.md', 'exits.json', 'exits.safetensors'}
  run(
    capsys,
    *('import', source, tmp_path / 'b', '--exits', tmp_path / 'exits'),
  )
  assert_same(
    folder.load(tmp_path / 'b').params, folder.load(tmp_path / 'a').params
  )


def test_an_exit_becomes_a_draft_model(capsys, imported, tmp_path):
  run(capsys, 'add-exits', imported, tmp_path / 'a', '--exits', '2:mlp:untied')
  run(capsys, 'export', tmp_path / 'a', tmp_path / 'draft', '--draft', 2)
  found = huggingface.import_folder(tmp_path / 'draft')
  assert found.config.model.num_layers == 2
  assert not found.config.exits


def test_exits_go_to_the_hub(capsys, imported, tmp_path, monkeypatch):
  run(capsys, 'add-exits', imported, tmp_path / 'a', '--exits', '1:norm')
  pushed = []

  def push(model, name, *, private):
    pushed.append((model.config.exit_depths, name, private))
    return 'https://hub/commit'

  monkeypatch.setattr(exits_alone, 'push_exits', push)
  result = run(
    capsys, 'export', tmp_path / 'a', '--hub', 'lab/exits', '--private'
  )
  assert pushed == [((1,), 'lab/exits', True)]
  assert result['path'] == 'https://hub/commit'


@pytest.mark.parametrize(
  'more, sentence',
  [
    ([], 'name the folder DEST'),
    (['b', '--hub', 'lab/exits'], 'name the folder DEST'),
    (['--hub', 'lab/exits', '--draft', '1'], '--draft makes a folder'),
    (['b', '--exits-only', '--draft', '1'], '--draft makes a folder'),
  ],
)
def test_exports_that_contradict_themselves(capsys, imported, more, sentence):
  code, err = refused(capsys, 'export', imported, *more)
  assert code == 2
  assert sentence in err
