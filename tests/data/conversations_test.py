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
"""Test conversations as data: which tokens count, and what is refused."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from eejax.data import batches as data_batches
from eejax.data import corpus
from eejax.data.batch import PackedBatches, Packing
from eejax.data.chat import chat_template
from eejax.data.conversation_tokens import (
  cut_conversations,
  encode_conversations,
)
from eejax.data.conversations import Conversation, parse_conversations
from eejax.data.corpus import Split, TextUnit
from eejax.data.data_config import DataConfig
from eejax.data.document import WeightedDocument
from eejax.data.document_split import split_documents
from eejax.data.memory_source import InMemoryDocuments, Passes
from eejax.data.tokenizer import Tokenizer, train_bpe
from eejax.errors import ArgumentError
from eejax.progress import Progress

TURNS = (
  "{% for m in messages %}{{ '<|start|>' + m.role + '\\n' + m.content | trim + "
  "'<|end|>\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {
  'turns': TURNS,
  # White space before the end token, and one more token before the next turn.
  'brackets': (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ ' ' + m.content + ' <|end|>' }}"
    "{% else %}{{ '<|start|>[' + m.role + '] ' + m.content + ' [/]' }}"
    '{% endif %}{% endfor %}'
  ),
  # What ends the whole does not follow every turn.
  'ended': TURNS.replace('{% endif %}', '{% else %}<|start|>{% endif %}'),
  # A default system message.
  'default': (
    "{% if messages[0].role != 'system' %}<|start|>system\nHelp.<|end|>\n"
    '{% endif %}' + TURNS
  ),
}
SYSTEM = {'role': 'system', 'content': 'Be brief.'}
TALK = [
  SYSTEM,
  {'role': 'user', 'content': 'What is 2 + 3?'},
  {'role': 'assistant', 'content': 'It is 5.'},
  {'role': 'user', 'content': 'And ö, assistant?'},
  {'role': 'assistant', 'content': 'Two bytes'},
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Return a folder with a tokenizer that has control tokens."""
  path = tmp_path_factory.mktemp('tokenizer')
  text = ' '.join(m['content'] for m in TALK) + ' xab xab xab'
  trained = train_bpe([text], vocab_size=300)
  trained.save(path)
  inner = tokenizers.Tokenizer.from_str(trained.to_json())
  inner.add_special_tokens(['<|start|>', '<|end|>'])
  inner.save(str(path / 'tokenizer.json'))
  return path


@pytest.fixture
def template_of(folder):
  """Return a function that gives a template to the tokenizer."""

  def make(source):
    (folder / 'chat_template.jinja').write_text(source)
    return chat_template(Tokenizer.load(folder))

  return make


def encode(template, messages, **more):
  conversation = Conversation(messages, 'line 3 of a.jsonl', **more)
  (document,) = encode_conversations(template, [conversation])
  return document


class Notes(Progress):
  """Keep every note."""

  def __init__(self):
    self.notes = []

  def say(self, text):
    self.notes.append(text)


# MARK: Which tokens count


@pytest.mark.parametrize('name', TEMPLATES)
@pytest.mark.parametrize('first', [0, 1])
def test_a_turn_follows_what_generation_is_given(name, first, template_of):
  template = template_of(TEMPLATES[name])
  messages = TALK[first:]
  document = encode(template, messages)
  turns = list(document.turns())
  places = [n for n, m in enumerate(messages) if m['role'] == 'assistant']
  assert len(turns) == len(places) == 2
  for place, (prompt, answer) in zip(places, turns, strict=True):
    assert list(prompt) == template.encode(messages[:place])
    said = template.tokenizer.decode(answer[:-1])
    assert said.strip() == messages[place]['content']
    assert template.tokenizer.token_name(answer[-1]) == '<|end|>'
  counted = sum(len(answer) for _, answer in turns)
  assert document.weights.sum() == counted
  assert set(document.weights) == {0, 1}


def test_a_call_of_a_tool_is_a_turn(template_of):
  source = TURNS.replace(
    'm.content | trim',
    "((m.content or '') + (m.tool_calls | tojson if m.tool_calls else ''))",
  )
  template = template_of("{{ tools | join(',') }}" + source)
  call = {'role': 'assistant', 'content': None, 'tool_calls': [{'name': 'add'}]}
  document = encode(template, [*TALK[1:2], call], variables={'tools': ['a']})
  ((prompt, answer),) = document.turns()
  decode = template.tokenizer.decode
  assert decode(prompt).startswith('auser')
  assert json.loads(decode(answer)) == [{'name': 'add'}]
  assert template.tokenizer.token_name(answer[-1]) == '<|end|>'


