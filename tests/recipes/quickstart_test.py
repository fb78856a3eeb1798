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
"""Test the quickstart end to end on a random tiny model."""

import dataclasses
import json
import re

import numpy as np
import pytest

import eejax
from eejax.checkpoint.model import Model
from eejax.cli import main
from eejax.config import parse_exits
from eejax.data.tokenizer import train_bpe
from eejax.errors import ArgumentError
from eejax.progress import TerminalProgress
from eejax.recipes.quickstart import (
  TITLES,
  QuickstartSettings,
  default_exits,
  quickstart,
)
from eejax.testing import tiny

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta']


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Return a folder with a text and a random model."""
  root = tmp_path_factory.mktemp('quickstart')
  random = np.random.default_rng(0)
  documents = [' '.join(random.choice(WORDS, 60)) for _ in range(400)]
  text = '\n\n'.join(documents)
  (root / 'text.txt').write_text(text)
  tokenizer = train_bpe([text], vocab_size=300)
  tokenizer.save(root / 'tokenizer')
  config = tiny.tiny_config(
    '',
    vocab_size=300,
    max_length=96,
    bos_id=tokenizer.bos_id,
    eos_ids=tokenizer.eos_ids,
  )
  model = Model(
    config, tiny.tiny_params(config), tokenizer_folder=root / 'tokenizer'
  )
  eejax.save(model, root / 'backbone')
  return root


@pytest.fixture(scope='module')
def settings(place):
  """Return settings that make a quickstart short."""
  return QuickstartSettings(
    backbone=str(place / 'backbone'),
    text=eejax.read_text(place / 'text.txt', unit='paragraph'),
    exits='1:mlp:gate,2:norm',
    risk=0.2,
    steps=4,
    max_tokens=600,
    prompts=2,
    new_tokens=8,
    repeats=1,
    window=2,
  )


@pytest.fixture(scope='module')
def finished(place, settings):
  """Return what a finished quickstart returned."""
  return quickstart(settings, folder=place / 'out')


def test_the_backbone_is_tuned_around_and_not_changed(place, finished):
  assert finished.about['backbone_unchanged'] is True
  tuned = eejax.load(place / 'out' / 'tuning' / 'model')
  plain = eejax.load(place / 'out' / 'backbone')
  np.testing.assert_array_equal(
    tuned.params['backbone']['blocks']['mlp']['up']['kernel'],
    plain.params['backbone']['blocks']['mlp']['up']['kernel'],
  )
  assert tuned.config.exit_depths == (1, 2)


def test_one_answer_is_given(finished):
  """No two sentences of the page may contradict each other."""
  text = re.sub(r'<[^>]+>', ' ', finished.page())
  answers = {
    finished.stages[name]['values']['answer'] for name in ('probe', 'verdict')
  }
  assert finished.stages['verdict']['summary'] in finished.summary()
  assert 'orecast' in finished.stages['probe']['summary']
  assert answers <= {'yes', 'no', 'undecided'}
  certified = finished.stages['calibrate']['values']['certified']
  assert ('calibrated early exit' in text) is (
    certified and (finished.folder / 'policy.json').exists()
  )


def test_summary_and_page_are_files_of_their_own(finished):
  written = json.loads((finished.folder / 'summary.json').read_text())
  assert written == finished.to_json()
  text = (finished.folder / 'report.html').read_text()
  assert text.startswith('<!DOCTYPE html>')
  assert not re.search(r'https?:|<script|<link|src=', text)


def test_every_sample_token_has_a_depth(finished):
  rows = finished.stages['samples']['values']['results']
  assert rows
  for row in rows:
    assert len(row['exit_depths']) == len(row['tokens']) > 0
    assert set(row['exit_depths']) <= {1, 2, 4}


def test_what_is_finished_is_not_done_again(place, settings, finished, capsys):
  again = quickstart(
    settings, folder=place / 'out', progress=TerminalProgress()
  )
  told = capsys.readouterr().err
  assert told.count('done before') == len(TITLES)
  assert again.stages == finished.stages


def test_another_setting_of_decoding_tunes_nothing_again(
  place, settings, finished, capsys
):
  changed = dataclasses.replace(settings, steps=4, new_tokens=9)
  quickstart(changed, folder=place / 'out', progress=TerminalProgress())
  told = capsys.readouterr().err
  assert f'[1/{len(TITLES)}] {TITLES["import"][0]}: done before' in told
  assert f'{TITLES["verdict"][0]}: done before' not in told


class TestExits:
  @pytest.mark.parametrize(
    'layers, depths', [(2, (1,)), (4, (1, 2, 3)), (12, (3, 5, 6, 9))]
  )
  def test_default_places(self, layers, depths):
    model = dataclasses.replace(tiny.tiny_config('').model, num_layers=layers)
    exits = parse_exits(default_exits(model))
    assert tuple(e.depth for e in exits) == depths

  def test_one_block_is_too_few(self):
    model = dataclasses.replace(tiny.tiny_config('').model, num_layers=1)
    with pytest.raises(ArgumentError, match='one block'):
      default_exits(model)


class TestBadInput:
  @pytest.mark.parametrize(
    'change, sentence',
    [
      ({'risk': 1.5}, 'risk must lie'),
      ({'steps': 0}, 'steps must be at least 1'),
      ({'exits': '9:hat'}, 'hat'),
    ],
  )
  def test_settings_check_themselves(self, change, sentence):
    with pytest.raises(ArgumentError, match=sentence):
      QuickstartSettings(**change)

  def test_exits_beyond_the_model_are_refused_early(self, place, settings):
    changed = dataclasses.replace(settings, exits='9:norm')
    with pytest.raises(ArgumentError, match='9'):
      quickstart(changed, folder=place / 'beyond')
    assert not (place / 'beyond' / 'summary.json').exists()

  def test_a_backbone_that_is_not_there(self, tmp_path, settings):
    changed = dataclasses.replace(settings, backbone='gone')
    with pytest.raises(ArgumentError, match='no folder gone'):
      quickstart(changed, folder=tmp_path / 'out')

  def test_the_shell_says_it_in_a_sentence(self, place, capsys):
    argv = ['quickstart', '--backbone', 'gone', '--out', str(place / 'shell')]
    assert main.main(argv) == 2
    assert 'there is no folder gone' in capsys.readouterr().err
    argv = ['quickstart', '--out', str(place)]
    assert main.main(argv) == 2
    assert 'something else' in capsys.readouterr().err
