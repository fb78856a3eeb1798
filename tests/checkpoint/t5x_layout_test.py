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
"""Test checkpoints of t5x: Orbax trees as it writes them, without t5x."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from eejax.checkpoint import folder, t5x_layout
from eejax.checkpoint.atomic import Existing
from eejax.checkpoint.load import load
from eejax.checkpoint.model import Model
from eejax.checkpoint.tree import Layout
from eejax.cli import main
from eejax.errors import ArgumentError, CheckpointError
from eejax.testing import tiny


@pytest.fixture(scope='module')
def model():
  config = tiny.tiny_config(tiny.EVERY_KIND_OF_EXIT)
  params = tiny.tiny_params(config)
  # Bits that arithmetic would not keep.
  gain = params['backbone']['final_norm']['scale']
  params['backbone']['final_norm']['scale'] = gain.at[0].set(-0.0)
  return Model(config, params)


@pytest.fixture(scope='module')
def run(model, tmp_path_factory):
  path = tmp_path_factory.mktemp('t5x') / 'run'
  t5x_layout.save(model, path, step=3)
  return path


def write_as_t5x(path, target, *, step=7):
  """Write what t5x's train writes: Orbax with its defaults, an optimizer."""
  zeros = jax.tree.map(jnp.zeros_like, target)
  state = {
    'target': target,
    'state': {
      'step': jnp.int32(step),
      'param_states': {'0': {'mu': zeros, 'count': jnp.int32(step)}},
    },
  }
  with ocp.PyTreeCheckpointer() as checkpointer:
    checkpointer.save(path / f'checkpoint_{step}' / 'state', state)
  return path / f'checkpoint_{step}'


def assert_same_bits(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)

  def same(a, b):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

  jax.tree.map(same, one, other)


def test_there_and_back_no_bit_changes(model, run):
  again = load(run / 'checkpoint_3')
  assert again.config == model.config
  assert_same_bits(again.params, model.params)
  assert again.provenance['t5x']['checkpoint'] == 'checkpoint_3'


def test_a_path_may_begin_here(model, run, monkeypatch):
  monkeypatch.chdir(run.parent)
  assert_same_bits(load('run/checkpoint_3').params, model.params)


def test_what_t5x_wrote_becomes_a_model(model, run, tmp_path):
  target = {
    'backbone': model.params['backbone'],
    'exits': {k: v for k, v in model.params['exits'].items() if v},
  }
  checkpoint = write_as_t5x(tmp_path, target)
  shutil.copytree(run / 'eejax_model', tmp_path / 'eejax_model')
  for source in (checkpoint, checkpoint / 'state', tmp_path):
    assert_same_bits(load(source).params, model.params)


def test_what_is_written_has_the_layout_of_t5x(model, run):
  with ocp.PyTreeCheckpointer() as checkpointer:
    state = checkpointer.restore(run / 'checkpoint_3' / 'state')
  assert set(state) == {'target', 'state'}
  assert state['state']['step'] == 3
  assert_same_bits(state['target']['backbone'], model.params['backbone'])
  # t5x restores no empty nodes, and an exit may have no parameters.
  assert 'exit_0' not in state['target']['exits']


def test_of_a_run_the_newest_checkpoint_is_read(model, tmp_path):
  t5x_layout.save(model, tmp_path / 'run', step=3)
  table = model.params['backbone']['embedding']['table']
  newer = {
    **model.params['backbone'],
    'embedding': {'table': table + 1},
  }
  exits = {k: v for k, v in model.params['exits'].items() if v}
  write_as_t5x(tmp_path / 'run', {'backbone': newer, 'exits': exits}, step=20)
  # One that was being written when the run ended.
  (tmp_path / 'run' / 'checkpoint_30').mkdir()
  found = load(tmp_path / 'run').params['backbone']['embedding']['table']
  np.testing.assert_array_equal(found, table + 1)


def test_blocks_may_be_apart(model, run, tmp_path):
  apart = t5x_layout.load(run, layout=Layout.UNSTACKED)
  assert len(apart.params['backbone']['blocks']) == 4
  t5x_layout.save(apart, tmp_path / 'again')
  assert_same_bits(load(tmp_path / 'again').params, model.params)


