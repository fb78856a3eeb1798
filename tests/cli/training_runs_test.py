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
"""Test `eejax pretrain` and `eejax tune` from end to end."""

import json
import shutil

import jax
import numpy as np
import pytest

from eejax.checkpoint import folder as checkpoint_folder
from eejax.cli import main
from eejax.cli.gin import analyse_configurables, training
from eejax.data.corpus import TextUnit
from eejax.errors import EejaxError
from eejax.training import metrics

TEXT = 'the cat sat on the mat and the dog sat on the log\n\n'
TINY = [
  '--gin.ModelConfig.vocab_size=300',
  '--gin.ModelConfig.num_layers=3',
  '--gin.ModelConfig.embed_dim=16',
  '--gin.ModelConfig.num_heads=2',
  '--gin.ModelConfig.num_kv_heads=1',
  '--gin.ModelConfig.head_dim=8',
  '--gin.ModelConfig.mlp_dim=24',
  '--gin.ModelConfig.max_length=32',
]
SHORT = [
  '--steps',
  '4',
  '--batch-size',
  '2',
  '--sequence-length',
  '16',
  '--gin.LoopConfig.log_every=1',
  '--gin.LoopConfig.eval_every=2',
  '--gin.LoopConfig.save_every=2',
]


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  file = tmp_path_factory.mktemp('data') / 'text.txt'
  file.write_text(''.join(f'{i} {TEXT}' for i in range(60)))
  return file


def paragraphs(verb, text):
  return [
    '--data',
    str(text),
    '--gin.DataConfig.unit=%TextUnit.PARAGRAPH',
    f'--gin.{verb}.held_out_batches=1',
  ]


def pretrain(run, text, *more):
  return main.main(
    ['pretrain', *TINY, *SHORT, *paragraphs('pretrain', text)]
    + ['--exits', '1:norm,2:mlp', '--run', str(run), '--json', *more]
  )


def tune(run, checkpoint, text, *more):
  return main.main(
    ['tune', '--checkpoint', str(checkpoint), '--run', str(run)]
    + [*SHORT, *paragraphs('tune', text), '--json', *more]
  )


@pytest.fixture(scope='module')
def pretrained(text, tmp_path_factory):
  run = tmp_path_factory.mktemp('pretrain')
  assert pretrain(run, text) == 0
  return run


@pytest.fixture(scope='module')
def tuned(pretrained, text, tmp_path_factory):
  run = tmp_path_factory.mktemp('tune')
  assert tune(run, pretrained / 'model', text) == 0
  return run


def backbone_files(model):
  files = sorted((model / 'backbone').rglob('*'))
  return {f.relative_to(model): f.read_bytes() for f in files if f.is_file()}


def assert_equal_trees(first, second):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  jax.tree.map(np.testing.assert_array_equal, first, second)


