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
"""Test the texts that recipes read."""

import dataclasses
import os

import pytest

from eejax.data.corpus import Split, TextUnit
from eejax.errors import ArgumentError
from eejax.recipes import text as text_lib
from eejax.recipes.text import read_text


def test_a_file_is_read_whole_and_the_library_in_part(tmp_path):
  path = tmp_path / 'notes.txt'
  path.write_text('one\n\ntwo')
  text = read_text(path, unit='paragraph')
  assert text.part is Split.ALL
  assert text.unit is TextUnit.PARAGRAPH
  assert list(text.documents()) == ['one', 'two']
  assert read_text().part is Split.VALIDATION
  assert read_text(split='test').part is Split.TEST


@pytest.mark.parametrize(
  'arguments, sentence',
  [
    ({'source': 'missing.txt'}, 'missing.txt'),
    ({'source': 'empty.txt'}, 'no text'),
    ({'source': 'notes.txt', 'unit': 'page'}, 'unit must be one of file'),
    ({'source': 'notes.txt', 'split': 'dev'}, 'split must be one of train'),
  ],
)
def test_what_cannot_be_read_is_said_at_once(
  tmp_path, monkeypatch, arguments, sentence
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'empty.txt').write_text('')
  (tmp_path / 'notes.txt').write_text('words')
  with pytest.raises(ArgumentError, match=sentence):
    read_text(**arguments)


def test_the_fingerprint_follows_the_text_and_its_part(tmp_path):
  path = tmp_path / 'notes.txt'
  path.write_text('words')
  first = read_text(path)
  prints = {first.fingerprint(), first.of_split(Split.TEST).fingerprint()}
  prints.add(read_text(path, unit='line').fingerprint())
  path.write_text('other')
  os.utime(path, ns=(0, 0))
  prints.add(first.fingerprint())
  assert len(prints) == 4
  assert first.fingerprint() == read_text(path).fingerprint()


def test_what_a_model_was_trained_on_is_left_out(tmp_path, model):
  path = tmp_path / 'notes.txt'
  path.write_text('\n\n'.join(f'document {i}' for i in range(200)))
  text = read_text(path, unit='paragraph')
  run = {'tune': {'text': {'source': str(path), 'unit': 'paragraph'}}}
  tuned = dataclasses.replace(model, provenance=run)
  unseen = list(text.unseen_by(tuned).documents())
  trained = set(text.of_split(Split.TRAIN).documents())
  assert 0 < len(unseen) < 60
  assert not trained & set(unseen)
  assert len(trained) + len(unseen) == 200
  # A part that was asked for, another text, a model that was not trained on it.
  for other in (text.of_split(Split.TRAIN), read_text()):
    assert other.unseen_by(tuned) == other
  assert text.unseen_by(model) == text


@pytest.fixture(scope='module')
def model():
  from eejax.checkpoint.load import load

  return load('default')


def test_rows_and_pieces_have_the_length_asked_for(model):
  text = read_text()
  batches = text.rows(model, max_tokens=200, sequence_length=32, batch_size=2)
  assert {batch.tokens.shape for batch in batches} == {(2, 32)}
  pieces = text.pieces(model, length=16, max_tokens=100)
  assert pieces and {len(piece) for piece in pieces} == {16}


def test_rows_longer_than_the_context_are_refused(model):
  context = model.config.model.max_length
  assert text_lib.row_length(model, None) == 256
  with pytest.raises(ArgumentError, match=f'context of the model, {context}'):
    text_lib.row_length(model, context + 1)


def test_a_model_without_a_tokenizer_reads_no_text(model):
  bare = dataclasses.replace(model, tokenizer_folder=None)
  with pytest.raises(ArgumentError, match='has no tokenizer'):
    read_text().rows(bare, max_tokens=100)


def test_parts_of_a_text_share_no_piece(model, tmp_path):
  path = tmp_path / 'lines.txt'
  lines = [' '.join(f'w{i}x{j}' for j in range(40)) for i in range(30)]
  # Lines that begin alike give pieces that are equal.
  path.write_text(
    '\n'.join(f'the same start for all of them {x}' for x in lines)
  )
  parts = read_text(path, unit='line').parts(1, 2, 1)
  pieces = [set(part.pieces(model, length=8)) for part in parts]
  assert all(pieces)
  assert not pieces[0] & pieces[1]
  assert not (pieces[0] | pieces[1]) & pieces[2]
  assert len({part.fingerprint() for part in parts}) == 3


def test_a_part_is_not_split_once_more():
  part, _ = read_text().parts(1, 1)
  with pytest.raises(ArgumentError, match='once more'):
    part.parts(1, 1)
  with pytest.raises(ArgumentError, match='rows or pieces'):
    next(part.documents())
  with pytest.raises(ArgumentError, match='positive shares'):
    read_text().parts(1, -1)
