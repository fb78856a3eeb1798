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
"""Test eejax analyse from the command line, its mistakes and its resuming."""

import csv
import dataclasses
import html.parser
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eejax.analysis.sections import SectionSettings
from eejax.capture import file
from eejax.checkpoint import folder
from eejax.checkpoint.manager import RunCheckpoints
from eejax.checkpoint.model import Model
from eejax.cli import (
  analysing,
  analysing_capture,
  analysing_keys,
  main,
  probe_timing,
)
from eejax.data.tokenizer import train_bpe
from eejax.decoding.policy.policy import KVStrategy
from eejax.report import analysis_page
from eejax.stats.bootstrap import Bootstrap
from eejax.testing import tiny
from eejax.training import state

SHORT = ('--max-tokens', '96', '--sequence-length', '16')
QUICK = ('--gin.GENERATES=%Generates.NOTHING', '--gin.READS=%Reads.BLOCKS')


@pytest.fixture(scope='module', autouse=True)
def untimed():
  """Predict alone; what times the ways that should pay has its own tests."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(probe_timing, 'with_times', lambda found, *_, **__: found)
    yield


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Return a folder with models, a text and a run."""
  root = tmp_path_factory.mktemp('analyse')
  random = np.random.default_rng(0)
  words = ['alpha', 'beta', 'gamma', 'delta', 'epsilon']
  text = ' '.join(random.choice(words, 400))
  (root / 'notes.txt').write_text(text)
  tokenizer = train_bpe([text], vocab_size=300)
  tokenizer.save(root / 'tokenizer')
  config = tiny.tiny_config(
    '1:norm,3:norm:gate', vocab_size=300, bos_id=tokenizer.bos_id, max_length=64
  )
  params = tiny.tiny_params(config)
  broken = jax.tree.map(lambda x: x, params)
  broken['backbone']['final_norm']['scale'] *= jnp.nan
  for name, tree in (('model', params), ('nan', broken)):
    folder.save(
      root / name, Model(config, tree, tokenizer_folder=root / 'tokenizer')
    )
  _save_run(root, config.with_exits(()))
  return root


def _save_run(root, config):
  optimizer = optax.sgd(1e-3)
  with RunCheckpoints(root / 'run' / 'checkpoints') as checkpoints:
    for step in (1, 5):
      start = state.create(
        tiny.tiny_params(config, seed=step), optimizer=optimizer
      )
      checkpoints.save(step, start, {'data': {}})
  params = tiny.tiny_params(config, seed=5)
  model = Model(config, params, tokenizer_folder=root / 'tokenizer')
  folder.save(root / 'run' / 'model', model)


def run(capsys, place, out, *argv, model='model', data='notes.txt', expect=0):
  words = ['analyse', place / model, '--data', place / data, '--out', out]
  code = main.main([str(w) for w in (*words, *SHORT, *QUICK, *argv)])
  stdout, err = capsys.readouterr()
  assert code == expect, err
  return stdout, err


def manifest_file(place, *names):
  path = place / f'{"_".join(names) or "empty"}.json'
  models = [
    {'name': n, 'checkpoint': n, 'kind': 'dense', 'release': '2026-01'}
    for n in names
  ]
  data = [{'path': 'notes.txt'}]
  path.write_text(json.dumps({'models': models, 'data': data}))
  return path


@pytest.fixture(scope='module')
def whole(place):
  """Return the folder of an analysis of everything, and what it printed."""
  out = place / 'whole'
  manifest = manifest_file(place, 'model', 'missing')
  words = ['analyse', place / 'model', '--data', place / 'notes.txt']
  more = ['--out', out, '--manifest', manifest, '--training-run', place / 'run']
  text = ['--text', 'alpha beta gamma', QUICK[0]]
  argv = [str(w) for w in (*words, *SHORT, *more, *text)]
  assert main.main([*argv, '--quiet']) == 0
  return out, argv


