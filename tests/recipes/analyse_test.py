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
"""Test the recipe of an analysis: what it keeps, resumes and refuses."""

import csv
import dataclasses
import html
import html.parser
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eejax.analysis.manifest import parse_manifest
from eejax.analysis.sections import SectionSettings
from eejax.capture import file
from eejax.checkpoint import folder
from eejax.checkpoint.manager import RunCheckpoints
from eejax.checkpoint.model import Model
from eejax.data.tokenizer import train_bpe
from eejax.decoding.policy.policy import KVStrategy
from eejax.errors import ArgumentError, EejaxError
from eejax.progress import Progress
from eejax.recipes.analyse import analyse
from eejax.recipes.analysis import captures, kv_damage
from eejax.recipes.analysis import run as run_lib
from eejax.recipes.text import read_text
from eejax.report import analysis_page
from eejax.stats.bootstrap import Bootstrap
from eejax.testing import tiny
from eejax.training import state

FEW = SectionSettings(bootstrap=Bootstrap(draws=20))
GENERATING = ('free_running', 'kv_damage')
VERDICT = {
  'kind': 'no',
  'headline': 'No: it is too slow.',
  'sentences': ['A reason.'],
  'ways': [],
  'head': 0.5,
  'windows': {n: 1.0 for n in FEW.lengths},
}


