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
"""The tokenizer: encoding, decoding, streaming, training, saving."""

import json
import random

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, processors

from eejax.data.special_tokens import SpecialTokens
from eejax.data.tokenizer import (
  IncrementalDecoder,
  Tokenizer,
  check_vocabulary,
  train_bpe,
)
from eejax.errors import ArgumentError, CheckpointError, EejaxError

TEXTS = [
  'def spam(eggs):\n    if eggs:\n        return eggs.append(1234)\n' * 4,
  'class Öl:\n  """Größe: ☃ und 日本語 und 🐍."""\n\n\tx = [i for i in "abc"]\n'
  * 3,
]


def sentencepiece_like():
  """A BPE as Llama-2 has it: spaces as ▁, unknown bytes as <0x..>."""
  words = ['▁', 'a', 'b', '▁a', '▁b', 'ab', '▁ab', '\ufffd']
  vocab = ['<unk>', '<s>', '</s>']
  vocab += [f'<0x{i:02X}>' for i in range(256)] + words
  ids = {t: i for i, t in enumerate(vocab)}
  merges = [('▁', 'a'), ('▁', 'b'), ('a', 'b'), ('▁a', 'b')]
  inner = tokenizers.Tokenizer(
    models.BPE(vocab=ids, merges=merges, unk_token='<unk>', byte_fallback=True)
  )
  inner.add_special_tokens(['<unk>', '<s>', '</s>'])
  inner.normalizer = normalizers.Sequence(
    [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
  )
  inner.decoder = decoders.Sequence(
    [
      decoders.Replace('▁', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  inner.post_processor = processors.TemplateProcessing(
    single='<s> $A', special_tokens=[('<s>', 1)]
  )
  return inner


def save_folder(folder, inner, **files):
  folder.mkdir(exist_ok=True)
  inner.save(str(folder / 'tokenizer.json'))
  for name, content in files.items():
    (folder / f'{name}.json').write_text(json.dumps(content))
  return folder


@pytest.fixture(scope='module')
def bpe():
  return train_bpe(TEXTS, vocab_size=300)


@pytest.fixture
def llama(tmp_path):
  return Tokenizer.load(
    save_folder(
      tmp_path / 'llama',
      sentencepiece_like(),
      tokenizer_config={'bos_token': '<s>', 'eos_token': {'content': '</s>'}},
    )
  )


class TestEncode:
  def test_start_token_only_when_asked(self, llama):
    plain = llama.encode('ab a', add_bos=False)
    assert llama.encode('ab a', add_bos=True) == [1, *plain]
    assert 1 not in plain
    assert llama.adds_bos

  def test_empty_text(self, llama, bpe):
    assert bpe.encode('', add_bos=False) == []
    assert bpe.encode('', add_bos=True) == [bpe.bos_id]
    assert llama.encode('', add_bos=True)[0] == 1

  def test_truncation_and_padding_of_the_file_are_off(self, tmp_path):
    inner = sentencepiece_like()
    inner.enable_truncation(2)
    inner.enable_padding(length=16)
    tokenizer = Tokenizer.load(save_folder(tmp_path / 'x', inner))
    assert len(tokenizer.encode('ab ab ab', add_bos=False)) == 3

  def test_no_start_token(self, tmp_path):
    tokenizer = Tokenizer.load(
      save_folder(tmp_path / 'x', sentencepiece_like())
    )
    assert tokenizer.bos_id is None
    assert tokenizer.encode('a', add_bos=False)
    with pytest.raises(ArgumentError, match='no start token'):
      tokenizer.encode('a', add_bos=True)

  def test_documents_stand_between_start_and_end(self, llama, tmp_path):
    ids = llama.encode('ab', add_bos=False)
    assert llama.encode_document('ab') == [1, *ids, 2]
    bare = Tokenizer.load(save_folder(tmp_path / 'x', sentencepiece_like()))
    assert bare.encode_documents(['ab', 'ab']) == [ids, ids]


class TestSpecialTokens:
  def test_the_tokenizer_decides_over_the_model(self, tmp_path):
    folder = save_folder(
      tmp_path / 'x',
      sentencepiece_like(),
      tokenizer_config={'bos_token': None, 'eos_token': '</s>'},
      config={'bos_token_id': 1, 'eos_token_id': 7},
      generation_config={'eos_token_id': [2, 9]},
    )
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.bos_id is None
    assert not tokenizer.adds_bos
    assert tokenizer.eos_ids == (2, 9, 7)
    assert tokenizer.eos_id == 2

  def test_the_model_decides_alone(self, tmp_path):
    folder = save_folder(
      tmp_path / 'x',
      sentencepiece_like(),
      config={'bos_token_id': 1, 'eos_token_id': 2},
    )
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))

  def test_special_tokens_map(self, tmp_path):
    folder = save_folder(
      tmp_path / 'x',
      sentencepiece_like(),
      special_tokens_map={'bos_token': '<s>', 'eos_token': '</s>'},
    )
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))

  def test_add_bos_token_is_obeyed(self, tmp_path):
    folder = save_folder(
      tmp_path / 'x',
      sentencepiece_like(),
      tokenizer_config={'bos_token': '<s>', 'add_bos_token': False},
    )
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.bos_id == 1
    assert not tokenizer.adds_bos


