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
from eejax.decoding.policy.certificate import LEARN_THEN_TEST, Certificate
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.decoding.results import DecodeResult, Timing
from eejax.errors import ArgumentError
from eejax.ops.quant import Quantization
from eejax.progress import Bar, Progress
from eejax.recipes import generate as recipe
from eejax.recipes import pipelined
from eejax.recipes.encoded_prompts import EncodedPrompts
from eejax.recipes.generated import GenerateResult
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


def test_tokens_are_chosen_as_asked(model, out):
  usual = out.rows[0].tokens
  others = [t for t in range(280) if t not in usual]
  asked = eejax.generate(
    model,
    PROMPTS[0],
    policy=EARLY,
    max_new_tokens=6,
    logit_bias={usual[0]: -100.0},
    min_tokens=3,
    stop_token_ids=others,
    ignore_eos=True,
    top_logprobs=2,
  )
  (row,) = asked.rows
  # Only tokens that were there before may be chosen, then any other ends it.
  assert set(row.tokens[:3]) <= set(usual[1:])
  assert row.finish_reason.value == 'eos' and row.tokens[-1] in others
  assert all(len(top) == 2 for top in row.top_logprobs)
  assert 'top_logprobs' in asked.to_json()['results'][0]
  assert 'top_logprobs' not in out.to_json()['results'][0]


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


def test_a_token_that_the_text_drafted_is_shown(model, out):
  row = dataclasses.replace(
    out.rows[0], exit_depths=(0, *out.rows[0].exit_depths[1:])
  )
  decoded = DecodeResult((row,), Timing(), out.batch, out.policy)
  found = GenerateResult.of(
    [decoded], policy=out.policy, model=model, prompts=['alpha']
  )
  assert found.levels == (0, 1, 3, 4)
  html = found._repr_html_()
  assert 'data-hint="depth 0' in html and '>depth 0</span>' in html
  assert found.plot().axes[0].patches[0].get_height() == 1


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
  nothing = EncodedPrompts([], [])
  monkeypatch.setattr(recipe, 'encode_prompts', lambda *args: nothing)
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
    ({'logit_bias': {280: 1.0}}, 'logit_bias has token 280'),
    ({'stop_token_ids': [-1]}, 'stop_token_ids has token -1'),
    ({'top_logprobs': 21}, 'top_logprobs must be from 0 to 20'),
  ],
  ids=str,
)
def test_wrong_arguments_are_one_sentence(model, fields, message):
  with pytest.raises(ArgumentError, match=message):
    eejax.generate(model, **{'prompts': 'alpha', **fields})


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


# MARK: On a mesh


@pytest.fixture(scope='module')
def some_exit(out):
  """Return a policy by which some tokens exit, with a window without end."""
  scores = [s for row in out.rows for s in row.scores if s is not None]
  threshold = float(np.median(scores))
  return Policy(Mode.EARLY_EXIT, 'max_prob', (threshold, None), window=64)


@pytest.fixture(scope='module')
def on_mesh(model, some_exit):
  """Return the continuations on four stages of simulated devices."""
  return eejax.generate(
    model,
    PROMPTS,
    policy=some_exit,
    max_new_tokens=6,
    batch_size=2,
    mesh='stage=4',
  )


def test_a_mesh_gives_what_one_device_gives(model, some_exit, on_mesh):
  wanted = eejax.generate(
    model, PROMPTS, policy=some_exit, max_new_tokens=6, batch_size=2
  )
  for ours, theirs in zip(on_mesh.rows, wanted.rows, strict=True):
    for name in ('prompt', 'text', 'pieces', 'tokens', 'exit_depths'):
      assert getattr(ours, name) == getattr(theirs, name)
    assert ours.finish_reason is theirs.finish_reason
    as_numbers = lambda row: [-1 if s is None else s for s in row.scores]
    np.testing.assert_allclose(as_numbers(ours), as_numbers(theirs), atol=1e-4)
  assert {d for row in on_mesh.rows for d in row.exit_depths} == {1, 4}
  assert wanted.pipeline is None and 'pipeline' not in wanted.to_json()


def test_a_mesh_says_how_many_steps_exits_saved(on_mesh):
  steps = on_mesh.pipeline
  assert steps.decode_steps == steps.predicted_decode_steps
  assert steps.prefill_steps == steps.predicted_prefill_steps
  # Two batches, of six tokens a row.
  assert steps.full_decode_steps == 2 * 4 * 6
  assert len(steps.exit_stages) == 3
  saved = steps.full_decode_steps - steps.decode_steps
  assert saved > 0
  assert f'{saved} fewer than without exits' in on_mesh.summary()
  assert 'not in measured time' in on_mesh.summary()
  values = json.loads(json.dumps(on_mesh.to_json()))['pipeline']
  assert values['speedup'] == steps.full_decode_steps / steps.decode_steps
  assert on_mesh.accounting.blocks_run == on_mesh.accounting.blocks_full


def test_a_pipeline_is_laid_out_once(model, some_exit, on_mesh, monkeypatch):
  monkeypatch.setattr(pipelined, 'Pipeline', None)
  again = eejax.generate(
    model, PROMPTS[:2], policy=some_exit, max_new_tokens=6, mesh='stage=4'
  )
  assert [r.tokens for r in again.rows] == [r.tokens for r in on_mesh.rows[:2]]


def test_two_stages_decode_at_full_depth(model, out):
  prompt = [list(out.rows[1].prompt_tokens)]
  options = {'max_new_tokens': 3}
  found = eejax.generate(model, prompt, mesh='stage=2', **options)
  wanted = eejax.generate(model, prompt, **options)
  assert found.rows[0].tokens == wanted.rows[0].tokens
  assert found.pipeline.speedup == 1


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'mode': 'speculative'}, 'mode full or early_exit, not speculative'),
    ({'kv': 'int8'}, 'so kv does not go with mesh'),
    ({'weights': 'int8'}, 'so weights does not go with mesh'),
    (
      {'policy': dataclasses.replace(EARLY, kv_strategy=KVStrategy.PROPAGATE)},
      'leave the K/V strategy at deferred',
    ),
    ({'policy': EARLY, 'mesh': 'stage=2'}, 'the exit at depth 1 does not'),
    ({'mesh': 'stage=2,data=2'}, 'this one has data=2'),
    ({'mesh': 'stage=9'}, 'needs 9 devices and there are 8'),
    ({'mesh': 'stage=5'}, '5 stages are more than the 4 blocks'),
  ],
  ids=str,
)
def test_what_a_pipeline_cannot_do_is_one_sentence(model, fields, message):
  with pytest.raises(ArgumentError, match=message) as caught:
    eejax.generate(model, 'alpha', **{'mesh': 'stage=4', **fields})
  assert '. ' not in str(caught.value)


def test_a_certificate_does_not_cover_a_pipeline(model):
  certificate = Certificate(
    method=LEARN_THEN_TEST,
    risk=0.05,
    delta=0.05,
    bound='hoeffding_bentkus',
    measure='local',
    sequences=200,
    mean_loss=0.01,
    p_value=0.03,
    prompt_tokens=8,
    max_new_tokens=128,
    dtype='float32',
    data={'name': 'text.txt'},
    versions={'eejax': '0'},
  )
  policy = dataclasses.replace(EARLY, certificate=certificate)
  with pytest.raises(ArgumentError, match='does not cover a pipeline'):
    eejax.generate(model, 'alpha', policy=policy, mesh='stage=4')
