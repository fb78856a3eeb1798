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
"""Test that GGUF files are read as the package gguf reads them."""

import dataclasses
import struct

import numpy as np
import pytest

from eejax.checkpoint import folder, gguf_import, gguf_rotary, tree
from eejax.checkpoint.load import load
from eejax.config import RotaryConfig, RotaryScaling
from eejax.errors import ArgumentError, CheckpointError
from eejax.models import decoder
from eejax.testing import tiny
from eejax.testing.tiny_gguf import TEMPLATE, byte_level_keys, write_gguf

pytest.importorskip('gguf', reason='the gguf extra is not installed')

QUANTIZED = ('Q8_0', 'Q4_0', 'Q4_1', 'Q5_0', 'Q4_K', 'Q6_K')


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))


def small(**overrides):
  """Return a model of one block whose rows are as long as blocks of K kinds."""
  fields = {
    'vocab_size': 29,
    'num_layers': 1,
    'embed_dim': 256,
    'num_heads': 4,
    'num_kv_heads': 2,
    'head_dim': 64,
    'mlp_dim': 256,
    'norm_epsilon': 1e-6,
  }
  return tiny.tiny_model_config(**{**fields, **overrides})


def halves_apart(array, heads):
  """Return rows of [pair, member] as rows of [member, pair], by counting."""
  size = len(array) // heads
  rows = [
    head * size + 2 * (i % (size // 2)) + i // (size // 2)
    for head in range(heads)
    for i in range(size)
  ]
  return array[rows]


@pytest.mark.parametrize('kind', ['F32', 'F16', 'BF16', *QUANTIZED])
def test_every_kind_is_read_as_gguf_reads_it(tmp_path, kind):
  file = write_gguf(tmp_path / 'model.gguf', small(), kind=kind)
  model = gguf_import.import_file(file.path)
  assert model.config.model == file.config
  get = lambda path: np.asarray(tree.leaf(model.params, path), np.float32)
  expected = file.arrays
  np.testing.assert_array_equal(
    get(('embedding', 'table')), expected['token_embd.weight']
  )
  np.testing.assert_array_equal(
    get(('head', 'kernel')), expected['output.weight'].T
  )
  attention = ('blocks', '000', 'attention')
  for name, short, heads in (('query', 'attn_q', 4), ('key', 'attn_k', 2)):
    rows = halves_apart(expected[f'blk.0.{short}.weight'], heads)
    np.testing.assert_array_equal(
      get((*attention, name, 'kernel')), rows.T.reshape(256, heads, 64)
    )
  np.testing.assert_array_equal(
    get(('blocks', '000', 'mlp', 'down', 'kernel')),
    expected['blk.0.ffn_down.weight'].T,
  )
  stored = {'F16': 'float16', 'BF16': 'bfloat16'}.get(kind, 'float32')
  assert tree.leaf_dtype(model.params, ('embedding', 'table')) == stored


@pytest.mark.parametrize(
  'overrides',
  [
    {'family': 'qwen2', 'qkv_bias': True, 'tied_head': True},
    {'family': 'qwen3', 'qk_norm': True},
  ],
  ids=['qwen2', 'qwen3'],
)
def test_other_architectures_keep_their_rows(tmp_path, overrides):
  file = write_gguf(tmp_path / 'model.gguf', small(**overrides))
  model = gguf_import.import_file(file.path)
  assert model.config.model == file.config
  query = tree.leaf(
    model.params, ('blocks', '000', 'attention', 'query', 'kernel')
  )
  np.testing.assert_array_equal(
    query, file.arrays['blk.0.attn_q.weight'].T.reshape(256, 4, 64)
  )


def test_the_tokenizer_and_the_template_come_along(tmp_path):
  file = write_gguf(tmp_path / 'model.gguf', small())
  model = load(file.path)
  tokenizer = model.tokenizer
  # Tokens after the three special ones, in the order of `WORDS`.
  assert tokenizer.encode('hello world', add_bos=True) == [
    *(1, 13, 6, 10, 7, 6, 8, 5, 9)
  ]
  assert tokenizer.decode([13, 6, 2]) == 'hello'
  assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))
  assert tokenizer.adds_bos
  assert model.chat_template.source == TEMPLATE
  messages = [{'role': 'user', 'content': 'hell'}]
  assert model.chat_template.encode(messages) == [1, 13, 2, 1]
  assert model.answer_ends == (2,)
  # What fills up the table is no token.
  assert tokenizer.encode('[PAD20]', add_bos=False) == []


