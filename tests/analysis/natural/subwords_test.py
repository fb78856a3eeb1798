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
"""Test classes of tokens over tokenizers that write words differently."""

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models

from eejax.analysis.natural import subwords
from eejax.analysis.natural.subwords import TokenClass, token_class
from eejax.data.special_tokens import SpecialTokens
from eejax.data.tokenizer import Tokenizer, train_bpe
from eejax.stats.bootstrap import Bootstrap

FEW = Bootstrap(draws=20)


@pytest.mark.parametrize(
  'before, text, wanted',
  [
    ('the', ' cat', 'first'),
    ('cat', 's', 'continuation'),
    ('(', 'cat', 'first'),
    ('x', '.append', 'first'),
    ('foo', '_bar', 'first'),
    ('3', 'rd', 'first'),
    ('na', 'ïve', 'continuation'),
    ('x', ' 12', 'digits'),
    ('x', '12', 'digits'),
    ('x', '):\n    ', 'punctuation'),
    ('x', '\n\n', 'white_space'),
    ('x', '', 'special'),
    ('x', '\ufffd', 'other'),
  ],
)
def test_what_a_token_is(before, text, wanted):
  assert token_class(text, before=before) is TokenClass(wanted)


def sentencepiece_like():
  vocabulary = {'<s>': 0, '▁a': 1, 'a': 2, '▁cat': 3, 's': 4, '▁': 5, '.': 6}
  inner = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token='<s>'))
  inner.decoder = decoders.Metaspace()
  inner.add_special_tokens(['<s>'])
  return Tokenizer(inner, special=SpecialTokens(bos_id=0))


def wordpiece_like():
  vocabulary = {'[UNK]': 0, 'a': 1, 'cat': 2, '##s': 3, '.': 4}
  inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token='[UNK]'))
  inner.decoder = decoders.WordPiece(cleanup=False)
  inner.add_special_tokens(['[UNK]'])
  return Tokenizer(inner, special=SpecialTokens())


def test_texts_of_tokens():
  byte_level = train_bpe(['the cat the cat the cats'] * 3, vocab_size=280)
  texts = subwords.token_texts(byte_level, 290)
  assert len(texts) == 290
  assert texts[byte_level.encode(' the', add_bos=False)[0]].startswith(' t')
  assert texts[1] == '' and texts[285] == ''  # start token, and no token
  assert '\ufffd' in texts  # half a character
  assert subwords.token_texts(sentencepiece_like(), 7)[2:5] == (
    'a',
    ' cat',
    's',
  )
  assert subwords.token_texts(wordpiece_like(), 5) == (
    '',
    ' a',
    ' cat',
    's',
    ' .',
  )


TEXTS = ('', ' the', 's', '1', '.', ' ')


@pytest.fixture(scope='module')
def sample(by_hand):
  """Return positions of every class, with exits known for each."""
  token = np.array([1, 1, 3, 4, 1, 1, 5, 1], np.int32)
  target = np.array([1, 2, 3, 4, 5, 0, 1, 2], np.int32)
  top1 = [[9] * 8, [1, 9, 3, 9, 5, 9, 9, 2], [1, 2, 3, 9, 5, 9, 1, 2]]
  found = by_hand(top1, target=target, row=[0, 0, 0, 0, 1, 1, 1, 1])
  found.source['token'] = token
  return found


def test_figures_by_target(sample):
  found = {f.name: f for f in subwords.by_target(sample, TEXTS, bootstrap=FEW)}
  assert set(found) == {
    'first',
    'continuation',
    'digits',
    'punctuation',
    'white_space',
    'special',
  }
  # ' the' twice: settled at depths 1 and 2; 's' twice: at 2 and 1.
  first = found['first']
  assert first.positions == 2 and first.share == 0.25
  assert first.mean_depth['stable'].value == 1.5
  assert first.skip['stable'].value == pytest.approx(0.25)
  assert [a.value for a in first.agreement] == [0.0, 0.5, 1.0]
  assert first.accuracy.value == 1.0
  assert first.loss is None
  assert found['punctuation'].accuracy.value == 0.0
  assert found['punctuation'].mean_depth['label'].value == 2.0
  assert sum(f.share for f in found.values()) == pytest.approx(1.0)


def test_figures_by_input(sample):
  found = {f.name: f for f in subwords.by_input(sample, TEXTS, bootstrap=FEW)}
  assert {n: f.positions for n, f in found.items()} == {
    'letters': 5,
    'digits': 1,
    'punctuation': 1,
    'white_space': 1,
  }


def test_deciles_hold_a_tenth_each(by_hand):
  # Tokens 1 to 4 are the target 1, 1, 2 and 16 times of 20.
  target = np.repeat([1, 2, 3, 4], [1, 1, 2, 16])
  captured = by_hand(np.zeros((2, 20), int), target=target)
  deciles = subwords.frequency_deciles(captured)
  assert deciles.tolist() == [1, 1, 2, 2, *[7] * 16]
  figures = subwords.by_frequency(captured, bootstrap=FEW)
  assert [f.name for f in figures] == ['decile 1', 'decile 2', 'decile 7']


def test_deciles_of_many_tokens(by_hand):
  random = np.random.default_rng(0)
  target = random.integers(0, 300, 6000)
  captured = by_hand(np.zeros((2, 6000), int), target=target)
  shares = np.bincount(subwords.frequency_deciles(captured))[1:] / 6000
  assert shares == pytest.approx([0.1] * 10, abs=0.01)
