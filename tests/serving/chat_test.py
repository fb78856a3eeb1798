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
"""Test conversations with the real client, against single runs."""

import openai
import pytest

import eejax

TURNS = [
  {'role': 'system', 'content': 'alpha'},
  {'role': 'user', 'content': 'beta gamma'},
  {'role': 'assistant', 'content': 'delta'},
  {'role': 'user', 'content': 'beta'},
]
ASKED = {'model': 'tiny', 'messages': TURNS, 'temperature': 0}


def single(model, **options):
  return eejax.generate(model, [TURNS], **options).rows[0]


def test_an_answer_equals_a_single_run(client, model):
  found = client.chat.completions.create(
    **ASKED,
    max_completion_tokens=6,
    extra_body={'eejax': {'mode': 'early_exit', 'threshold': 0.3}},
  )
  expected = single(model, mode='early_exit', thresholds=0.3, max_new_tokens=6)
  (choice,) = found.choices
  assert found.object == 'chat.completion'
  assert choice.message.role == 'assistant'
  assert choice.message.content == expected.text
  assert choice.eejax['exit_depths'] == list(expected.exit_depths)
  assert found.usage.prompt_tokens == len(expected.prompt_tokens)
  # It ends where the template's end token comes.
  assert expected.finish_reason.value == 'eos'
  assert choice.finish_reason == 'stop'
  assert choice.eejax['tokens'] == list(expected.tokens)


def test_an_answer_may_fill_the_context(client, model):
  found = client.chat.completions.create(
    **ASKED, extra_body={'ignore_eos': True}
  )
  prompt = list(model.chat_template.encode(TURNS))
  expected = eejax.generate(model, [prompt]).rows[0]
  assert found.usage.completion_tokens == 64 - len(prompt)
  assert found.choices[0].message.content == expected.text


def test_a_streamed_answer(client, model):
  stream = client.chat.completions.create(
    **ASKED,
    max_tokens=9,
    stream=True,
    stream_options={'include_usage': True},
  )
  *chunks, last = list(stream)
  assert chunks[0].object == 'chat.completion.chunk'
  assert chunks[0].choices[0].delta.role == 'assistant'
  text = ''.join(chunk.choices[0].delta.content for chunk in chunks)
  expected = single(model, max_new_tokens=9)
  assert text == expected.text
  assert chunks[-1].choices[0].finish_reason == 'stop'
  assert last.choices == []
  assert last.usage.completion_tokens == len(expected.tokens)


def test_the_stream_helper_of_the_client_joins_an_answer(client, model):
  expected = single(model, max_new_tokens=9)
  with client.chat.completions.stream(
    **ASKED, max_tokens=9, logprobs=True
  ) as stream:
    texts = [e.delta for e in stream if e.type == 'content.delta']
    found = stream.get_final_completion().choices[0]
  assert (found.message.role, found.finish_reason) == ('assistant', 'stop')
  assert found.message.content == ''.join(texts) == expected.text
  assert len(found.logprobs.content) == len(expected.tokens)


def test_an_answer_that_is_continued_may_be_echoed(client):
  begun = [*TURNS, {'role': 'assistant', 'content': 'delta gam'}]
  asked = {**ASKED, 'messages': begun, 'max_tokens': 4, 'logprobs': True}
  more = {'add_generation_prompt': False, 'continue_final_message': True}
  ask = lambda **fields: client.chat.completions.create(
    **asked, extra_body={**more, **fields}
  ).choices[0]
  alone, echoed = ask(), ask(echo=True)
  assert echoed.message.content == 'delta gam' + alone.message.content
  assert len(echoed.logprobs.content) == len(alone.logprobs.content) <= 4
  asked['messages'] = TURNS
  more.clear()
  assert ask(echo=True).message.content == ask().message.content


def test_logprobs_of_an_answer(client, model):
  found = client.chat.completions.create(**ASKED, max_tokens=4, logprobs=True)
  expected = single(model, max_new_tokens=4)
  content = found.choices[0].logprobs.content
  assert [c.logprob for c in content] == pytest.approx(
    list(expected.logprobs), abs=1e-5
  )
  assert all(bytes(c.bytes).decode() == c.token for c in content)


def test_messages_are_tokenized_by_the_template(http, model):
  found = http.post('/tokenize', json={'model': 'tiny', 'messages': TURNS})
  expected = model.chat_template.encode(TURNS)
  assert found.json()['tokens'] == list(expected)
  info = http.get('/tokenizer_info', params={'model': 'tiny'}).json()
  assert info['chat_template'] == model.chat_template.source
  assert info['bos_token']


@pytest.mark.parametrize(
  'change, param, words',
  [
    ({'messages': []}, 'messages', 'messages must be a list'),
    ({'messages': 'alpha'}, 'messages', 'messages must be a list'),
    ({'messages': [{'role': 'king', 'content': 'a'}]}, 'messages', 'role'),
    ({'messages': [{'role': 'user'}]}, 'messages', 'content'),
    (
      {'messages': [{'role': 'tool', 'content': 'a'}]},
      'messages',
      'tools are not for me',
    ),
    ({'prompt': 'alpha'}, 'messages', 'not both'),
    ({'top_logprobs': 2}, 'top_logprobs', 'logprobs: true'),
    ({'logprobs': True, 'top_logprobs': 21}, 'top_logprobs', 'at most 20'),
    ({'logprobs': 3}, 'logprobs', 'a boolean'),
    ({'tools': [{'type': 'function'}]}, 'tools', 'not supported'),
    ({'max_completion_tokens': 60}, 'messages', 'maximum context length'),
    ({'max_tokens': 0}, 'max_tokens', 'at least 1'),
    ({'response_format': {'type': 'json'}}, 'response_format', 'text'),
  ],
)
def test_wrong_fields(client, change, param, words):
  with pytest.raises(openai.BadRequestError, match=words) as wrong:
    client.post('/chat/completions', body={**ASKED, **change}, cast_to=object)
  assert wrong.value.param == param