def stream(tokenizer, ids):
  decoder = IncrementalDecoder(tokenizer)
  return [decoder.push(i) for i in ids] + [decoder.flush()]


class TestIncrementalDecoder:
  TEXT = ' ab a  b日本語 a🐍b é☃☃ ab\n'

  @pytest.mark.parametrize('text', [TEXT, 'ab ab', '  a', '日本', '', ' '])
  def test_text(self, llama, bpe, text):
    for tokenizer in (llama, bpe):
      ids = tokenizer.encode_document(text)
      pieces = stream(tokenizer, ids)
      assert ''.join(pieces) == tokenizer.decode(ids) == text
      assert not any('\ufffd' in p for p in pieces)

  @pytest.mark.parametrize('seed', range(40))
  def test_any_ids(self, llama, bpe, seed):
    """Broken bytes, control tokens and ids beyond the vocabulary included."""
    for tokenizer in (llama, bpe):
      rng = random.Random(seed)
      ids = [rng.randrange(tokenizer.vocab_size + 2) for _ in range(60)]
      assert ''.join(stream(tokenizer, ids)) == tokenizer.decode(ids)

  @pytest.mark.parametrize('seed', range(40))
  def test_broken_characters(self, llama, bpe, seed):
    """Pieces of characters only, the hardest case."""
    rng = random.Random(seed)
    raw = '日é🐍�a '.encode() + b'\xff\xe2\x82'
    fallback = [llama._inner.token_to_id(f'<0x{b:02X}>') for b in raw]
    fallback += [llama._inner.token_to_id('▁a'), llama.eos_id]
    single = [bpe.encode(c, add_bos=False)[0] for c in 'ab ']
    single += [i for c in '日é🐍☃' for i in bpe.encode(c, add_bos=False)]
    for tokenizer, pool in ((llama, fallback), (bpe, single)):
      ids = [rng.choice(pool) for _ in range(50)]
      assert ''.join(stream(tokenizer, ids)) == tokenizer.decode(ids)

  def test_text_comes_at_once(self, llama, bpe):
    for tokenizer in (llama, bpe):
      ids = tokenizer.encode('ab ab ab', add_bos=False)
      pieces = stream(tokenizer, ids)
      assert all(pieces[:-1])
      assert pieces[-1] == ''

  def test_the_window_stays_short(self, llama, bpe):
    for tokenizer in (llama, bpe):
      decoder = IncrementalDecoder(tokenizer)
      for i in tokenizer.encode('ab ' * 300, add_bos=False):
        decoder.push(i)
        assert len(decoder._window) <= 4

  def test_a_continuation_keeps_its_space(self, llama):
    prompt = llama.encode('ab', add_bos=True)
    new = llama.encode('a', add_bos=False)
    decoder = IncrementalDecoder(llama, context=prompt)
    assert decoder.push(new[0]) == ' a'
    assert llama.decode(new) == 'a'

  @pytest.mark.parametrize('seed', range(10))
  def test_a_decoder_that_strips_two_spaces(self, seed):
    inner = sentencepiece_like()
    inner.decoder = decoders.Sequence(
      [decoders.Replace('▁', ' '), decoders.Fuse(), decoders.Strip(' ', 2, 0)]
    )
    tokenizer = Tokenizer(inner, special=SpecialTokens())
    rng = random.Random(seed)
    pool = [inner.token_to_id(t) for t in ('▁', '▁', 'a', '▁a')]
    ids = [rng.choice(pool) for _ in range(30)]
    assert ''.join(stream(tokenizer, ids)) == tokenizer.decode(ids)

  @pytest.mark.parametrize('cut', range(12))
  def test_context_and_pieces_make_the_whole(self, llama, bpe, cut):
    for tokenizer in (llama, bpe):
      ids = tokenizer.encode('ab 日本 a🐍 b', add_bos=True)
      context = ids[:cut]
      decoder = IncrementalDecoder(tokenizer)
      before = ''.join(decoder.push(i) for i in context)
      pieces = tokenizer.pieces(ids[cut:], context=context)
      assert len(pieces) == len(ids[cut:])
      if pieces:
        assert before + ''.join(pieces) == tokenizer.decode(ids)


