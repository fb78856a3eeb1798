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
"""Test what a request says of its tokens, against single runs."""

import pytest

import eejax

PROMPT = 'alpha beta'
ASKED = {'model': 'tiny', 'prompt': PROMPT, 'temperature': 0}


def single(model, **options):
  return eejax.generate(model, [PROMPT], **options).rows[0]


def test_a_bias_forbids_or_forces_a_token(client, model):
  tokens = single(model, max_new_tokens=6).tokens
  found = client.completions.create(
    **ASKED, max_tokens=6, logit_bias={str(tokens[0]): -100}
  )
  assert tokens[0] not in found.choices[0].eejax['tokens']
  found = client.completions.create(
    **ASKED, max_tokens=4, logit_bias={'42': 100}
  )
  assert found.choices[0].eejax['tokens'] == [42] * 4


def test_a_token_ends_a_text(client, model):
  tokens = single(model, max_new_tokens=12).tokens
  end = tokens[3]
  first = tokens.index(end)
  found = client.completions.create(
    **ASKED, max_tokens=12, extra_body={'stop_token_ids': [end]}
  )
  choice = found.choices[0]
  assert (choice.finish_reason, choice.stop_reason) == ('stop', end)
  assert choice.eejax['tokens'] == list(tokens[: first + 1])
  later = client.completions.create(
    **ASKED,
    max_tokens=12,
    extra_body={'stop_token_ids': [end], 'min_tokens': first + 1},
  )
  assert later.choices[0].eejax['tokens'][first] != end


def test_likeliest_tokens_of_a_completion(client, model):
  found = client.completions.create(
    **ASKED,
    max_tokens=5,
    logprobs=3,
    extra_body={'eejax': {'mode': 'early_exit', 'threshold': 0.3}},
  )
  row = single(model, mode='early_exit', thresholds=0.3, max_new_tokens=5)
  logprobs = found.choices[0].logprobs
  assert logprobs.token_logprobs == pytest.approx(list(row.logprobs), abs=1e-5)
  for token, logprob, top in zip(
    logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
  ):
    # Of tokens that are pieces of characters some have one text.
    assert 1 <= len(top) <= 3
    # Greedy: the chosen one is the likeliest.
    assert top[token] == pytest.approx(logprob, abs=1e-5)
    assert max(top.values()) == top[token]


def test_likeliest_tokens_of_a_prompt_and_its_text_agree(client):
  options = {**ASKED, 'max_tokens': 4, 'logprobs': 2}
  found = client.completions.create(**options).choices[0]
  again = client.completions.create(
    **{
      **options,
      'prompt': [
        *client.completions.create(
          **ASKED, max_tokens=1, extra_body={'return_token_ids': True}
        )
        .choices[0]
        .prompt_token_ids,
        *found.eejax['tokens'],
      ],
      'max_tokens': 0,
    },
    echo=True,
  ).choices[0]
  ours = [sorted(top.values()) for top in found.logprobs.top_logprobs]
  theirs = [sorted(top.values()) for top in again.logprobs.top_logprobs[-4:]]
  for one, other in zip(ours, theirs, strict=True):
    assert one == pytest.approx(other, abs=1e-4)


def test_likeliest_tokens_of_an_answer(client):
  found = client.chat.completions.create(
    model='tiny',
    messages=[{'role': 'user', 'content': 'beta'}],
    temperature=0,
    max_tokens=3,
    logprobs=True,
    top_logprobs=2,
  )
  for entry in found.choices[0].logprobs.content:
    assert len(entry.top_logprobs) == 2
    assert entry.top_logprobs[0].logprob == pytest.approx(
      entry.logprob, abs=1e-5
    )


def test_a_conversation_goes_on_from_what_is_there(running, client):
  """A prompt that begins as an earlier text does answers the same."""
  told = ['prompt_tokens_total', 'prompt_tokens_cached_total']
  first = client.completions.create(
    **{**ASKED, 'prompt': [7, 8, 9, 10]}, max_tokens=20
  )
  longer = {
    **ASKED,
    'prompt': [7, 8, 9, 10, *first.choices[0].eejax['tokens'], 11],
  }
  before = [running.metric(name, model_name='tiny') for name in told]
  alone = client.completions.create(**longer, max_tokens=5)
  grown = [
    running.metric(name, model_name='tiny') - was
    for name, was in zip(told, before, strict=True)
  ]
  again = client.completions.create(
    **{**longer, 'model': 'again'}, max_tokens=5
  )
  assert alone.choices[0].text == again.choices[0].text
  # All but the last token that was generated, which was not run.
  assert alone.usage.prompt_tokens_details.cached_tokens == 23
  assert grown == [25, 23]
  assert again.usage.prompt_tokens_details.cached_tokens == 0
  *_, last = client.completions.create(
    **longer, max_tokens=5, stream=True, stream_options={'include_usage': True}
  )
  assert last.usage.prompt_tokens_details.cached_tokens == 24
