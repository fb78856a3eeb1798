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
"""Test the recipe that verifies speculative decoding."""

import dataclasses
import json

import jax
import pytest

from eejax import serialization
from eejax.checkpoint.model import Model
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.evaluation import lossless
from eejax.recipes.verify import default_policy, verify
from eejax.testing import tiny

PROMPTS = [[3, 4, 5], [9]]
DRAFTS = Policy(
  Mode.SPECULATIVE, 'max_prob', (0.0,), draft_depth=3, draft_length=1
)


@pytest.fixture(scope='module')
def model():
  """Return a model whose exits are sometimes right."""
  config = tiny.tiny_config('1:norm,3:mlp', eos_ids=())
  params = jax.tree.map(lambda x: 4 * x, tiny.tiny_params(config))
  return Model(config, params, backbone_hash='1' * 64)


def run(model, **changes):
  arguments = {
    'prompts': PROMPTS,
    'policy': DRAFTS,
    'batch_sizes': (1, 2),
    'max_new_tokens': 6,
  }
  return verify(model, **{**arguments, **changes})


def test_it_says_lossless_and_counts(model):
  result = run(model)
  assert result.is_lossless and result.table() == []
  # Two batches of one row and one of two, six tokens each.
  assert (result.counts.rows, result.counts.tokens) == (4, 24)
  values = result.to_json()
  assert values['near_ties'] == values['real_differences'] == 0
  assert values['acceptance'] == values['accepted'] / values['drafted']
  assert values['policy']['mode'] == 'speculative'
  assert values['differences'] == []
  json.dumps(values)
  assert str(result).startswith('Lossless here: all 4 rows')
  assert '24 tokens' in result._repr_html_()


def test_a_policy_of_another_mode_drafts(model):
  early = dataclasses.replace(DRAFTS, mode=Mode.EARLY_EXIT)
  assert run(model, policy=early).policy == DRAFTS


def test_seeds_are_rows_of_their_own(model):
  assert run(model, temperature=0.8, seeds=2).counts.rows == 8


def test_a_difference_is_told_with_its_place(model, monkeypatch):
  honest = lossless.generate

  def lying(*args, policy, prompts, **kwargs):
    # Speculation answers another prompt.
    if policy.mode is Mode.SPECULATIVE:
      prompts = [[*p, 5] for p in prompts]
    return honest(*args, policy=policy, prompts=prompts, **kwargs)

  monkeypatch.setattr(lossless, 'generate', lying)
  result = run(model)
  assert not result.is_lossless
  values = serialization.plain(result.to_json())
  assert values['real_differences'] >= 1 and not values['is_lossless']
  first = values['differences'][0]
  assert first['prompt'] in (1, 2) and first['batch_size'] == 1
  difference = first['difference']
  assert difference['kind'] == 'real'
  assert difference['gap'] > 0 and difference['bound'] > 0
  assert difference['full_token'] != difference['speculative_token']
  assert 'not lossless here' in result.verdict
  row = result.table()[0]
  assert row['kind'] == 'real' and row['top-2 gap'] > 0
  # Without a tokenizer tokens are ids.
  assert row['full'] == str(difference['full_token'])


def test_nothing_tested_is_no_success(model):
  never = dataclasses.replace(DRAFTS, thresholds=(None,))
  result = run(model, policy=never)
  assert not result.is_lossless and 'nothing was tested' in result.verdict


def test_the_usual_policy_drafts_from_exits_and_text(model):
  policy = default_policy(model)
  assert policy.mode is Mode.SPECULATIVE and policy.criterion == 'max_prob'
  assert run(model, policy=None, batch_sizes=(2,)).policy == policy


@pytest.mark.parametrize(
  'changes, sentence',
  [
    ({'batch_sizes': ()}, 'a batch size'),
    ({'batch_sizes': (0,)}, 'a batch size'),
    ({'seeds': 2}, 'knows no seeds'),
    ({'seeds': 0, 'temperature': 1.0}, 'seeds must be at least 1'),
    ({'temperature': -1.0}, 'temperature'),
    ({'max_new_tokens': 48}, 'leave room'),
    ({'policy': Policy(thresholds=(0.5,) * 3)}, '3 thresholds for 2 exits'),
    ({'policy': Policy(backbone_hash='0' * 64)}, 'fitted for another'),
  ],
)
def test_wrong_arguments_are_one_sentence(model, changes, sentence):
  with pytest.raises(ArgumentError, match=sentence):
    run(model, **changes)


def test_a_model_without_exits_has_nothing_to_verify(model):
  bare = dataclasses.replace(model, config=model.config.with_exits(()))
  with pytest.raises(ArgumentError, match='has no exits'):
    run(bare)
