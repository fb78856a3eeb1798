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
"""Test the recipe that evaluates exits on a text."""

import dataclasses
import json

import numpy as np
import pytest

from eejax.checkpoint.model import Model
from eejax.data.tokenizer import train_bpe
from eejax.errors import ArgumentError, EejaxError
from eejax.recipes.evaluate import evaluate
from eejax.recipes.text import read_text
from eejax.testing import tiny

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta']


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Return a folder with a text and a tokenizer of it."""
  root = tmp_path_factory.mktemp('evaluated')
  random = np.random.default_rng(0)
  text = '\n\n'.join(' '.join(random.choice(WORDS, 30)) for _ in range(40))
  (root / 'text.txt').write_text(text)
  train_bpe([text], vocab_size=300).save(root / 'tokenizer')
  return root


@pytest.fixture(scope='module')
def model(place):
  config = tiny.tiny_config('1:norm:gate,3:mlp:gate', vocab_size=300)
  params = tiny.tiny_params(config)
  return Model(config, params, tokenizer_folder=place / 'tokenizer')


def run(model, place, **changes):
  text = read_text(place / 'text.txt', unit='paragraph')
  return evaluate(
    model, text, **{'max_tokens': 600, 'sequence_length': 24, **changes}
  )


def test_every_head_is_measured(model, place):
  result = run(model, place)
  heads = result.quality.heads
  assert [head.name for head in heads] == ['exit_1', 'exit_3', 'final']
  for head in heads:
    assert head.loss.low <= head.loss.value <= head.loss.high
    assert head.perplexity.value == pytest.approx(np.exp(head.loss.value))
  assert 400 < result.quality.tokens <= 700
  values = result.to_json()
  assert values['split'] == 'all' and 'sweep' not in values
  assert values['quality']['heads'][0]['name'] == 'exit_1'
  json.dumps(values)
  shown = str(result)
  assert 'perplexity' in shown and 'exit_3' in shown
  assert 'bootstrap over rows' in shown


@pytest.mark.parametrize('criterion', [None, 'max_prob'])
def test_a_sweep(model, place, criterion):
  result = run(model, place, sweep=True, criterion=criterion)
  sweep = result.sweep
  assert sweep is not None
  assert sweep.criterion == (criterion or 'gate')
  never = sweep.points[-1]
  assert never.thresholds == (None, None)
  assert never.agreement.value == 1.0
  assert sweep.calibrated.tuned.agreement.value >= 0.97
  assert len(sweep.calibrated.held_out.exit_shares) == 3
  assert 'cheapest thresholds for 97.0% agreement' in str(result)
  assert '% at 3' in result._repr_html_()
  assert result.to_json()['sweep']['points'][-1]['thresholds'] == [None, None]
  assert result.plot().axes[0].get_xlabel().startswith('agreement')


def test_a_model_without_exits_has_a_final_head(model, place):
  bare = dataclasses.replace(
    model,
    config=model.config.with_exits(()),
    params={**model.params, 'exits': {}},
  )
  result = run(bare, place)
  assert [head.name for head in result.quality.heads] == ['final']
  with pytest.raises(ArgumentError, match='has no exits, so there is no sweep'):
    run(bare, place, sweep=True)


@pytest.mark.parametrize(
  'changes, sentence',
  [
    ({'target': 1.5}, 'target agreement'),
    ({'max_tokens': 0}, 'max_tokens'),
    ({'sequence_length': 4096}, 'longer than the context'),
    ({'sweep': True, 'criterion': 'hope'}, 'hope'),
  ],
)
def test_wrong_arguments_are_one_sentence(model, place, changes, sentence):
  with pytest.raises(EejaxError, match=sentence):
    run(model, place, **changes)


def test_a_model_without_a_tokenizer_reads_no_text(model, place):
  bare = dataclasses.replace(model, tokenizer_folder=None)
  with pytest.raises(ArgumentError, match='has no tokenizer'):
    run(bare, place)
