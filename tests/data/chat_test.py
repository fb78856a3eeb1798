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
"""Tests of chat templates."""

import datetime
import json

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from eejax.data.chat import ChatEnding, chat_template, check_messages
from eejax.data.tokenizer import Tokenizer, train_bpe
from eejax.errors import ArgumentError, CheckpointError

# Programs in the manner of those that models come with.
TURNS = """
{%- for m in messages %}
  {{- '<|start|>' + m.role + '\\n' + m['content'] | trim + '<|end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}
"""
BRACKETS = """
{%- if messages[0].role == 'system' %}
  {%- set before = messages[0].content + '\\n\\n' %}
  {%- set turns = messages[1:] %}
{%- else %}
  {%- set before = '' %}{% set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for m in turns %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('user and assistant must take turns') }}
  {%- endif %}
  {%- if m.role == 'user' %}
    {{- '[INST] ' + (before if loop.first else '') + m.content + ' [/INST]' }}
  {%- elif m.role == 'assistant' %}
    {{- ' ' + m.content + eos_token }}
  {%- endif %}
{%- endfor %}
"""
TOOLS = """{{ bos_token }}
{%- if tools is defined and tools %}
  <tools>
  {% for tool in tools %}
    {{ tool | tojson }}
    {{ tool | tojson(indent=2) }}
  {% endfor %}
  </tools>
{%- endif %}
Today is {{ strftime_now('%d %B %Y') }}.
{% for m in messages %}
  {% if m.role == 'system' %}{% continue %}{% endif %}
  {% if m.role == 'assistant' %}
<|start|>{% generation %}{{ m.content }}<|end|>{% endgeneration %}

  {% else %}
<|start|>{{ m.role }}: {{ m.content }}<|end|>
  {% endif %}
{% endfor %}
{%- if add_generation_prompt %}<|start|>{% endif %}"""
TEMPLATES = {'turns': TURNS, 'brackets': BRACKETS, 'tools': TOOLS}

