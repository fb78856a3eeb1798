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
"""Tests of prompts in every form that `eejax.generate` takes."""

import dataclasses
import json

import jax
import pytest

import eejax
from eejax.checkpoint import folder as checkpoints
from eejax.checkpoint.model import Model
from eejax.data.tokenizer import train_bpe
from eejax.decoding.policy.certificate import LEARN_THEN_TEST, Certificate
from eejax.decoding.policy.check_use import certify
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import FinishReason
from eejax.errors import ArgumentError
from eejax.recipes.encoded_prompts import encode_prompts
from eejax.testing import tiny

TEMPLATE = (
  "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
  '{% if add_generation_prompt %}assistant:{% endif %}'
)
USER = {'role': 'user', 'content': 'alpha'}
SHORT = {'max_new_tokens': 6, 'batch_size': 2}


def set_config(folder, **values):
  path = folder / 'tokenizer_config.json'
  config = json.loads(path.read_text())
  path.write_text(json.dumps({**config, **values}))


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """Return a tiny model with a tokenizer and a chat template."""
  folder = tmp_path_factory.mktemp('tokenizer')
  tokenizer = train_bpe(['alpha beta gamma delta'], vocab_size=280)
  tokenizer.save(folder)
  set_config(folder, chat_template=TEMPLATE)
  config = tiny.tiny_config(
    '1:norm,3:norm',
    vocab_size=tokenizer.vocab_size,
    bos_id=tokenizer.bos_id,
    eos_ids=tokenizer.eos_ids,
    max_length=64,
  )
  params = jax.tree.map(lambda x: 8 * x, tiny.tiny_params(config))
  return Model(config, params, folder)


@pytest.fixture(scope='module')
def answers(model):
  """Return the answers to a conversation, alone and beside another."""
  other = [{'role': 'system', 'content': 'delta'}, USER]
  alone = eejax.generate(model, [USER], **SHORT)
  return alone, eejax.generate(model, [other, [USER]], **SHORT)


def test_a_conversation_is_continued_after_its_template(model, answers):
  alone, both = answers
  (row,) = alone.rows
  assert row.prompt == 'user: alpha\nassistant:'
  # The template writes a start token where one belongs.
  wanted = model.tokenizer.encode(row.prompt, add_bos=False)
  assert row.prompt_tokens == tuple(wanted)
  assert both.rows[0].prompt.startswith('system: delta\nuser: alpha\n')
  assert both.rows[1].tokens == row.tokens and len(row.tokens) == 6


def test_an_answer_ends_at_the_end_tokens_of_the_template(
  model, answers, tmp_path
):
  tokens = answers[0].rows[0].tokens
  vocabulary = json.loads(model.tokenizer.to_json())['model']['vocab']
  names = {i: token for token, i in vocabulary.items()}
  model.tokenizer.save(tmp_path)
  set_config(tmp_path, chat_template=TEMPLATE, eos_token=names[tokens[2]])
  other = dataclasses.replace(model, tokenizer_folder=tmp_path)
  (row,) = eejax.generate(other, [USER], **SHORT).rows
  assert row.tokens == tokens[: tokens.index(tokens[2]) + 1]
  assert row.finish_reason is FinishReason.EOS
  # A prompt that is no conversation ends where the model's tokens say.
  ids = list(row.prompt_tokens)
  (plain,) = eejax.generate(other, [ids], **SHORT).rows
  assert plain.tokens == tokens


def test_a_certificate_does_not_cover_other_end_tokens(model, tmp_path):
  model.tokenizer.save(tmp_path)
  set_config(tmp_path, chat_template=TEMPLATE, eos_token='a')
  other = dataclasses.replace(model, tokenizer_folder=tmp_path)
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
    max_new_tokens=9,
    dtype='float32',
    data={'name': 'text.txt', 'unit': 'conversation'},
    versions={'eejax': '0'},
  )
  policy = certify(
    Policy(Mode.EARLY_EXIT, 'max_prob', (0.5, 0.5)), model, certificate
  )
  with pytest.raises(ArgumentError, match='another chat template'):
    eejax.generate(other, [USER], policy=policy, **SHORT)


def test_a_template_stays_with_a_model_that_is_saved(model, tmp_path):
  text = model.chat_template.render([USER])
  eejax.save(model, tmp_path / 'saved')
  saved = checkpoints.load(tmp_path / 'saved')
  eejax.export_folder(saved, tmp_path / 'exported')
  exported = eejax.import_folder(tmp_path / 'exported')
  for other in (saved, exported):
    assert other.chat_template.render([USER]) == text


@pytest.mark.parametrize(
  'prompts, words',
  [
    ([[USER], 'alpha'], 'are all conversations or none is'),
    ([[USER], [3]], 'are all conversations or none is'),
    ([USER, {'role': 'usr', 'content': ''}], 'role of message 2'),
    ([3, 4], 'prompt 1 must be a text'),
    ([[3], ['a']], 'prompt 2 must be a text'),
  ],
  ids=str,
)
def test_what_is_no_prompt_is_said(model, prompts, words):
  with pytest.raises(ArgumentError, match=words):
    encode_prompts(model, prompts)


def test_a_model_without_a_template_says_so(model, tmp_path):
  train_bpe(['alpha beta'], vocab_size=270).save(tmp_path)
  bare = dataclasses.replace(model, tokenizer_folder=tmp_path)
  with pytest.raises(ArgumentError, match='no chat template'):
    eejax.generate(bare, [USER])
