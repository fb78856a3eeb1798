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
"""Test that models are written as llama.cpp reads them."""

import dataclasses
import random

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from eejax.checkpoint import gguf_export, gguf_import, gguf_vocabulary, tree
from eejax.checkpoint.atomic import Existing
from eejax.checkpoint.gguf_export import OutType, export_file
from eejax.checkpoint.gguf_pretokenizers import PRE_TOKENIZERS
from eejax.checkpoint.load import load
from eejax.checkpoint.model import Model
from eejax.config import RotaryConfig, RotaryScaling
from eejax.errors import ArgumentError
from eejax.testing import tiny
from eejax.testing.tiny_gguf import write_gguf

gguf = pytest.importorskip('gguf', reason='the gguf extra is not installed')

LLAMA3 = RotaryConfig(
  theta=500_000.0,
  scaling=RotaryScaling.LLAMA3,
  factor=8.0,
  original_max_length=8192,
)


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))


def model_of(**overrides):
  fields = {'embed_dim': 32, 'mlp_dim': 64, 'head_dim': 8, 'num_layers': 2}
  config = tiny.tiny_config('', **{**fields, **overrides})
  return Model(config, tiny.tiny_params(config))


@pytest.mark.parametrize(
  'overrides',
  [
    {},
    {'tied_head': True, 'rotary': LLAMA3},
    {'family': 'qwen2', 'qkv_bias': True},
    {'family': 'qwen3', 'qk_norm': True},
    {'qkv_bias': True, 'output_bias': True, 'mlp_bias': True},
  ],
  ids=['llama', 'llama3', 'qwen2', 'qwen3', 'biases'],
)
def test_a_round_trip_in_f32_is_exact(tmp_path, overrides):
  model = model_of(**overrides)
  export_file(model, tmp_path / 'model.gguf')
  again = load(tmp_path / 'model.gguf')
  assert again.config == model.config
  assert tree.backbone_hash(again.params) == tree.backbone_hash(model.params)
  assert again.tokenizer_folder is None


@pytest.mark.parametrize('out_type', [OutType.F16, OutType.Q8_0])
def test_smaller_types_come_back_as_gguf_dequantises_them(tmp_path, out_type):
  model = model_of()
  export_file(model, tmp_path / 'model.gguf', out_type=out_type)
  again = load(tmp_path / 'model.gguf', dtype='float32')
  reader = gguf.GGUFReader(tmp_path / 'model.gguf')
  held = {t.name: t for t in reader.tensors}
  table = held['token_embd.weight']
  assert table.tensor_type.name == out_type.name
  assert held['output_norm.weight'].tensor_type.name == 'F32'
  np.testing.assert_array_equal(
    tree.leaf(again.params, ('embedding', 'table')),
    gguf.dequantize(table.data, table.tensor_type),
  )
  before = np.asarray(tree.leaf(model.params, ('embedding', 'table')))
  np.testing.assert_allclose(
    tree.leaf(again.params, ('embedding', 'table')), before, atol=0.01
  )
  # What was rounded once is not rounded again.
  export_file(again, tmp_path / 'again.gguf', out_type=out_type)
  third = load(tmp_path / 'again.gguf', dtype='float32')
  assert tree.backbone_hash(third.params) == tree.backbone_hash(again.params)


def test_rows_that_are_no_blocks_of_32_stay_in_half_precision(tmp_path):
  model = model_of(embed_dim=24)
  export_file(model, tmp_path / 'model.gguf', out_type=OutType.Q8_0)
  reader = gguf.GGUFReader(tmp_path / 'model.gguf')
  kinds = {t.name: t.tensor_type.name for t in reader.tensors}
  assert kinds['token_embd.weight'] == 'F16'
  assert kinds['blk.0.ffn_down.weight'] == 'Q8_0'  # 64 wide


def test_a_file_that_was_read_is_written_the_same(tmp_path):
  """Every key and value of another writer comes back, tokenizer included."""
  config = tiny.tiny_model_config(embed_dim=32, mlp_dim=64, head_dim=8)
  file = write_gguf(tmp_path / 'theirs.gguf', config)
  export_file(load(file.path), tmp_path / 'ours.gguf')
  theirs, ours = (
    gguf.GGUFReader(tmp_path / name) for name in ('theirs.gguf', 'ours.gguf')
  )
  for key, field in theirs.fields.items():
    if not key.startswith('GGUF.'):
      assert ours.fields[key].contents() == field.contents(), key
      assert ours.fields[key].types[0] == field.types[0], key
  arrays = {t.name: t.data for t in ours.tensors}
  assert arrays.keys() == {t.name for t in theirs.tensors}
  for tensor in theirs.tensors:
    np.testing.assert_array_equal(arrays[tensor.name], tensor.data)


def test_mistral_is_written_as_llama_without_its_window(tmp_path):
  model = model_of(family='mistral')
  export_file(model, tmp_path / 'model.gguf')
  assert load(tmp_path / 'model.gguf').config.model.family == 'llama'
  with pytest.raises(ArgumentError, match='no sliding window'):
    export_file(
      model_of(family='mistral', sliding_window=8), tmp_path / 'other.gguf'
    )


def test_what_gguf_cannot_say_is_refused(tmp_path):
  dynamic = RotaryConfig(
    scaling=RotaryScaling.DYNAMIC, factor=2.0, original_max_length=48
  )
  with pytest.raises(ArgumentError, match='rotary scaling'):
    export_file(model_of(rotary=dynamic), tmp_path / 'model.gguf')
  assert list(tmp_path.glob('*.gguf')) == []


