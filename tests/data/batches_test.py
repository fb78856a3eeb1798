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
"""From a run's data settings to batches, without TensorFlow."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from eejax.data.batches import (
  DataConfig,
  make_batches,
  make_source,
  pieces,
  read_texts,
)
from eejax.data.corpus import Split, TextUnit
from eejax.data.memory_source import Passes
from eejax.data.tokenizer import train_bpe
from eejax.errors import ArgumentError

LINES = [f'line {i}: ' + 'abc ' * (i % 7) for i in range(400)]


@pytest.fixture(scope='module')
def tokenizer():
  return train_bpe(LINES, vocab_size=300)


@pytest.fixture
def config(tmp_path):
  file = tmp_path / 'a.txt'
  file.write_text('\n'.join(LINES))
  return DataConfig(
    corpus=str(file), unit=TextUnit.LINE, sequence_length=16, batch_size=4
  )


def test_documents_stand_between_start_and_end(config, tokenizer):
  source = make_source(config, tokenizer, Split.ALL, passes=Passes.ONCE)
  documents = list(source.documents(start=0))
  assert [tokenizer.decode(d) for d in documents] == LINES
  for document in documents:
    assert document[0] == tokenizer.bos_id
    assert document[-1] == tokenizer.eos_id


def test_the_end_token_is_learned_and_the_start_token_never(config, tokenizer):
  targets = [
    b.targets[b.weights > 0]
    for b in make_batches(config, tokenizer, Split.ALL, passes=Passes.ONCE)
  ]
  targets = np.concatenate(targets)
  assert (targets == tokenizer.eos_id).sum() == len(LINES)
  assert not (targets == tokenizer.bos_id).any()


def test_jsonl(tmp_path, tokenizer):
  file = tmp_path / 'a.jsonl'
  file.write_text(''.join(json.dumps({'q': x}) + '\n' for x in LINES))
  config = DataConfig(corpus=str(file), field='q')
  assert list(read_texts(config, split=Split.ALL)) == LINES


def test_splits_do_not_share_documents(config, tokenizer):
  parts = [
    {
      tokenizer.decode(d)
      for d in make_source(
        config, tokenizer, split, passes=Passes.ONCE
      ).documents(start=0)
    }
    for split in (Split.TRAIN, Split.VALIDATION, Split.TEST)
  ]
  assert all(parts)
  assert sum(map(len, parts)) == len(set(LINES))


def test_a_batch_is_shared_between_hosts(config, tokenizer):
  shards = []
  for i in range(2):
    shard = dataclasses.replace(config, shard_index=i, num_shards=2)
    batches = make_batches(shard, tokenizer, Split.ALL, passes=Passes.ONCE)
    shards.append(list(batches))
  assert {b.tokens.shape for s in shards for b in s} == {(2, 16)}
  assert len(shards[0]) == len(shards[1])


def test_standard_library(tokenizer):
  config = DataConfig(sequence_length=32, batch_size=2)
  batches = make_batches(config, tokenizer, Split.TEST)
  first = [next(batches) for _ in range(3)]
  state = json.loads(json.dumps(batches.state()))
  after = next(batches)
  again = make_batches(config, tokenizer, Split.TEST)
  again.restore(state)
  np.testing.assert_array_equal(next(again).tokens, after.tokens)
  assert all((b.weights == 1).all() for b in first)


def test_no_tensorflow(config):
  program = (
    'import sys; from eejax.data.batches import *;'
    'from eejax.data.corpus import Split;'
    'from eejax.data.tokenizer import train_bpe;'
    'texts = list(read_texts(DataConfig(corpus=sys.argv[1]), split=Split.ALL));'
    'tokenizer = train_bpe(texts, vocab_size=270);'
    'next(make_batches(DataConfig(corpus=sys.argv[1]), tokenizer, Split.ALL));'
    "print(any(m.startswith(('tensorflow', 'seqio')) for m in sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, '-c', program, config.corpus],
    capture_output=True,
    text=True,
  )
  assert done.stdout == 'False\n', done.stderr


def test_a_missing_extra_is_named(config):
  program = (
    "import sys; sys.modules['seqio'] = None\n"
    'from eejax.data.batches import *\n'
    'from eejax.data.corpus import Split\n'
    'from eejax.data.tokenizer import train_bpe\n'
    'from eejax.errors import EejaxError\n'
    "tokenizer = train_bpe(['a'], vocab_size=259)\n"
    'try:\n'
    "  make_batches(DataConfig('seqio:eejax_stdlib'), tokenizer, Split.ALL)\n"
    'except EejaxError as error:\n'
    '  print(error)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert done.stdout.count('\n') == 1, done.stderr
  assert "pip install 'eejax[train]'" in done.stdout


class TestBadInput:
  @pytest.mark.parametrize(
    'settings',
    [
      {'sequence_length': 0},
      {'batch_size': 0},
      {'shard_index': 1},
      {'batch_size': 3, 'num_shards': 2},
    ],
  )
  def test_numbers(self, settings):
    with pytest.raises(ArgumentError):
      DataConfig(**settings)

  def test_an_empty_part(self, tmp_path, tokenizer):
    file = tmp_path / 'a.txt'
    file.write_text('one document')
    config = DataConfig(corpus=str(file), sequence_length=4)
    empty = 0
    for split in (Split.TRAIN, Split.VALIDATION, Split.TEST):
      try:
        make_source(config, tokenizer, split)
      except ArgumentError as error:
        assert f'the {split.value} part' in str(error)
        empty += 1
    assert empty == 2

  def test_a_text_that_fills_no_row_is_not_learned(self, tmp_path, tokenizer):
    file = tmp_path / 'a.txt'
    file.write_text('one document')
    config = DataConfig(corpus=str(file), sequence_length=64)
    with pytest.raises(ArgumentError, match='do not fill one row of 64'):
      make_source(config, tokenizer, Split.ALL)
    make_source(config, tokenizer, Split.ALL, passes=Passes.ONCE)

  def test_texts_of_a_seqio_corpus(self):
    with pytest.raises(ArgumentError, match='through seqio'):
      list(read_texts(DataConfig(corpus='seqio:x'), split=Split.ALL))


@pytest.mark.parametrize('size', [0, 1, 2, 7, 8, 9, 16, 17, 30])
def test_pieces_predict_every_token_but_the_first_once(size):
  document = np.arange(size, dtype=np.int32)
  cut = list(pieces(document, length=8))
  assert all(len(piece) <= 9 for piece in cut)
  targets = np.concatenate([piece[1:] for piece in cut])
  np.testing.assert_array_equal(targets, document[1:])
