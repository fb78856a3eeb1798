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
"""Tests of the recipe that generates text."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import eejax
from eejax.checkpoint.model import Model
from eejax.data.tokenizer import train_bpe
from eejax.decoding import generate as decoding
from eejax.decoding.loop.prepare import prepare
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.ops.quant import Quantization
from eejax.progress import Bar, Progress
from eejax.recipes import generate as recipe
from eejax.testing import tiny

EARLY = Policy(Mode.EARLY_EXIT, 'max_prob', (1e-9, None))
PROMPTS = ['alpha beta', [3, 4, 5], 'gamma']


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """Return a tiny model with a tokenizer and exits at 1 and 3."""
  folder = tmp_path_factory.mktemp('tokenizer')
  tokenizer = train_bpe(['alpha beta gamma delta'], vocab_size=280)
  tokenizer.save(folder)
  config = tiny.tiny_config(
    '1:norm,3:norm:gate',
    vocab_size=280,
    bos_id=tokenizer.bos_id,
    eos_ids=(),
    max_length=64,
  )
  params = jax.tree.map(lambda x: 8 * x, tiny.tiny_params(config))
  return Model(config, params, folder)


@pytest.fixture(scope='module')
def out(model):
  """Return the continuations of a text, of ids and of a text."""
  return eejax.generate(
    model, PROMPTS, policy=EARLY, max_new_tokens=6, batch_size=2
  )


def without_tokenizer(model):
  return dataclasses.replace(model, tokenizer_folder=None)


def test_texts_and_ids_are_continued_alike(model, out):
  tokenizer = model.tokenizer
  for row, prompt in zip(out.rows, PROMPTS, strict=True):
    ids = prompt
    if isinstance(prompt, str):
      ids = tokenizer.encode(prompt, add_bos=tokenizer.adds_bos)
      assert row.prompt == prompt
    assert row.prompt_tokens == tuple(ids)
    sizes = (row.tokens, row.exit_depths, row.scores, row.logprobs)
    assert {len(values) for values in sizes} == {6}
    assert row.text == ''.join(row.pieces)
  assert out.rows[1].prompt == tokenizer.decode(PROMPTS[1])
  assert out.texts == [row.text for row in out.rows]
  assert out.accounting.blocks_full == 3 * 6 * 4
  assert out.policy is EARLY


def test_it_is_what_the_decoder_gives(model, out):
  wanted = decoding.generate(
    model.params,
    config=model.config,
    prompts=[row.prompt_tokens for row in out.rows[:2]],
    policy=EARLY,
    max_new_tokens=6,
  )
  for row, theirs in zip(out.rows, wanted.rows, strict=False):
    assert row.tokens == theirs.tokens
    assert row.exit_depths == theirs.exit_depths


def test_a_second_call_lays_out_and_compiles_nothing(model, out, monkeypatch):
  monkeypatch.setattr(recipe, 'prepare', None)
  prompts = [list(row.prompt_tokens) for row in out.rows]
  again = eejax.generate(
    model, prompts, policy=EARLY, max_new_tokens=6, batch_size=2
  )
  assert [r.tokens for r in again.rows] == [r.tokens for r in out.rows]


def test_the_listener_hears_every_token_of_every_prompt(model, out):
  heard = {0: [], 1: [], 2: []}
  bar, shown = CountingBar(), []
  progress = type('P', (Progress,), {'bar': lambda *a, **k: bar})()
  result = eejax.generate(
    model,
    PROMPTS,
    policy=EARLY,
    max_new_tokens=6,
    batch_size=2,
    on_tokens=lambda update: heard[update.row].extend(update.tokens),
    progress=progress,
  )
  assert [tuple(heard[i]) for i in range(3)] == [r.tokens for r in result.rows]
  assert bar.count == 18 and shown == []


class CountingBar(Bar):
  count = 0

  def update(self, count=1, **values):
    self.count += count


def test_a_stop_text_ends_a_row(model, out):
  text = out.texts[0]
  stop = text[len(text) // 2 :][:2]
  cut = eejax.generate(
    model, PROMPTS[0], policy=EARLY, max_new_tokens=6, stop=[stop]
  )
  assert cut.texts == [text[: text.index(stop)]]
  assert cut.rows[0].finish_reason.value == 'stop'


def test_without_a_tokenizer_ids_do_and_texts_do_not(model, out):
  bare = without_tokenizer(model)
  result = eejax.generate(
    bare, [out.rows[1].prompt_tokens], policy=EARLY, max_new_tokens=6
  )
  assert result.texts is None and result.rows[0].prompt is None
  assert result.rows[0].tokens == out.rows[1].tokens
  assert str(result.rows[0].tokens) in str(result)
  assert f'>{result.rows[0].tokens[0]} <' in result._repr_html_()
  for fields in ({'prompts': 'alpha'}, {'prompts': [[3]], 'stop': ['x']}):
    with pytest.raises(ArgumentError, match='no tokenizer'):
      eejax.generate(bare, **fields)


def test_a_result_shows_itself(out, tmp_path):
  html = out._repr_html_()
  assert 'block-passes of full decoding' in html
  assert 'data-hint="depth 1, score' in html and 'alpha beta' in html
  assert out.texts[0] in str(out) and 'tokens/s' in str(out)
  values = json.loads(json.dumps(out.to_json()))
  assert values['results'][0]['tokens'] == list(out.rows[0].tokens)
  assert values['mode'] == 'early_exit'
  assert out.save(tmp_path / 'page.html').read_text().startswith('<!')


def test_the_picture_counts_tokens_by_depth(out):
  axes = out.plot().axes[0]
  depths = [d for row in out.rows for d in row.exit_depths]
  heights = [bar.get_height() for bar in axes.patches]
  assert heights == [depths.count(d) for d in (1, 3, 4)]
  assert sum(heights) == 18


@pytest.mark.parametrize(
  'fields, expected',
  [
    ({}, Policy()),
    ({'mode': 'full'}, Policy()),
    ({'policy': EARLY, 'mode': 'full'}, EARLY.with_mode('full')),
    (
      {'thresholds': 0.5},
      Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,)),
    ),
    (
      {'criterion': 'margin', 'thresholds': [0.5, None]},
      Policy(Mode.EARLY_EXIT, 'margin', (0.5, None)),
    ),
    (
      {'thresholds': '0.5,never'},
      Policy(Mode.EARLY_EXIT, 'max_prob', (0.5, None)),
    ),
    (
      {'mode': 'speculative'},
      Policy(Mode.SPECULATIVE, 'max_prob', (0.4,), prompt_lookup=2),
    ),
  ],
  ids=str,
)
def test_arguments_choose_the_policy(model, monkeypatch, fields, expected):
  seen = []
  monkeypatch.setattr(
    recipe, 'check_use', lambda policy, *args, **kwargs: seen.append(policy)
  )
  monkeypatch.setattr(recipe, 'encode_prompts', lambda *args: [])
  monkeypatch.setattr(recipe, '_texts', lambda *args: [])
  eejax.generate(model, [], **fields)
  assert seen == [expected]


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'prompts': []}, 'there is no prompt'),
    ({'prompts': [[280]]}, 'prompt 1 has token 280'),
    ({'max_new_tokens': 0}, 'max_new_tokens must be at least 1'),
    ({'batch_size': 0}, 'batch_size must be at least 1'),
    ({'dtype': 'float64'}, 'dtype must be one of float32, bfloat16'),
    ({'weights': 'int4'}, 'weights must be one of none, int8'),
    ({'kv': 'int4'}, 'kv must be one of none, int8'),
    ({'mode': 'fast'}, 'mode must be one of full, early_exit, speculative'),
    ({'mode': 'full', 'thresholds': 0.5}, 'mode full uses no exits'),
    ({'policy': EARLY, 'criterion': 'margin'}, 'give one of them'),
    ({'criterion': 'luck'}, "no criterion 'luck'"),
    ({'criterion': 'gate'}, 'none at depth 1'),
    ({'thresholds': 'high'}, 'is not a threshold'),
    ({'thresholds': [0.1, 0.2, 0.3]}, '3 thresholds for 2 exits'),
    ({'temperature': -1.0}, 'temperature must be'),
    ({'stop': ['']}, 'stop string'),
  ],
  ids=str,
)
def test_wrong_arguments_are_one_sentence(model, fields, message):
  with pytest.raises(ArgumentError, match=message):
    eejax.generate(model, **{'prompts': 'alpha', **fields})


def test_what_is_no_prompt_is_said_by_its_number(model):
  for prompts, number in (([3, 4], 1), ([[3], ['a']], 2)):
    with pytest.raises(ArgumentError, match=f'prompt {number} must be a text'):
      recipe.encode_prompts(model, prompts)


def test_a_model_without_exits_says_how_to_add_some(model):
  bare = eejax.drop_exits(model, [1, 3])
  with pytest.raises(ArgumentError, match='has no exits; add some'):
    eejax.generate(bare, 'alpha', mode='early_exit')


def test_first_blocks_alone_serve_an_exit_that_is_always_taken(model, out):
  from eejax.models.stacking import truncate

  first = truncate(model.params, depth=1)
  held = {'exit_1': model.params['exits']['exit_1']}
  part = dataclasses.replace(model, params={**first, 'exits': held})
  always = Policy(Mode.EARLY_EXIT, 'max_prob', (0.0, None))
  options = {'policy': always, 'max_new_tokens': 4}
  found = eejax.generate(part, 'alpha', **options)
  wanted = eejax.generate(model, 'alpha', **options)
  assert found.rows[0].tokens == wanted.rows[0].tokens
  with pytest.raises(ArgumentError, match='4 blocks, and 1 were loaded'):
    eejax.generate(part, 'alpha')


def test_int8_reaches_the_decoder(model):
  kept = recipe.prepared(model, weights=Quantization.INT8, kv=Quantization.INT8)
  wanted = prepare(
    model.params, config=model.config, quantization=Quantization.INT8
  )
  assert kept.kv_quantization is Quantization.INT8
  for ours, theirs in zip(
    jax.tree.leaves(kept.blocks), jax.tree.leaves(wanted.blocks), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)
  again = recipe.prepared(
    model, weights=Quantization.INT8, kv=Quantization.INT8
  )
  assert again is kept
  assert recipe.prepared(model) is not kept