class TestWhole:
  def test_every_file_is_there(self, whole):
    out, _ = whole
    values = json.loads((out / 'analysis.json').read_text())
    left_out = {'capture', *analysing._GENERATING}
    more = {'comparison', 'dynamics'}
    assert set(values['sections']) == set(analysing.TITLES) - left_out | more
    assert values['about']['num_layers'] == 4
    assert values['failures'] == {}
    for name in values['tables']:
      text = (out / 'tables' / f'{name}.csv').read_text()
      rows = list(csv.DictReader(text.splitlines()))
      assert rows, name
    page = (out / 'report.html').read_text()
    assert page == analysis_page.render(values)
    html.parser.HTMLParser().feed(page)
    assert '<svg' in page and 'grid-of-tokens' in page

  def test_the_text_that_was_given_is_shown(self, whole):
    grid = json.loads((whole[0] / 'analysis.json').read_text())['sections'][
      'grid'
    ]
    assert ''.join(grid['tokens'] + grid['targets'][-1:]) == 'alpha beta gamma'
    assert len(grid['readings'][0]) == 5

  def test_a_model_that_cannot_be_read_leaves_the_others(self, whole):
    out, _ = whole
    models = json.loads((out / 'analysis.json').read_text())['sections'][
      'comparison'
    ]['models']
    good, missing = models
    assert good['eas'] is not None and good['failures'] == []
    assert missing['eas'] is None
    assert 'missing on notes.txt: there is no' in missing['failures'][0]
    assert missing['failures'][0] in (out / 'report.html').read_text()
    assert json.loads((out / 'models' / 'model.json').read_text())['eas']

  def test_steps_of_the_run_are_compared(self, whole):
    steps = json.loads((whole[0] / 'analysis.json').read_text())['sections'][
      'dynamics'
    ]['steps']
    assert [s['step'] for s in steps] == [1, 5]

  def test_what_is_done_is_not_done_again(self, whole, capsys, monkeypatch):
    def never(*args, **kwargs):
      raise AssertionError('it was done again')

    monkeypatch.setattr(analysing, 'capture_text', never)
    monkeypatch.setattr(analysing.analysing_models, 'compare', never)
    before = json.loads((whole[0] / 'analysis.json').read_text())['sections']
    assert main.main([*whole[1], '--json']) == 0
    stdout, err = capsys.readouterr()
    assert err.count('done before') == 12
    assert json.loads(stdout)['failures'] == {}
    after = json.loads((whole[0] / 'analysis.json').read_text())['sections']
    assert after == before