def test_a_file_becomes_a_checkpoint(tmp_path):
  file = write_gguf(tmp_path / 'model.gguf', small(), kind='Q4_0')
  saved = folder.save(tmp_path / 'new', gguf_import.map_file(file.path))
  again = load(tmp_path / 'new')
  direct = load(file.path)
  assert again.config == direct.config
  assert tree.backbone_hash(again.params) == saved.backbone_hash
  assert tree.backbone_hash(direct.params) == saved.backbone_hash
  assert again.tokenizer.fingerprint == direct.tokenizer.fingerprint
  assert again.provenance['gguf'] == {'quantization': 'Q4_0'}


def test_arrays_are_converted_when_asked(tmp_path):
  file = write_gguf(tmp_path / 'model.gguf', small(), kind='Q8_0')
  model = load(file.path, dtype='bfloat16')
  assert tree.leaf_dtype(model.params, ('embedding', 'table')) == 'bfloat16'


def test_mixed_precision_is_decoded(tmp_path):
  config = small(vocab_size=32)
  file = write_gguf(tmp_path / 'model.gguf', config, kind='F16')
  model = load(file.path)
  tokens = tiny.tiny_tokens(model.config)
  found = decoder.logits(model.params, tokens, config=model.config)
  exact = decoder.logits(
    load(file.path, dtype='float32').params, tokens, config=model.config
  )
  np.testing.assert_allclose(
    np.asarray(found['final'], np.float32), exact['final'], atol=0.1
  )


# MARK: Rotary scaling


def test_linear_and_yarn_scaling_are_read(tmp_path):
  key = 'llama.rope.scaling'
  linear = {f'{key}.type': 'linear', f'{key}.factor': 4.0}
  file = write_gguf(tmp_path / 'linear.gguf', small(), keys=linear)
  rotary = gguf_import.map_file(file.path).config.model.rotary
  assert (rotary.scaling, rotary.factor) == (RotaryScaling.LINEAR, 4.0)
  yarn = {
    f'{key}.type': 'yarn',
    f'{key}.factor': 4.0,
    f'{key}.original_context_length': 12,
  }
  file = write_gguf(tmp_path / 'yarn.gguf', small(), keys=yarn)
  rotary = gguf_import.map_file(file.path).config.model.rotary
  assert rotary == RotaryConfig(
    scaling=RotaryScaling.YARN, factor=4.0, original_max_length=12
  )


@pytest.mark.parametrize(
  ('factor', 'low', 'high', 'original'),
  [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 1.0, 8.0, 512)],
)
def test_llama_3_s_rule_is_found_in_its_frequencies(
  tmp_path, factor, low, high, original
):
  rotary = RotaryConfig(
    theta=500_000.0,
    scaling=RotaryScaling.LLAMA3,
    factor=factor,
    original_max_length=original,
    low_frequency_factor=low,
    high_frequency_factor=high,
  )
  config = small(rotary=rotary)
  divisors = gguf_rotary.divisors(rotary, config.head_dim)
  # Short wavelengths are kept and long ones stretched.
  assert divisors[0] == 1
  np.testing.assert_allclose(divisors[-1], factor, rtol=1e-6)
  file = write_gguf(
    tmp_path / 'model.gguf', config, extra={'rope_freqs.weight': divisors}
  )
  assert gguf_import.map_file(file.path).config.model.rotary == rotary


def test_other_frequencies_are_refused(tmp_path):
  odd = np.linspace(1, 8, 32)
  file = write_gguf(
    tmp_path / 'model.gguf', small(), extra={'rope_freqs.weight': odd}
  )
  with pytest.raises(CheckpointError, match="do not follow Llama 3's rule"):
    gguf_import.map_file(file.path)