REFUSED = {
  'no turn': (TURNS, TALK[:2], 'no message of the assistant'),
  'begins': (TURNS, TALK[2:], 'begins with a message of the assistant'),
  'thoughts': (
    TURNS.replace('m.content', "(m.content if loop.last else '...')"),
    TALK,
    'up to message 3 otherwise by itself than within the whole',
  ),
  'no prompt': (
    TURNS.replace('<|start|>assistant\\n', '<|start|>bot\\n'),
    TALK,
    'otherwise by itself',
  ),
  'refusing': (
    "{{ raise_exception('system first') }}",
    TALK,
    'the chat template refuses',
  ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_shows_no_turn_is_one_sentence(name, template_of):
  source, messages, words = REFUSED[name]
  with pytest.raises(ArgumentError, match=words) as caught:
    encode(template_of(source), messages)
  assert str(caught.value).startswith('line 3 of a.jsonl')
  assert '\n' not in str(caught.value)


def test_an_answer_that_begins_with_space_is_not_joined(template_of):
  template = template_of(TURNS.replace(' | trim', ''))
  messages = [TALK[1], {'role': 'assistant', 'content': '\n  5\n\n'}]
  ((prompt, answer),) = encode(template, messages).turns()
  assert list(prompt) == template.encode(messages[:1])
  assert template.tokenizer.decode(answer) == '\n  5\n\n'
  assert template.tokenizer.token_name(answer[-1]) == '<|end|>'


def test_a_tokenizer_that_joins_turns_is_one_sentence(tmp_path):
  names = ['a:', '▁', 'b', '▁b', 'u', '▁u', '▁a:', 'a', ':', '▁a']
  vocabulary = {name: i for i, name in enumerate(names)}
  merges = [('▁', 'b'), ('▁', 'u'), ('▁', 'a'), ('▁a', ':')]
  inner = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
  inner.pre_tokenizer = pre_tokenizers.Metaspace()
  inner.decoder = decoders.Metaspace()
  inner.save(str(tmp_path / 'tokenizer.json'))
  source = (
    "{% for m in messages %}{{ begin if m.role == 'assistant' else 'u' }}"
    '{{ m.content }} {% endfor %}{{ begin if add_generation_prompt }}'
  )
  messages = [{'role': r, 'content': 'b'} for r in ('user', 'assistant')]

  def turns(space):
    (tmp_path / 'chat_template.jinja').write_text(
      f"{{% set begin = 'a:{space}' %}}{source}"
    )
    template = chat_template(Tokenizer.load(tmp_path))
    return list(encode(template, messages).turns())

  ((prompt, answer),) = turns('')
  assert [names[i] for i in prompt[-1:]] == ['▁a:'] and names[answer[0]] == 'b'
  with pytest.raises(ArgumentError, match='the tokenizer joins a turn'):
    turns(' ')


# MARK: Files


def test_files_are_read_with_what_templates_read(tmp_path):
  path = tmp_path / 'a.jsonl'
  lines = [
    {'messages': TALK, 'tools': ['a'], 'chat_template_kwargs': {'b': 1}},
    TALK,
  ]
  path.write_text('\n\n'.join(map(json.dumps, lines)) + '\n')
  found = list(parse_conversations(path.read_text(), path=path))
  assert [c.messages for c in found] == [TALK, TALK]
  assert found[0].variables == {'b': 1, 'tools': ['a']}
  assert found[1].where == f'line 3 of {path}'


@pytest.mark.parametrize(
  'line, words',
  [
    ('{"messages": [', 'line 2 of .* is no valid JSON'),
    ('{"text": "a"}', 'line 2 of .*: messages must be a list of'),
    ('[{"role": "bot", "content": "a"}]', "line 2 of .* not 'bot'"),
    ('[{"role": "user"}]', 'line 2 of .* the content of message 1'),
    ('3', 'line 2 of .*: messages must be a list of'),
  ],
)
def test_bad_lines_are_named(line, words, tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text(json.dumps(TALK) + '\n' + line)
  with pytest.raises(ArgumentError, match=words) as caught:
    list(corpus.read_conversations(path))
  assert '\n' not in str(caught.value)


def test_parts_are_split_by_what_is_said(tmp_path):
  talks = [
    [{'role': 'user', 'content': f'{n}'}, {'role': 'assistant', 'content': 'a'}]
    for n in range(200)
  ]
  path = tmp_path / 'a.jsonl'
  path.write_text('\n'.join(map(json.dumps, talks)))
  (tmp_path / 'notes.txt').write_text('not read')
  read = lambda split: {
    c.text for c in corpus.read_conversations(tmp_path, split=split)
  }
  train, held_out = read(Split.TRAIN), read(Split.HELD_OUT)
  assert len(train) + len(held_out) == 200 and not train & held_out
  assert 5 < len(held_out) < 40
  with pytest.raises(ArgumentError, match='is no .jsonl file'):
    next(corpus.read_conversations(tmp_path / 'notes.txt'))


@pytest.mark.parametrize('source', ['stdlib', 'seqio:task', 'tfds:lm1b'])
def test_other_sources_have_no_conversations(source):
  with pytest.raises(ArgumentError, match='has no conversations'):
    DataConfig(corpus=source, unit=TextUnit.CONVERSATION)


def test_a_tokenizer_without_a_template_is_refused(folder, tmp_path):
  (folder / 'chat_template.jinja').unlink(missing_ok=True)
  path = tmp_path / 'a.jsonl'
  path.write_text(json.dumps(TALK))
  config = DataConfig(corpus=str(path), unit=TextUnit.CONVERSATION)
  with pytest.raises(ArgumentError, match='the tokenizer has none; put a'):
    data_batches.make_batches(config, Tokenizer.load(folder), Split.ALL)


# MARK: Rows


def weighted(length, *counted):
  weights = np.zeros(length, np.float32)
  weights[list(counted)] = 1
  return WeightedDocument(np.arange(1, length + 1, dtype=np.int32), weights)


def test_what_is_longer_than_a_row_is_cut_and_said():
  notes = Notes()
  short, long, late = weighted(4, 2, 3), weighted(9, 3, 7, 8), weighted(9, 8)
  kept = cut_conversations([short, long, late], length=5, progress=notes)
  assert [len(d) for d in kept] == [4, 6]
  assert notes.notes == [
    '2 of 3 conversations are longer than a row of 5 tokens and were cut '
    'there; 1 of them were left out, for no answer begins before.'
  ]
  cut_conversations([short], length=5, progress=notes)
  assert len(notes.notes) == 1
  with pytest.raises(ArgumentError, match='give a larger sequence length'):
    cut_conversations([late], length=5)


def test_weights_are_those_of_targets():
  (batch,) = PackedBatches(
    InMemoryDocuments([weighted(5, 2, 4)], passes=Passes.ONCE),
    sequence_length=6,
    batch_size=1,
  )
  assert batch.targets[0].tolist() == [2, 3, 4, 5, 0, 0]
  assert batch.weights[0].tolist() == [0, 1, 0, 1, 0, 0]
  assert batch.segment_ids[0].tolist() == [1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize('num_shards', [1, 2])
def test_whole_documents_share_rows(num_shards):
  lengths = (5, 4, 8, 3, 2, 9, 1, 6, 4, 7, 3)
  documents = [weighted(n, *range(1, n)) for n in lengths]
  rows = []
  counts = set()
  for shard in range(num_shards):
    batches = list(
      PackedBatches(
        InMemoryDocuments(documents, passes=Passes.ONCE),
        sequence_length=8,
        batch_size=1,
        packing=Packing.WHOLE,
        shard_index=shard,
        num_shards=num_shards,
      )
    )
    counts.add(len(batches))
    rows += [b for b in batches if b.weights.any()]
  assert len(counts) == 1
  found = []
  for batch in rows:
    for segment in range(1, batch.segment_ids.max() + 1):
      inside = batch.segment_ids[0] == segment
      assert batch.tokens[0][inside][0] == 1  # from its beginning
      found.append(inside.sum() + 1)
  assert sorted(found) == sorted(n for n in lengths if n > 1)


def test_a_run_goes_on_within_whole_documents():
  documents = [weighted(n, 1) for n in (5, 4, 8, 3, 2, 9)]
  make = lambda: PackedBatches(
    InMemoryDocuments(documents, passes=Passes.ENDLESS),
    sequence_length=8,
    batch_size=2,
    packing=Packing.WHOLE,
  )
  batches = make()
  next(batches)
  state, expected = batches.state(), next(batches)
  again = make()
  again.restore(state)
  np.testing.assert_array_equal(next(again).tokens, expected.tokens)


def test_the_fingerprint_follows_the_weights():
  prints = {
    InMemoryDocuments([d], passes=Passes.ONCE).fingerprint
    for d in (weighted(5, 2), weighted(5, 3), weighted(5, 2).tokens)
  }
  assert len(prints) == 3


def test_conversations_are_not_cut_to_be_split():
  documents = [weighted(n, 2) for n in (5, 6, 7)]
  parts = split_documents(documents, shares=(1, 1))
  assert sum(map(len, parts)) == 3
  with pytest.raises(ArgumentError, match='3 conversations cannot be split'):
    split_documents(documents, shares=(1, 1, 1, 1))
