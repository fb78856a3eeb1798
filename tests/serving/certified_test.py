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
"""Test that the server holds a certified policy to its certificate."""

import openai
import pytest

from eejax.decoding.policy.certificate import LEARN_THEN_TEST, Certificate
from eejax.decoding.policy.check_use import certify
from eejax.decoding.policy.modes import Mode
from eejax.decoding.policy.policy import Policy

MESSAGES = [{'role': 'user', 'content': 'alpha'}]


def certified(model, unit):
  """Return a policy that was certified on texts of a kind."""
  certificate = Certificate(
    method=LEARN_THEN_TEST,
    risk=0.1,
    delta=0.1,
    bound='hoeffding_bentkus',
    measure='rouge_l',
    sequences=100,
    mean_loss=0.0,
    p_value=0.01,
    prompt_tokens=8,
    max_new_tokens=6,
    dtype='float32',
    data={'unit': unit},
    versions={},
  )
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', (0.3,))
  return certify(policy, model, certificate)


def complete(client, policy, **fields):
  asked = {'prompt': 'alpha', 'max_tokens': 2, 'temperature': 0, **fields}
  more = {'eejax': {'policy': policy.to_json()}, **asked.pop('more', {})}
  return client.completions.create(model='tiny', **asked, extra_body=more)


def chat(client, policy, **fields):
  return client.chat.completions.create(
    model='tiny',
    messages=MESSAGES,
    temperature=0,
    extra_body={'eejax': {'policy': policy.to_json()}},
    **fields,
  )


def test_prompts_are_of_the_kind_that_was_certified(client, model):
  of_texts = certified(model, 'file')
  of_conversations = certified(model, 'conversation')
  assert complete(client, of_texts).usage.completion_tokens == 2
  with pytest.raises(openai.BadRequestError, match='certified on conv') as no:
    complete(client, of_conversations)
  assert no.value.param == 'eejax'
  with pytest.raises(openai.BadRequestError, match='certified on texts'):
    chat(client, of_texts)
  without = of_conversations.without_certificate()
  assert complete(client, without).usage.completion_tokens == 2


def test_an_answer_is_no_longer_than_certified(client, model):
  policy = certified(model, 'conversation')
  # One that does not say how long it may be is as long as was certified.
  assert chat(client, policy).usage.completion_tokens <= 6
  with pytest.raises(openai.BadRequestError, match='may have 7'):
    chat(client, policy, max_completion_tokens=7)


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'temperature': 1}, 'sampled'),
    ({'logit_bias': {'3': 1}}, 'logit_bias'),
    ({'more': {'ignore_eos': True}}, 'ignore_eos'),
    ({'more': {'min_tokens': 1}}, 'min_tokens'),
  ],
  ids=str,
)
def test_tokens_are_chosen_as_was_certified(client, model, fields, words):
  with pytest.raises(openai.BadRequestError, match=words):
    complete(client, certified(model, 'file'), **fields)