def test_a_file_is_replaced_when_asked_and_kept_when_a_write_fails(
  tmp_path, monkeypatch
):
  path = tmp_path / 'model.gguf'
  path.write_text('mine')
  model = model_of()
  with pytest.raises(ArgumentError, match='is there already'):
    export_file(model, path)

  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(gguf_export, '_stored', fail)
  with pytest.raises(Exception, match='the disk is full'):
    export_file(model, path, existing=Existing.OVERWRITE)
  assert path.read_text() == 'mine'
  assert [p.name for p in tmp_path.glob('.model*')] == []
  monkeypatch.undo()
  export_file(model, path, existing=Existing.OVERWRITE)
  assert load(path).config == model.config


# MARK: Tokenizers


def with_tokenizer(model, inner, folder, **config):
  from eejax.data.special_tokens import SpecialTokens
  from eejax.data.tokenizer import Tokenizer

  special = SpecialTokens(bos_id=1, eos_ids=(2,), adds_bos=True)
  Tokenizer(inner, special=special).save(folder)
  return dataclasses.replace(model, tokenizer_folder=folder)


def sentence_piece():
  """Return a tokenizer of SentencePiece's kind, as Llama 2 has."""
  pieces = ['\u2581', 'a', 'b', 'c', 'ab', '\u2581a', 'abc']
  bytes_ = [f'<0x{i:02X}>' for i in range(256)]
  words = ['<unk>', '<s>', '</s>', *bytes_, *pieces]
  merges = [('a', 'b'), ('\u2581', 'a'), ('ab', 'c')]
  inner = tokenizers.Tokenizer(
    models.BPE(
      vocab={w: i for i, w in enumerate(words)},
      merges=merges,
      unk_token='<unk>',
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  inner.normalizer = normalizers.Sequence(
    [normalizers.Prepend('\u2581'), normalizers.Replace(' ', '\u2581')]
  )
  inner.decoder = decoders.Sequence(
    [
      decoders.Replace('\u2581', ' '),
      decoders.ByteFallback(),
      decoders.Fuse(),
      decoders.Strip(' ', 1, 0),
    ]
  )
  inner.add_special_tokens(['<unk>', '<s>', '</s>'])
  return inner


def test_a_sentence_piece_tokenizer_comes_back(tmp_path):
  model = with_tokenizer(
    model_of(vocab_size=280), sentence_piece(), tmp_path / 'tokenizer'
  )
  export_file(model, tmp_path / 'model.gguf')
  again = load(tmp_path / 'model.gguf')
  for text in ('abc abc', ' a b', 'caf\u00e9 <s>ab</s>', '', 'abcabc\n'):
    ids = model.tokenizer.encode(text, add_bos=True)
    assert again.tokenizer.encode(text, add_bos=True) == ids
    assert again.tokenizer.decode(ids) == model.tokenizer.decode(ids)


def test_a_way_to_cut_text_without_a_name_is_refused(tmp_path):
  with pytest.raises(ArgumentError, match='no name for the way'):
    export_file(load('default'), tmp_path / 'model.gguf')
  inner = tokenizers.Tokenizer(models.WordLevel({'a': 0}, unk_token='a'))
  model = with_tokenizer(model_of(), inner, tmp_path / 'words')
  model.tokenizer_folder.joinpath('tokenizer_config.json').write_text('{}')
  with pytest.raises(ArgumentError, match='of the kind WordLevel'):
    export_file(model, tmp_path / 'model.gguf')
  assert list(tmp_path.glob('*.gguf')) == []


@pytest.mark.parametrize(
  'name', ['gpt-2', 'llama-bpe', 'qwen2', 'smollm', 'tekken', 'deepseek-v3']
)
def test_the_name_of_a_way_to_cut_is_found(name):
  known = PRE_TOKENIZERS[name]
  inner = tokenizers.Tokenizer(models.BPE(ignore_merges=known.whole_words))
  inner.pre_tokenizer = known.build()
  if known.composes:
    inner.normalizer = known.normalizer()
  assert gguf_vocabulary.pre_tokenizer_name(inner) == name


def test_gpt_2_s_own_pre_tokenizer_is_known():
  inner = tokenizers.Tokenizer(models.BPE())
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  assert gguf_vocabulary.pre_tokenizer_name(inner) == 'gpt-2'


ALPHABET = (
  *('a', 'b', 'S', 'T', 'x', "'", 's', 'll', 'RE', '1', '23', '4567', ' '),
  *(' ', '  ', '\n', '\r\n', '\t', '.', ',', '!', '/', '(', '_', '$', '+'),
  *('\u00e9', 'e\u0301', '\u65e5', '\u306e', '\ud55c', '\u3002', '\u00bd'),
)


def test_no_two_ways_to_cut_are_confused():
  """A tokenizer is given the name of one that cuts random texts alike."""
  choose = random.Random(0)
  texts = [''.join(choose.choices(ALPHABET, k=30)) for _ in range(100)]
  for name, known in PRE_TOKENIZERS.items():
    inner = tokenizers.Tokenizer(models.BPE(ignore_merges=known.whole_words))
    inner.pre_tokenizer = known.build()
    if known.composes:
      inner.normalizer = known.normalizer()
    found = PRE_TOKENIZERS[gguf_vocabulary.pre_tokenizer_name(inner)]
    if found != known:
      other = found.build()
      for text in texts:
        cut = inner.pre_tokenizer.pre_tokenize_str(text)
        assert other.pre_tokenize_str(text) == cut, (name, text)
      assert found.composes == known.composes, name


def test_map_file_does_not_read_tensors(tmp_path, monkeypatch):
  from eejax.checkpoint.gguf_file import GGUFTensor

  export_file(model_of(), tmp_path / 'model.gguf')
  monkeypatch.setattr(GGUFTensor, 'read', lambda self: pytest.fail('read'))
  gguf_import.map_file(tmp_path / 'model.gguf')