USER = {'role': 'user', 'content': 'What is 2 + 3?'}
TALK = [
  {'role': 'system', 'content': 'Be brief.'},
  USER,
  {'role': 'assistant', 'content': ' It is "5", <b>ö</b>. '},
  {'role': 'user', 'content': 'And 3 + 3?'},
]
TOOL = {'name': 'add', 'parameters': {'a': 'a <number>', 'b': ['ö', 1]}}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Return a folder with a tokenizer of bytes and four control tokens."""
  path = tmp_path_factory.mktemp('tokenizer')
  names = ['<s>', '</s>', '<|start|>', '<|end|>']
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  ids = {token: i for i, token in enumerate([*names, *alphabet])}
  inner = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=[]))
  inner.add_special_tokens(names)
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.save(str(path / 'tokenizer.json'))
  return path


def load(folder, source, *, home='config', **config):
  """Return a template after writing it where `home` says."""
  values = {'bos_token': '<s>', 'eos_token': '</s>', **config}
  (folder / 'chat_template.jinja').unlink(missing_ok=True)
  if home == 'file':
    (folder / 'chat_template.jinja').write_text(source)
  elif source is not None:
    values['chat_template'] = source
  (folder / 'tokenizer_config.json').write_text(json.dumps(values))
  return chat_template(Tokenizer.load(folder))


# MARK: Rendering


def test_turns_are_written_as_the_template_says(folder):
  template = load(folder, TURNS)
  assert template.render(TALK[:2]) == (
    '<|start|>system\nBe brief.<|end|>\n'
    '<|start|>user\nWhat is 2 + 3?<|end|>\n<|start|>assistant\n'
  )
  closed = template.render([USER], ending=ChatEnding.CLOSED)
  assert closed == '<|start|>user\nWhat is 2 + 3?<|end|>\n'


def test_an_open_turn_goes_on_where_it_stopped(folder):
  turns = [USER, {'role': 'assistant', 'content': 'It is '}]
  trimmed = load(folder, TURNS).render(turns, ending=ChatEnding.OPEN)
  assert trimmed.endswith('<|start|>assistant\nIt is')
  kept = load(folder, BRACKETS).render(turns, ending=ChatEnding.OPEN)
  assert kept.endswith('[/INST] It is ')
  assert turns[1]['content'] == 'It is '


def test_a_file_comes_before_the_configuration(folder):
  other = load(folder, TURNS, home='file', chat_template='other')
  assert other.render([USER]).startswith('<|start|>user')


def test_of_several_templates_the_default_is_taken(folder):
  named = [
    {'name': 'tool_use', 'template': 'other'},
    {'name': 'default', 'template': 'the {{ bos_token }}'},
  ]
  assert load(folder, named).render([USER]) == 'the <s>'


def test_ids_have_one_start_token_and_control_tokens(folder):
  ids = load(folder, BRACKETS, add_bos_token=True).encode(TALK)
  assert ids[0] == 0 and ids.count(0) == 1 and ids.count(1) == 1


def test_text_parts_are_joined(folder):
  parts = [{'type': 'text', 'text': 'a'}, {'type': 'text', 'text': 'b'}]
  text = load(folder, TURNS).render([{'role': 'user', 'content': parts}])
  assert text.startswith('<|start|>user\na\nb<|end|>')


def test_variables_reach_the_program(folder):
  source = "{{ 'deep' if enable_thinking else 'quick' }}{{ messages | length }}"
  template = load(folder, source)
  assert template.render([USER]) == 'quick1'
  variables = {'enable_thinking': True, 'messages': []}
  assert template.render([USER], variables=variables) == 'deep1'


@pytest.mark.parity
@pytest.mark.parametrize('name', TEMPLATES)
@pytest.mark.parametrize('ending', ChatEnding)
def test_it_is_what_transformers_writes(folder, name, ending):
  import transformers

  ours = load(folder, TEMPLATES[name])
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  talk = TALK if ending is ChatEnding.ANSWER else TALK[:3]
  wanted = theirs.apply_chat_template(
    talk,
    tools=[TOOL],
    tokenize=False,
    add_generation_prompt=ending is ChatEnding.ANSWER,
    continue_final_message=ending is ChatEnding.OPEN,
  )
  found = ours.render(talk, ending=ending, variables={'tools': [TOOL]})
  assert found == wanted
  if name == 'tools':
    assert datetime.datetime.now().strftime('%Y') in found
  ids = theirs(wanted, add_special_tokens=False)['input_ids']
  assert ours.encode(talk, ending=ending, variables={'tools': [TOOL]}) == ids


def test_a_token_may_be_written_out(folder):
  written = {'__type': 'AddedToken', 'content': '<|end|>'}
  template = load(folder, '{{ eos_token }}', eos_token=written)
  assert template.render([USER]) == '<|end|>'


# MARK: End tokens


def test_the_token_after_an_answer_ends_it(folder):
  assert load(folder, TURNS).end_ids == (1, 3)
  assert load(folder, BRACKETS).end_ids == (1,)


@pytest.mark.parametrize(
  'source',
  [
    '{{ messages[0].role }}: {{ messages[-1].content }}\nuser: ',
    "{{ raise_exception('one turn alone') if messages | length > 1 }}<|end|>",
    'The same whoever talks.<|end|>',
  ],
)
def test_where_no_control_token_follows_there_is_none_more(folder, source):
  assert load(folder, source).end_ids == (1,)


# MARK: What cannot be rendered


def test_a_model_without_a_template_says_so(folder):
  with pytest.raises(ArgumentError, match='has no chat template'):
    load(folder, None)
  with pytest.raises(ArgumentError, match='has no chat template'):
    chat_template(train_bpe(['alpha beta'], vocab_size=270))


@pytest.mark.parametrize(
  'messages, words',
  [
    ([], 'must be a list of'),
    ('hello', 'must be a list of'),
    (USER, 'must be a list of'),
    (['hello'], "message 1 must be {'role'"),
    ([USER, {'content': 'a'}], 'the role of message 2 must be one of system'),
    ([{'role': 'usr', 'content': 'a'}], "not 'usr'"),
    ([{'role': 'user'}], 'the content of message 1 must be a text'),
    ([{'role': 'user', 'content': 3}], 'the content of message 1 must be'),
    (
      [{'role': 'user', 'content': [{'type': 'image_url', 'image_url': ''}]}],
      'message 1 has a part that is no text',
    ),
  ],
  ids=str,
)
def test_what_is_no_message_is_said_by_its_number(messages, words):
  with pytest.raises(ArgumentError, match=words) as caught:
    check_messages(messages)
  assert '\n' not in str(caught.value)


def test_a_message_that_calls_a_tool_needs_no_content():
  call = {'role': 'assistant', 'content': None, 'tool_calls': [{'id': '1'}]}
  assert check_messages([USER, call])[1] == call


@pytest.mark.parametrize(
  'source, error, words',
  [
    (BRACKETS, ArgumentError, 'refuses the messages: user and assistant must'),
    ('{% for %}', CheckpointError, 'is no Jinja program .line 1'),
    ('{{ messages[9].role.name }}', ArgumentError, 'refuses the messages'),
    ('{{ messages[0].content + 1 }}', ArgumentError, 'TypeError'),
    ('{{ messages.append(1) }}', ArgumentError, 'refuses .* unsafe'),
    ("{{ ''.__class__.__mro__ }}", ArgumentError, 'refuses .* unsafe'),
  ],
)
def test_what_stops_a_program_is_one_sentence(folder, source, error, words):
  with pytest.raises(error, match=words) as caught:
    load(folder, source).render([USER, USER])
  assert '\n' not in str(caught.value)


def test_an_ending_that_the_template_leaves_out_cannot_go_on(folder):
  template = load(folder, '{{ messages[0].content }}')
  with pytest.raises(ArgumentError, match='cannot be continued'):
    template.render(TALK[:3], ending=ChatEnding.OPEN)


def test_a_configuration_with_another_kind_of_template_is_broken(folder):
  with pytest.raises(CheckpointError, match='chat_template in tokenizer_con'):
    load(folder, {'default': 'x'})