class TestGenerating:
  """What a tiny model writes, from a capture of its own."""

  @pytest.fixture(scope='class')
  def given(self, place, whole):
    model = folder.load(place / 'model')
    return model, file.read(whole[0] / 'captured')

  def test_beginnings_are_of_the_text(self, given):
    _, captured = given
    prompts = analysing_capture.beginnings(captured, rows=3, tokens=5)
    assert len(prompts) == 3
    rows = np.unique(captured.row)
    for prompt, row in zip(prompts, rows[:: len(rows) // 3], strict=False):
      assert prompt == captured.token[captured.row == row][:5].tolist()

  def test_its_own_text_is_the_full_model_s(self, given):
    model, captured = given
    own = analysing_capture.capture_own_text(
      model, captured, dtype='float32', rows=2, prompt_tokens=4, new_tokens=6
    )
    # What the full model says is what follows, for it wrote the text.
    assert (own.top1[-1] == own.target).all()
    assert own.num_positions == 12
    assert own.facts.text.value == 'free_running'

  def test_stand_ins_are_measured(self, given):
    model, captured = given
    config = model.config.with_exits(())
    params = {**model.params, 'exits': {}}
    model = dataclasses.replace(model, config=config, params=params)
    found = analysing_keys.key_damage(
      model,
      captured,
      SectionSettings(bootstrap=Bootstrap(draws=20)),
      dtype='float32',
      rows=2,
      new_tokens=4,
      stretch=2,
      strategies=(KVStrategy.COPY,),
    )
    assert found['exits'] == 'natural'
    assert found['exit_depths'] == (1, 2, 3)
    assert list(found['by_strategy']) == [KVStrategy.COPY]
    assert 0 < found['threshold'] < 1
    assert found['wrong_tokens'].skip.value >= 0


def test_json_holds_the_verdict(place, capsys, tmp_path):
  stdout, _ = run(capsys, place, tmp_path / 'a', '--json')
  found = json.loads(stdout)
  assert found['verdict'] in ('yes', 'maybe', 'no')
  assert found['report'].endswith('report.html')
  assert found['headline'] and found['reasons']


class TestMistakes:
  """Each is one sentence, and what could be done is kept."""

  def test_a_text_shorter_than_a_row(self, place, capsys, tmp_path):
    (place / 'short.txt').write_text('alpha beta')
    _, err = run(capsys, place, tmp_path / 'a', data='short.txt', expect=1)
    last = err.strip().splitlines()[-1]
    assert 'fewer than one row of 16; give more text' in last
    assert last.startswith('eejax analyse: ')

  def test_a_file_that_is_not_utf8(self, place, capsys, tmp_path):
    (place / 'latin.txt').write_bytes(b'caf\xe9 ' * 100)
    _, err = run(capsys, place, tmp_path / 'a', data='latin.txt', expect=1)
    assert 'latin.txt is not UTF-8 text: byte 3 is wrong' in err

  def test_a_manifest_without_models(self, place, capsys, tmp_path):
    out = tmp_path / 'a'
    manifest = ('--manifest', manifest_file(place))
    _, err = run(capsys, place, out, *manifest, expect=2)
    assert 'names no model' in err
    assert not out.exists()

  def test_numbers_that_are_not_finite(self, place, capsys, tmp_path):
    out = tmp_path / 'a'
    manifest = ('--manifest', manifest_file(place, 'nan', 'model'))
    stdout, err = run(
      capsys, place, out, *manifest, '--json', model='nan', expect=1
    )
    assert 'numbers that are not finite' in err.strip().splitlines()[-1]
    found = json.loads(stdout)
    assert set(found['failures']) == {'capture'}
    assert found['verdict'] is None
    # The model that can be read was compared all the same.
    page = (out / 'report.html').read_text()
    assert 'What could not be done' in page and 'Models compared' in page
    models = json.loads((out / 'analysis.json').read_text())['sections'][
      'comparison'
    ]['models']
    assert [m['eas'] is None for m in models] == [True, False]

  def test_a_section_that_fails_leaves_the_rest(
    self, place, capsys, tmp_path, monkeypatch
  ):
    from eejax.errors import EejaxError

    def fail(captured, settings):
      raise EejaxError('the gates are shut.')

    monkeypatch.setattr(analysing.sections_lib, 'gates', fail)
    out = tmp_path / 'a'
    _, err = run(capsys, place, out, expect=1)
    assert 'not everything could be done (gates): the gates are shut.' in err
    page = (out / 'report.html').read_text()
    assert 'gates: the gates are shut.' in page
    assert 'How suited the model is' in page

  def test_a_run_that_keeps_no_steps(self, place, capsys, tmp_path):
    shutil.copytree(place / 'model', tmp_path / 'run' / 'model')
    more = ('--training-run', tmp_path / 'run')
    _, err = run(capsys, place, tmp_path / 'a', *more, expect=1)
    assert 'keeps no checkpoint of a run' in err

  def test_settings_out_of_range(self, place, capsys, tmp_path):
    _, err = run(capsys, place, tmp_path / 'a', '--alpha', '2', expect=2)
    assert 'alpha must lie in 0 to 1, not 2.0' in err

  def test_no_checkpoint(self, capsys):
    assert main.main(['analyse']) == 2
    assert 'CHECKPOINT must be given' in capsys.readouterr().err