# MARK: Several files


def split(file, parts=2):
  """Split a file as llama.cpp does, and return the paths."""
  import gguf

  reader = gguf.GGUFReader(file.path)
  folder_ = file.path.parent
  names = [t.name for t in reader.tensors]
  paths = []
  for number in range(parts):
    path = folder_ / f'model-{number + 1:05}-of-{parts:05}.gguf'
    writer = gguf.GGUFWriter(path, 'llama')
    writer.add_uint16('split.no', number)
    writer.add_uint16('split.count', parts)
    writer.add_int32('split.tensors.count', len(names))
    for key, field in reader.fields.items():
      if number == 0 and not key.startswith(('GGUF.', 'general.')):
        kind, *rest = field.types
        inside = rest[0] if rest else None
        writer.add_key_value(key, field.contents(), kind, inside)
    for tensor in reader.tensors[number::parts]:
      writer.add_tensor(
        tensor.name, np.asarray(tensor.data), raw_dtype=tensor.tensor_type
      )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths.append(path)
  return paths


def test_a_split_model_is_read_by_any_of_its_parts(tmp_path):
  file = write_gguf(tmp_path / 'whole.gguf', small(), kind='Q8_0')
  first, second = split(file)
  whole = load(file.path)
  for part in (first, second):
    found = load(part)
    assert tree.backbone_hash(found.params) == tree.backbone_hash(whole.params)
    assert found.config == whole.config


def test_a_missing_or_foreign_part_is_named(tmp_path):
  first, second = split(write_gguf(tmp_path / 'whole.gguf', small()))
  content = second.read_bytes()
  second.unlink()
  with pytest.raises(CheckpointError, match=f'{second.name} is missing'):
    load(first)
  second.write_bytes(first.read_bytes())
  with pytest.raises(CheckpointError, match='is not part 2 of 2'):
    load(first)
  second.write_bytes(content)
  renamed = first.rename(tmp_path / 'renamed.gguf')
  with pytest.raises(CheckpointError, match='its name does not'):
    load(renamed)


# MARK: Bad input


def refused(tmp_path, match, **options):
  file = write_gguf(tmp_path / 'bad.gguf', small(), **options)
  with pytest.raises(CheckpointError, match=match):
    load(file.path)


@pytest.mark.parametrize(
  ('keys', 'match'),
  [
    ({'llama.expert_count': 8}, 'llama.expert_count .8. is not supported'),
    ({'llama.block_count': None}, 'lacks'),
    ({'llama.block_count': 'two'}, 'must be of type int, not str'),
    ({'llama.block_count': 4_000_000_000}, 'more than any model has'),
    ({'llama.block_count': 100}, 'only .* tensors'),
    ({'llama.attention.head_count': 7}, 'multiple of num_kv_heads'),
    ({'llama.rope.dimension_count': 32}, 'the heads are 64 wide'),
    ({'llama.rope.scaling.type': 'longrope'}, "'longrope' is not supported"),
    ({'llama.rope.scaling.mystery': 1.5}, 'scaling.mystery is not supported'),
    ({'tokenizer.ggml.pre': 'klingon'}, "pre-tokenizer 'klingon'"),
    ({'tokenizer.ggml.pre': None}, 'does not say how its tokenizer cuts'),
    ({'tokenizer.ggml.model': 'rwkv'}, "tokenizer 'rwkv'"),
    ({'tokenizer.ggml.merges': ['h x']}, 'names a token that is not'),
    ({'tokenizer.ggml.eos_token_id': 99}, 'eos_token_id is 99'),
    ({'tokenizer.ggml.token_type': [1]}, '1 values for 29 tokens'),
    ({'general.alignment': 3}, 'power of two'),
  ],
)
def test_a_key_that_cannot_be_is_named(tmp_path, keys, match):
  refused(tmp_path, match, keys=keys)