@pytest.fixture(scope='module', autouse=True)
def untimed():
  """Take the verdict as given; what times it has its own tests."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run_lib, 'verdict_section', lambda *_, **__: VERDICT)
    yield


class Notes(Progress):
  """Keep every note."""

  def __init__(self):
    self.notes = []

  def say(self, text):
    self.notes.append(text)


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


def short(model, place, **arguments):
  """Analyse a few tokens with a few draws."""
  text = arguments.pop('text', None) or read_text(place / 'notes.txt')
  return analyse(
    model,
    text,
    max_tokens=96,
    sequence_length=16,
    **{'settings': FEW, 'leave_out': GENERATING, **arguments},
  )


def manifest_of(place, *names):
  models = [
    {'name': n, 'checkpoint': n, 'kind': 'dense', 'release': '2026-01'}
    for n in names
  ]
  data = [{'path': 'notes.txt'}]
  return parse_manifest({'models': models, 'data': data}, folder=place)


@pytest.fixture(scope='module')
def everything(place):
  """Return the arguments of an analysis of everything but generated text."""
  return {
    'folder': place / 'whole',
    'manifest': manifest_of(place, 'model', 'missing'),
    'training_run': place / 'run',
    'shown_text': 'alpha beta gamma',
  }


@pytest.fixture(scope='module')
def whole(place, everything):
  return short(place / 'model', place, **everything)


class TestWhole:
  def test_every_file_is_there(self, whole, place):
    out = place / 'whole'
    assert whole.folder == out
    values = json.loads((out / 'analysis.json').read_text())
    assert values == whole.to_json()
    assert set(whole.sections) == set(run_lib.SECTIONS) - set(GENERATING)
    assert values['about']['num_layers'] == 4
    assert whole.failures == {}
    for name in values['tables']:
      text = (out / 'tables' / f'{name}.csv').read_text()
      rows = list(csv.DictReader(text.splitlines()))
      assert rows, name
    page = (out / 'report.html').read_text()
    assert page == analysis_page.render(values) == whole.page()
    html.parser.HTMLParser().feed(page)
    assert '<svg' in page and 'grid-of-tokens' in page

  def test_it_shows_the_verdict(self, whole):
    assert whole.summary() == 'No: it is too slow.'
    assert [r['read-out'] for r in whole.table()][:2] == ['depth 0', 'depth 1']
    assert 'No: it is too slow.' in whole._repr_html_()
    (axes,) = whole.plot().axes
    assert axes.get_xlabel() == 'depth'

  def test_the_text_that_was_given_is_shown(self, whole):
    grid = whole.sections['token_grid']
    assert ''.join(grid['tokens'] + grid['targets'][-1:]) == 'alpha beta gamma'
    assert len(grid['readings'][0]) == 5

  def test_a_model_that_cannot_be_read_leaves_the_others(self, whole, place):
    good, missing = whole.sections['comparison']['models']
    assert good['eas'] is not None and good['failures'] == []
    assert missing['eas'] is None
    assert 'missing on notes.txt: there is no' in missing['failures'][0]
    assert html.escape(missing['failures'][0]) in whole.page()
    kept = place / 'whole' / 'models' / 'model.json'
    assert json.loads(kept.read_text())['eas']

  def test_steps_of_the_run_are_compared(self, whole):
    steps = whole.sections['dynamics']['steps']
    assert [s['step'] for s in steps] == [1, 5]

  def test_what_is_done_is_not_done_again(
    self, whole, place, everything, monkeypatch
  ):
    def never(*args, **kwargs):
      raise AssertionError('it was done again')

    monkeypatch.setattr(run_lib, 'capture_text', never)
    monkeypatch.setattr(run_lib.models_lib, 'load', never)
    monkeypatch.setattr(run_lib.models_lib, 'compare', never)
    notes = Notes()
    again = short(place / 'model', place, **everything, progress=notes)
    done = [note for note in notes.notes if 'done before' in note]
    assert len(done) == len(whole.sections) + 1
    assert (again.failures, again.sections) == ({}, whole.sections)


class TestResuming:
  """A folder is taken up for the same model, text and settings alone."""

  @pytest.fixture
  def kept(self, place, tmp_path, monkeypatch):
    """Return an analysis of a model in memory, and what was captured since."""
    model = folder.load(place / 'model')
    arguments = {'folder': tmp_path / 'a', 'sections': ['suitability']}
    short(model, place, **arguments)
    captured = []
    monkeypatch.setattr(
      run_lib,
      'capture_text',
      lambda model, *args, **kwargs: (
        captured.append(model) or captures.capture_text(model, *args, **kwargs)
      ),
    )
    return model, arguments, captured

  def test_the_same_model_in_memory(self, place, kept):
    model, arguments, captured = kept
    short(dataclasses.replace(model), place, **arguments)
    assert captured == []

  def test_a_model_with_one_other_number(self, place, kept):
    model, arguments, captured = kept
    params = jax.tree.map(lambda x: x, model.params)
    scale = params['exits']['exit_1']['norm']['scale']
    params['exits']['exit_1']['norm']['scale'] = scale.at[0].add(1)
    other = dataclasses.replace(model, params=params)
    short(other, place, **arguments)
    assert captured == [other]

  def test_other_rows_of_the_text(self, place, kept):
    model, arguments, captured = kept
    analyse(
      model, read_text(place / 'notes.txt'), sequence_length=8, **arguments
    )
    assert captured == [model]


class TestSeveralModels:
  def test_they_are_compared_and_nothing_else(self, place):
    models = {'one': folder.load(place / 'model'), 'two': place / 'model'}
    result = short(models, place)
    assert set(result.sections) == {'comparison'}
    one, two = result.sections['comparison']['models']
    assert one['eas'] == two['eas'] is not None
    assert result.summary() == '2 of 2 models could be measured.'
    assert [row['model'] for row in result.table()] == ['one', 'two']
    assert result.folder is None

  def test_none_is_refused(self, place):
    with pytest.raises(ArgumentError, match='no model to analyse'):
      short({}, place)


class TestGenerating:
  """What a tiny model generates, from a capture of its own."""

  @pytest.fixture(scope='class')
  def given(self, place, whole):
    model = folder.load(place / 'model')
    return model, file.read(place / 'whole' / 'captured')

  def test_prefixes_are_of_the_text(self, given):
    _, captured = given
    prompts = captures.row_prefixes(captured, rows=3, tokens=5)
    assert len(prompts) == 3
    rows = np.unique(captured.row)
    for prompt, row in zip(prompts, rows[:: len(rows) // 3], strict=False):
      assert prompt == captured.token[captured.row == row][:5].tolist()

  def test_the_text_is_the_full_model_s(self, given):
    model, captured = given
    own = captures.capture_free_running(
      model, captured, rows=2, prompt_tokens=4, new_tokens=6
    )
    # What the full model says is what follows, for it generated the text.
    assert (own.top1[-1] == own.target).all()
    assert own.num_positions == 12
    assert own.facts.text.value == 'free_running'

  def test_approximations_are_measured(self, given):
    model, captured = given
    config = model.config.with_exits(())
    params = {**model.params, 'exits': {}}
    model = dataclasses.replace(model, config=config, params=params)
    damage = kv_damage.damage_by_strategy(
      model,
      captured,
      FEW,
      rows=2,
      new_tokens=4,
      stretch=2,
      strategies=(KVStrategy.COPY,),
    )
    assert damage['exits'] == 'natural'
    assert damage['exit_depths'] == (1, 2, 3)
    assert list(damage['by_strategy']) == [KVStrategy.COPY]
    assert 0 < damage['threshold'] < 1
    assert damage['wrong_tokens'].skip.value >= 0


class TestMistakes:
  """Each is one sentence, and what could be computed is kept."""

  def test_a_text_shorter_than_a_row(self, place):
    (place / 'short.txt').write_text('alpha beta')
    with pytest.raises(EejaxError, match='fewer than one row of 16; give more'):
      short(place / 'model', place, text=read_text(place / 'short.txt'))

  def test_numbers_that_are_not_finite(self, place, tmp_path):
    manifest = manifest_of(place, 'nan', 'model')
    result = short(
      place / 'nan', place, folder=tmp_path / 'a', manifest=manifest
    )
    assert set(result.failures) == {'capture'}
    assert 'numbers that are not finite' in result.failures['capture']
    assert result.failures['capture'] in result.summary()
    assert result.verdict is None
    # The model that can be read was compared all the same.
    page = result.page()
    assert 'What could not be done' in page and 'Models compared' in page
    models = result.sections['comparison']['models']
    assert [m['eas'] is None for m in models] == [True, False]

  def test_nothing_that_could_be_computed(self, place):
    with pytest.raises(EejaxError, match='numbers that are not finite'):
      short(place / 'nan', place)

  def test_a_section_that_fails_leaves_the_rest(self, place, monkeypatch):
    def fail(captured, settings):
      raise EejaxError('the gates are shut.')

    monkeypatch.setattr(run_lib.sections_lib, 'gates', fail)
    result = short(place / 'model', place, sections=['gates', 'suitability'])
    assert result.failures == {'gates': 'the gates are shut.'}
    assert 'gates: the gates are shut.' in result.page()
    assert 'How suited the model is' in result.page()

  def test_a_run_that_keeps_no_steps(self, place, tmp_path):
    shutil.copytree(place / 'model', tmp_path / 'run' / 'model')
    result = short(
      place / 'model',
      place,
      sections=['suitability', 'dynamics'],
      training_run=tmp_path / 'run',
    )
    assert 'keeps no checkpoint of a run' in result.failures['dynamics']

  @pytest.mark.parametrize('argument', ['sections', 'leave_out'])
  def test_a_section_that_is_unknown(self, place, argument):
    with pytest.raises(ArgumentError, match="no section 'exits' of an anal"):
      short(place / 'model', place, **{argument: ['exits']})

  def test_a_folder_that_holds_something_else(self, place):
    with pytest.raises(ArgumentError, match='holds something else'):
      short(place / 'model', place, folder=place / 'model')