class TestPretrain:
  def test_the_result_is_a_checkpoint(self, pretrained):
    loaded = checkpoint_folder.load(pretrained / 'model')
    assert loaded.config.exit_depths == (1, 2)
    assert loaded.config.model.bos_id is not None
    assert loaded.tokenizer_folder is not None
    assert loaded.provenance['pretrain']['steps'] == 4

  def test_everything_is_in_the_run_folder(self, pretrained):
    names = {p.name for p in pretrained.iterdir()}
    assert {
      'config.json',
      'operative_config.gin',
      'metrics.jsonl',
      'tensorboard',
      'checkpoints',
      'tokenizer',
      'model',
    } <= names
    steps = [
      r['step']
      for r in metrics.read_records(pretrained)
      if r['kind'] == metrics.TRAIN
    ]
    assert steps == [1, 2, 3, 4]

  def test_the_same_command_again_changes_nothing(
    self, pretrained, text, capsys
  ):
    before = (pretrained / 'metrics.jsonl').read_bytes()
    assert pretrain(pretrained, text) == 0
    assert (pretrained / 'metrics.jsonl').read_bytes() == before
    result = json.loads(capsys.readouterr().out)
    assert result['steps'] == 4
    assert result['held_out']['exit_2/loss'] > 0

  def test_another_configuration_is_refused(self, pretrained, text, capsys):
    before = (pretrained / 'metrics.jsonl').read_bytes()
    more = ['--learning-rate', '0.5', '--seed', '7']
    assert pretrain(pretrained, text, *more) == 2
    complaint = capsys.readouterr().err
    assert 'learning_rate.peak was 0.002 and is now 0.5' in complaint
    assert 'step.seed was 0 and is now 7' in complaint
    assert (pretrained / 'metrics.jsonl').read_bytes() == before

  def test_exits_may_be_dropped_at_the_end(self, text, tmp_path):
    more = '--gin.pretrain.kept_exits=%KeptExits.NONE'
    assert pretrain(tmp_path, text, more) == 0
    assert checkpoint_folder.read_config(tmp_path / 'model').exits == ()

  def test_a_checkpoint_is_trained_on(self, tuned, text, tmp_path, capsys):
    """It starts from the checkpoint's weights, with one exit more."""
    source = tuned / 'model'
    more = ['--checkpoint', str(source), '--exits', '0:norm', '--steps', '2']
    more += ['--learning-rate', '0']
    assert pretrain(tmp_path, text, *more) == 0
    before = checkpoint_folder.load(source)
    after = checkpoint_folder.load(tmp_path / 'model')
    assert after.config.exit_depths == (0, 1, 2)
    assert_equal_trees(before.params['backbone'], after.params['backbone'])
    for name in ('exit_1', 'exit_2'):
      assert_equal_trees(
        before.params['exits'][name], after.params['exits'][name]
      )

  def test_a_checkpoint_brings_its_tokenizer(
    self, tuned, text, tmp_path, capsys
  ):
    more = ['--checkpoint', str(tuned / 'model'), '--exits', '0:norm']
    more += ['--tokenizer', str(tuned / 'tokenizer')]
    assert pretrain(tmp_path / 'run', text, *more) == 2
    assert 'brings its own tokenizer' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()

  def test_the_operative_config_runs_again(self, pretrained, tmp_path):
    file = pretrained / 'operative_config.gin'
    run = tmp_path / 'again'
    argv = ['pretrain', f'--gin_file={file}', '--run', str(run), '--json']
    assert main.main(argv) == 0
    first, second = (
      [r for r in metrics.read_records(f) if r['kind'] != metrics.TIMING]
      for f in (pretrained, run)
    )
    assert first == second


class TestTune:
  def test_backbone_bytes_are_unchanged(self, pretrained, tuned):
    before = backbone_files(pretrained / 'model')
    assert before and backbone_files(tuned / 'model') == before
    hashes = [
      checkpoint_folder.read_manifest(run / 'model').backbone_hash
      for run in (pretrained, tuned)
    ]
    assert hashes[0] == hashes[1]

  def test_exits_are_changed(self, pretrained, tuned):
    before = checkpoint_folder.load(pretrained / 'model').params['exits']
    after = checkpoint_folder.load(tuned / 'model').params['exits']
    moved = np.abs(
      np.asarray(after['exit_2']['mlp']['up']['kernel'])
      - np.asarray(before['exit_2']['mlp']['up']['kernel'])
    )
    assert moved.max() > 0

  def test_the_result_is_whole(self, pretrained, tuned):
    model = checkpoint_folder.load(tuned / 'model')
    depth = model.params['backbone']['blocks']['mlp_norm']['scale'].shape[0]
    assert depth == 3
    assert model.tokenizer_folder is not None
    assert {'pretrain', 'tune'} <= set(model.provenance)

  def test_deeper_blocks_are_not_read(self, pretrained, text, tmp_path, capsys):
    model = tmp_path / 'model'
    shutil.copytree(pretrained / 'model', model)
    for file in (model / 'backbone' / 'blocks' / '002').rglob('*'):
      if file.is_file():
        file.write_bytes(b'')
    # Reading stops at the deepest exit; only the copy notices the damage.
    assert tune(tmp_path / 'run', model, text) == 2
    assert 'step 4' in capsys.readouterr().err
    distilled = ['--distillation', '0.5']
    assert tune(tmp_path / 'other', model, text, *distilled) == 2
    assert 'step' not in capsys.readouterr().err

  def test_distillation_measures_agreement(self, pretrained, text, tmp_path):
    more = ['--distillation', '1']
    assert tune(tmp_path, pretrained / 'model', text, *more) == 0
    last = metrics.last_held_out(tmp_path)
    assert 0 <= last['exit_1/agreement'] <= 1


