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
"""Tokens in files: the same batches as from memory, and nothing else."""

import dataclasses
import itertools

import numpy as np
import pytest

from eejax import storage, store_folder
from eejax.data import batches, token_files
from eejax.data.corpus import Split, TextUnit
from eejax.data.data_config import DataConfig
from eejax.data.memory_source import Passes
from eejax.data.tokenizer import train_bpe
from eejax.errors import ArgumentError, EejaxError

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon']


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  random = np.random.default_rng(0)
  file = tmp_path_factory.mktemp('text') / 'text.txt'
  lines = [
    f'{i} ' + ' '.join(random.choice(WORDS, random.integers(1, 30)))
    for i in range(300)
  ]
  file.write_text('\n'.join(lines))
  return file


@pytest.fixture(scope='module')
def tokenizer(text):
  return train_bpe([text.read_text()], vocab_size=290)


@pytest.fixture
def config(text):
  return DataConfig(
    str(text), sequence_length=16, batch_size=4, unit=TextUnit.LINE, seed=5
  )


@pytest.fixture
def prepared(config, tokenizer, tmp_path, monkeypatch):
  """Return the settings of the same text in many small files."""
  monkeypatch.setattr(token_files, 'SHARD_TOKENS', 500)
  folder = batches.prepare_tokens(config, tokenizer, tmp_path / 'tokens')
  assert len(list(folder.glob('train-*.tokens.npy'))) > 3
  return dataclasses.replace(config, corpus=f'tokens:{folder}')


def taken(config, tokenizer, count, **how):
  made = batches.make_batches(config, tokenizer, Split.TRAIN, **how)
  return [b.as_dict() for b in itertools.islice(made, count)]


def assert_equal(first, second):
  assert len(first) == len(second)
  for one, other in zip(first, second, strict=True):
    for name, array in one.items():
      np.testing.assert_array_equal(array, other[name], err_msg=name)


# More than two passes.
MANY = 250


@pytest.mark.parametrize('shard', [0, 1, None])
def test_batches_are_those_from_memory(config, prepared, tokenizer, shard):
  if shard is not None:
    sharded = {'shard_index': shard, 'num_shards': 2}
    config = dataclasses.replace(config, **sharded)
    prepared = dataclasses.replace(prepared, **sharded)
  expected = taken(config, tokenizer, MANY)
  assert_equal(taken(prepared, tokenizer, MANY), expected)


def test_one_pass_is_that_from_memory(config, prepared, tokenizer):
  once = {'passes': Passes.ONCE}
  expected = taken(config, tokenizer, None, **once)
  assert_equal(taken(prepared, tokenizer, None, **once), expected)


def test_a_large_text_goes_into_files_by_itself(
  config, tokenizer, monkeypatch, tmp_path
):
  expected = taken(config, tokenizer, 9)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  monkeypatch.setattr(batches, 'LARGE', 100)
  assert_equal(taken(config, tokenizer, 9), expected)
  made = list(tmp_path.rglob('*'))
  assert any(file.name == token_files.MANIFEST for file in made)
  assert_equal(taken(config, tokenizer, 9), expected)
  assert list(tmp_path.rglob('*')) == made  # read, not made again


def test_going_on_reads_nothing_again(prepared, tokenizer, monkeypatch):
  made = batches.make_batches(prepared, tokenizer, Split.TRAIN)
  list(itertools.islice(made, MANY))
  state = made.state()
  expected = [b.as_dict() for b in itertools.islice(made, 3)]
  again = batches.make_batches(prepared, tokenizer, Split.TRAIN)
  read = []
  take = token_files.TokenPieces.__getitem__

  def note(self, index):
    read.append(index)
    return take(self, index)

  monkeypatch.setattr(token_files.TokenPieces, '__getitem__', note)
  again.restore(state)
  assert_equal([b.as_dict() for b in itertools.islice(again, 3)], expected)
  assert len(read) <= 3 * 4 * 8  # of three batches, not of 250


def test_other_tokens_do_not_go_on(prepared, tokenizer):
  state = batches.make_batches(prepared, tokenizer, Split.TRAIN).state()
  other = dataclasses.replace(prepared, seed=6)
  with pytest.raises(EejaxError, match='fingerprint'):
    batches.make_batches(other, tokenizer, Split.TRAIN).restore(state)


class TestWhatIsWrong:
  def test_another_tokenizer(self, prepared):
    other = train_bpe(['nothing of the kind'], vocab_size=270)
    with pytest.raises(ArgumentError, match='tokens of another tokenizer'):
      taken(prepared, other, 1)

  @pytest.mark.parametrize(
    'damage, words',
    [
      (lambda f: f.write_bytes(f.read_bytes()[:-2]), 'has .* bytes, not'),
      (lambda f: f.write_bytes(b'0' * f.stat().st_size), 'is broken'),
      (lambda f: f.unlink(), 'cannot be read'),
    ],
  )
  @pytest.mark.parametrize('kind', ['tokens', 'ends'])
  def test_a_file(self, prepared, tokenizer, tmp_path, kind, damage, words):
    damage(tmp_path / 'tokens' / f'train-00001.{kind}.npy')
    with pytest.raises(EejaxError, match=f'train-00001.*{words}'):
      taken(prepared, tokenizer, 1)

  def test_no_tokens(self, tokenizer, tmp_path):
    with pytest.raises(ArgumentError, match=r'tokens .* cannot be read'):
      taken(DataConfig(f'tokens:{tmp_path}'), tokenizer, 1)

  def test_something_is_there(self, config, tokenizer, tmp_path):
    (tmp_path / 'a').write_text('a')
    with pytest.raises(ArgumentError, match='is not empty'):
      batches.prepare_tokens(config, tokenizer, tmp_path)


@pytest.mark.store
def test_text_and_tokens_in_a_store(
  config, text, tokenizer, bucket, monkeypatch, tmp_path
):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  store_folder.copy(text.parent, storage.as_path(bucket))
  expected = taken(config, tokenizer, 3)
  for corpus in (bucket, f'{bucket}/*.txt', f'{bucket}/text.txt'):
    there = dataclasses.replace(config, corpus=corpus)
    assert_equal(taken(there, tokenizer, 3), expected)
  batches.prepare_tokens(there, tokenizer, f'{bucket}/tokens')
  prepared = dataclasses.replace(config, corpus=f'tokens:{bucket}/tokens')
  assert_equal(taken(prepared, tokenizer, 3), expected)