def test_the_dtype_stays_or_is_converted(run, model, tmp_path):
  half = load(run, dtype='bfloat16')
  t5x_layout.save(half, tmp_path / 'half')
  again = load(tmp_path / 'half')
  assert_same_bits(again.params, half.params)


class TestRefusals:
  def test_nothing_says_what_it_is(self, model, tmp_path):
    checkpoint = write_as_t5x(tmp_path, {'backbone': model.params['backbone']})
    with pytest.raises(ArgumentError, match='nothing says what model'):
      load(checkpoint)
    bare = model.config.with_exits(())
    found = t5x_layout.load(checkpoint, config=bare)
    assert_same_bits(found.params['backbone'], model.params['backbone'])

  def test_another_model_is_described(self, model, tmp_path):
    checkpoint = write_as_t5x(tmp_path, {'backbone': model.params['backbone']})
    other = tiny.tiny_config('', mlp_dim=24)
    with pytest.raises(CheckpointError, match='mlp/.*has shape'):
      t5x_layout.load(checkpoint, config=other)

  def test_an_array_is_missing(self, model, run, tmp_path):
    backbone = dict(model.params['backbone'])
    del backbone['final_norm']
    checkpoint = write_as_t5x(tmp_path, {'backbone': backbone})
    with pytest.raises(CheckpointError, match='lacks the array final_norm'):
      t5x_layout.load(checkpoint, config=model.config.with_exits(()))

  def test_a_file_is_cut_short(self, run, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    state = tmp_path / 'run' / 'checkpoint_3' / 'state'
    data = max(state.rglob('d/*'), key=lambda p: p.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(CheckpointError, match='is broken'):
      load(tmp_path / 'run')

  def test_a_description_is_broken(self, run, tmp_path):
    shutil.copytree(run, tmp_path / 'run')
    (tmp_path / 'run' / 'eejax_model' / 'model.json').write_text('{')
    with pytest.raises(CheckpointError, match='model.json is broken'):
      load(tmp_path / 'run')

  def test_the_format_before_orbax(self, tmp_path):
    old = tmp_path / 'checkpoint_5'
    old.mkdir()
    (old / 'checkpoint').write_bytes(b'')
    with pytest.raises(ArgumentError, match='format before Orbax'):
      load(old)

  def test_a_folder_that_is_occupied(self, model, run):
    with pytest.raises(ArgumentError, match='is not empty'):
      t5x_layout.save(model, run)


def test_an_earlier_export_may_be_replaced(model, tmp_path):
  t5x_layout.save(model, tmp_path / 'run', step=1)
  t5x_layout.save(model, tmp_path / 'run', existing=Existing.OVERWRITE)
  assert (tmp_path / 'run' / 'checkpoint_0').is_dir()
  assert not (tmp_path / 'run' / 'checkpoint_1').exists()


def test_verbs_go_there_and_back(model, tmp_path, capsys):
  folder.save(tmp_path / 'own', model)
  export = ['export', str(tmp_path / 'own'), str(tmp_path / 'run')]
  assert main.main([*export, '--format', 't5x', '--quiet']) == 0
  source = str(tmp_path / 'run' / 'checkpoint_0')
  again = ['import', source, str(tmp_path / 'again'), '--json']
  capsys.readouterr()
  assert main.main(again) == 0
  report = json.loads(capsys.readouterr().out)
  assert report['exit_depths'] == [0, 1, 2, 3, 4]
  assert_same_bits(folder.load(tmp_path / 'again').params, model.params)


def test_a_configuration_is_for_checkpoints_that_say_nothing(tmp_path, capsys):
  config = tiny.tiny_config('')
  folder.save(tmp_path / 'own', Model(config, tiny.tiny_params(config)))
  words = ['import', str(tmp_path / 'own'), str(tmp_path / 'to')]
  assert main.main([*words, '--config', 'llama_3_8b']) == 2
  assert 'leave out --config' in capsys.readouterr().err