class TestBadInput:
  def test_tuning_without_exits(self, text, tmp_path, capsys):
    more = '--gin.pretrain.kept_exits=%KeptExits.NONE'
    assert pretrain(tmp_path / 'a', text, more) == 0
    assert tune(tmp_path / 'b', tmp_path / 'a' / 'model', text) == 2
    assert 'has no exits to tune' in capsys.readouterr().err
    assert not (tmp_path / 'b').exists()

  @pytest.mark.parametrize(
    'argv, words',
    [
      (['tune', '--run', 'r'], 'CHECKPOINT must be given'),
      (['pretrain'], 'RUN must be given'),
      (['tune', '--checkpoint', 'nowhere', '--run', 'r'], 'nowhere'),
      (
        ['pretrain', '--run', 'r', '--sequence-length', '9999'],
        'longer than the',
      ),
      (
        ['pretrain', '--run', 'r', '--gin.REGIME=%Regime.TUNE'],
        'use eejax tune',
      ),
      (
        ['pretrain', '--run', 'r', '--gin.REGIME=%Regime.STANDARD'],
        'the standard regime has none',
      ),
      (['pretrain', '--run', 'r', '--exits', '99:norm'], 'beyond the model'),
      (['pretrain', '--run', 'r', '--exit-weights', '1,2,3'], '3 exit weights'),
      (
        ['pretrain', '--run', 'r', '--gin.MICROBATCHES=3'],
        'cannot be cut into 3',
      ),
      (['pretrain', '--run', 'r', '--gin.STEPZ=1'], 'STEPZ'),
      (['pretrain', '--run', 'r', '--steps', '0'], 'steps must be at least 1'),
    ],
  )
  def test_one_sentence_and_code_2(
    self, argv, words, text, tmp_path, monkeypatch, capsys
  ):
    monkeypatch.chdir(tmp_path)
    if argv[0] == 'pretrain':
      own = [] if '--exits' in argv else ['--exits', '1:norm,2:mlp']
      argv = [*argv, *TINY, *own, '--data', str(text)]
      if '--sequence-length' not in argv:
        argv += ['--sequence-length', '16']
    assert main.main(argv) == 2
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in complaint
    assert complaint[-1] in '.?'

  def test_nothing_can_be_held_out(self, pretrained, tmp_path, capsys):
    file = tmp_path / 'one.txt'
    file.write_text(TEXT * 3)
    code = main.main(
      ['tune', '--checkpoint', str(pretrained / 'model'), *SHORT]
      + ['--data', str(file), '--run', str(tmp_path / 'run')]
    )
    complaint = capsys.readouterr().err
    assert code == 2
    assert 'is empty' in complaint


class TestCachedActivations:
  def test_exits_learn_the_same_without_the_backbone(
    self, pretrained, tuned, text, tmp_path
  ):
    cache = tmp_path / 'cache'
    held = f"--gin.tune.activation_cache='{cache}'"
    for name in ('recorded', 'read'):
      run = tmp_path / name
      assert tune(run, pretrained / 'model', text, held) == 0
      expected = metrics.read_records(tuned)
      for found in metrics.read_records(run):
        other = expected.pop(0)
        assert found.pop('kind') == other.pop('kind')
        if 'tokens_per_s' not in found:
          assert found == pytest.approx(other, rel=1e-4, abs=1e-6)

  def test_other_data_are_refused(self, pretrained, text, tmp_path, capsys):
    cache = f"--gin.tune.activation_cache='{tmp_path / 'cache'}'"
    model = pretrained / 'model'
    more = ['--steps', '1', cache]
    assert tune(tmp_path / 'a', model, text, *more) == 0
    more += ['--sequence-length', '8']
    assert tune(tmp_path / 'b', model, text, *more) == 2
    assert 'are of another data' in capsys.readouterr().err


# MARK: Conversations


@pytest.mark.parametrize('verb', ['tune', 'pretrain', 'analyse'])
def test_conversations_take_the_place_of_a_text(
  verb, monkeypatch, tmp_path, capsys
):
  seen = []

  def look(model, data, **_):
    seen.append(data)
    raise EejaxError('seen.')

  recipes = {
    'tune': (training.tune_recipe, 'tune'),
    'pretrain': (training.pretrain_recipe, 'pretrain'),
    'analyse': (analyse_configurables.recipe, 'analyse'),
  }
  monkeypatch.setattr(*recipes[verb], look)
  talk = tmp_path / 'talk.jsonl'
  talk.write_text('[{"role": "user", "content": "a"}]')
  place = {'tune': ['--checkpoint', 'a'], 'analyse': ['a']}.get(verb, [])
  run = ['--out' if verb == 'analyse' else '--run', str(tmp_path / 'run')]
  words = [verb, *place, *run, '--conversations', str(talk)]
  assert main.main(words) == 1
  (data,) = seen
  source = data.source if verb == 'analyse' else data.corpus
  assert source == str(talk) and data.unit is TextUnit.CONVERSATION
  capsys.readouterr()
  assert main.main([*words, '--data', 'notes.txt']) == 2
  assert '--data and --conversations both name' in capsys.readouterr().err