def test_more_tokens_than_embeddings_are_refused(tmp_path):
  keys = byte_level_keys(29)
  keys['tokenizer.ggml.tokens'] = [f'<{i}>' for i in range(40)]
  keys['tokenizer.ggml.token_type'] = [1] * 40
  keys['tokenizer.ggml.merges'] = None
  refused(tmp_path, 'lacks the key tokenizer.ggml.merges', keys=keys)
  keys['tokenizer.ggml.merges'] = ['<1> <2>']
  keys['tokenizer.ggml.tokens'][39] = '<1><2>'
  refused(tmp_path, 'there are 29 embeddings', keys=keys)


def test_a_tensor_without_a_place_is_refused(tmp_path):
  refused(
    tmp_path,
    "'blk.0.ffn_gate_inp.weight' has no place",
    extra={'blk.0.ffn_gate_inp.weight': np.zeros((4, 4))},
  )


def test_another_architecture_is_refused(tmp_path):
  file = write_gguf(tmp_path / 'bad.gguf', small())
  data = file.path.read_bytes()
  # The first value of the file is its architecture.
  file.path.write_bytes(data.replace(b'llama', b'lLama', 2))
  with pytest.raises(CheckpointError, match='is not supported in GGUF files'):
    load(file.path)


def changed(tmp_path, change):
  """Return a file whose bytes were changed."""
  file = write_gguf(tmp_path / 'bad.gguf', small())
  file.path.write_bytes(change(file.path.read_bytes()))
  return file.path


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    (lambda d: b'', 'is empty'),
    (lambda d: b'GGML' + d[4:], 'is no GGUF file'),
    (lambda d: d[:9], 'ends inside its header'),
    (lambda d: d[:300], 'whole GGUF file'),
    (lambda d: d[:-1], 'cut short'),
    (lambda d: d[:4] + struct.pack('<I', 1) + d[8:], 'version 1 of GGUF'),
    (lambda d: d[:4] + struct.pack('<I', 99) + d[8:], 'version 99 of GGUF'),
    (lambda d: d[:4] + struct.pack('>I', 3) + d[8:], 'big-endian'),
    (lambda d: d[:8] + b'\xff' * 8 + d[16:], 'says that it has .* tensors'),
    (lambda d: d[:16] + b'\xff' * 8 + d[24:], 'says that it has .* keys'),
    (lambda d: d[:24] + b'\xff' * 8 + d[32:], 'ends inside its header'),
  ],
)
def test_broken_bytes_are_told(tmp_path, change, match):
  with pytest.raises(CheckpointError, match=match):
    load(changed(tmp_path, change))


def test_tensors_that_overlap_or_lie_elsewhere_are_refused(tmp_path):
  def move(data, *, to):
    at = data.index(b'blk.0.attn_norm.weight') + len('blk.0.attn_norm.weight')
    # Number of dimensions, one dimension, type, offset.
    place = at + 4 + 8 + 4
    return data[:place] + struct.pack('<Q', to) + data[place + 8 :]

  for to, words in ((0, 'overlaps'), (2**63, 'out of place')):
    with pytest.raises(CheckpointError, match=words):
      load(changed(tmp_path, lambda data, to=to: move(data, to=to)))


def test_a_kind_that_nobody_dequantises_is_refused(tmp_path):
  def retype(data):
    at = data.index(b'token_embd.weight') + len('token_embd.weight') + 4 + 16
    return data[:at] + struct.pack('<I', 9) + data[at + 4 :]  # Q8_1

  with pytest.raises(CheckpointError, match='does not dequantise'):
    load(changed(tmp_path, retype))


def test_a_folder_or_nothing_is_no_file(tmp_path):
  with pytest.raises(ArgumentError, match='there is no file'):
    gguf_import.map_file(tmp_path / 'gone.gguf')


def test_the_head_dim_may_differ_from_the_width(tmp_path):
  config = small(head_dim=32)
  file = write_gguf(tmp_path / 'model.gguf', config)
  assert gguf_import.map_file(file.path).config.model == config
  no_key = {'llama.attention.key_length': None}
  no_key |= {'llama.attention.value_length': None}
  no_key |= {'llama.rope.dimension_count': None}
  file = write_gguf(tmp_path / 'other.gguf', small(), keys=no_key)
  expected = dataclasses.replace(small(), head_dim=64)
  assert gguf_import.map_file(file.path).config.model == expected