class TestTrainBpe:
  def test_every_text_comes_back(self, bpe):
    texts = [*TEXTS, '\x00\r\n\t \u2028', '🐍', 'naïve  ', ' ']
    for text in texts:
      assert bpe.decode(bpe.encode(text, add_bos=False)) == text

  def test_control_tokens_come_first(self, bpe):
    assert (bpe.bos_id, bpe.eos_ids, bpe.vocab_size) == (1, (2,), 300)
    assert bpe.encode('<|pad|>', add_bos=False) == [0]
    assert bpe.adds_bos

  def test_it_is_deterministic(self, bpe):
    again = train_bpe(iter(TEXTS), vocab_size=300)
    assert again._inner.to_str() == bpe._inner.to_str()

  def test_indentation_is_one_token(self):
    code = 'def f(x):\n        return g(x)\n' * 20
    tokenizer = train_bpe([code], vocab_size=300)
    ids = tokenizer.encode('f(x):\n        return', add_bos=False)
    assert '):\n       ' in tokenizer.pieces(ids)

  def test_no_room_for_the_bytes(self):
    with pytest.raises(ArgumentError, match='at least 259'):
      train_bpe(TEXTS, vocab_size=258)

  def test_no_text(self):
    with pytest.raises(EejaxError, match='no text'):
      train_bpe([], vocab_size=300)


class TestSave:
  def test_trained(self, bpe, tmp_path):
    bpe.save(tmp_path / 'new')
    again = Tokenizer.load(tmp_path / 'new')
    assert (again.bos_id, again.eos_ids, again.adds_bos) == (1, (2,), True)
    assert again.encode_document(TEXTS[1]) == bpe.encode_document(TEXTS[1])
    assert Tokenizer.load(tmp_path / 'new/tokenizer.json').bos_id == 1

  def test_loaded_files_are_kept_byte_for_byte(self, llama, tmp_path):
    llama.save(tmp_path / 'copy')
    original = tmp_path / 'llama'
    assert sorted(f.name for f in (tmp_path / 'copy').iterdir()) == sorted(
      f.name for f in original.iterdir()
    )
    for file in original.iterdir():
      assert (tmp_path / 'copy' / file.name).read_bytes() == file.read_bytes()

  def test_a_folder_without_its_own_configuration_gets_one(self, tmp_path):
    folder = save_folder(
      tmp_path / 'x',
      sentencepiece_like(),
      config={'bos_token_id': 1, 'eos_token_id': 2},
    )
    Tokenizer.load(folder).save(tmp_path / 'y')
    again = Tokenizer.load(tmp_path / 'y')
    assert (again.bos_id, again.eos_ids, again.adds_bos) == (1, (2,), True)

  @pytest.mark.parity
  def test_transformers_reads_it(self, bpe, tmp_path):
    transformers = pytest.importorskip(
      'transformers', reason='needs the parity extra'
    )
    bpe.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.bos_token_id == bpe.bos_id
    assert theirs.eos_token_id == bpe.eos_id
    assert theirs.pad_token_id == 0
    for text in TEXTS:
      ids = bpe.encode(text, add_bos=True)
      assert theirs(text)['input_ids'] == ids
      assert theirs.decode(ids, skip_special_tokens=True) == text


class TestBadInput:
  def test_no_tokenizer(self, tmp_path):
    with pytest.raises(CheckpointError, match='no tokenizer.json'):
      Tokenizer.load(tmp_path)
    with pytest.raises(CheckpointError, match='no tokenizer.json'):
      Tokenizer.load(tmp_path / 'nowhere')

  def test_broken_tokenizer(self, tmp_path):
    (tmp_path / 'tokenizer.json').write_text('{"version": ')
    with pytest.raises(CheckpointError, match='cannot be read|can be read'):
      Tokenizer.load(tmp_path)

  def test_broken_configuration(self, tmp_path):
    folder = save_folder(tmp_path / 'x', sentencepiece_like())
    (folder / 'tokenizer_config.json').write_text('[')
    with pytest.raises(CheckpointError, match='tokenizer_config.json'):
      Tokenizer.load(folder)

  def test_a_start_token_that_is_not_there(self, tmp_path):
    folder = save_folder(
      tmp_path / 'x',
      sentencepiece_like(),
      tokenizer_config={'bos_token': '<bos>'},
    )
    with pytest.raises(CheckpointError, match="'<bos>'"):
      Tokenizer.load(folder)

  def test_a_vocabulary_that_does_not_fit(self, bpe):
    check_vocabulary(bpe, 300)
    check_vocabulary(bpe, 304)
    with pytest.raises(ArgumentError, match='ids up to 299 .* only 299'):
      check_vocabulary(bpe, 299)
