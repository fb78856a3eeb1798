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
"""Compare how text is cut with transformers and sentencepiece themselves."""

import pathlib

import pytest

from eejax.checkpoint import gguf_bpe, gguf_pretokenizers
from eejax.checkpoint.gguf_file import GGUFFile

TEXTS = (
  "It's THEY'LL don't I'm  o'clock caf\u00e9 na\u00efve cafe\u0301",
  '1 12 123 1234 12345 3.14159 1,000,000 0x1F \u00bd \u2461 \u0663',
  '  two  spaces\ttabs \n\n\n lines\r\n  end   ',
  'def f(x):\n    return x**2  # comment\n\n/// //\n!!! ... ?! --',
  '\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8 \ud55c\uad6d\uc5b4 '
  '\u4e2d\u6587\uff0c\u6807\u70b9\u3002',
  'HTMLParser camelCase SCREAMING_SNAKE \U0001f600\U0001f468\u200d\U0001f469',
  '\u0939\u093f\u0928\u094d\u0926\u0940 \u0627\u0644\u0639\u0631 \u10d0\u10d1',
)


def cut(pre_tokenizer, text):
  return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
  ('name', 'module', 'class_name'),
  [
    ('qwen2', 'qwen2', 'Qwen2Tokenizer'),
    ('qwen35', 'qwen3_5', 'Qwen3_5Tokenizer'),
    ('gpt-2', 'gpt2', 'GPT2Tokenizer'),
    ('olmo', 'gpt_neox', 'GPTNeoXTokenizer'),
    ('command-r', 'cohere', 'CohereTokenizer'),
  ],
)
@pytest.mark.parity
def test_text_is_cut_as_transformers_cuts_it(name, module, class_name):
  import importlib

  package = f'transformers.models.{module}.tokenization_{module}'
  theirs = getattr(importlib.import_module(package), class_name)()
  own = gguf_pretokenizers.PRE_TOKENIZERS[name]
  inner = theirs.backend_tokenizer
  for text in TEXTS:
    assert cut(own.build(), text) == cut(inner.pre_tokenizer, text)


@pytest.mark.parity
def test_llama_3_s_expression_is_that_of_tiktoken_s_converter():
  import inspect

  from tokenizers import Regex, pre_tokenizers
  from transformers.convert_slow_tokenizer import TikTokenConverter

  made = inspect.signature(TikTokenConverter.__init__)
  pattern = made.parameters['pattern'].default
  theirs = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(pattern), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  own = gguf_pretokenizers.PRE_TOKENIZERS['llama-bpe'].build()
  for text in TEXTS:
    assert cut(own, text) == cut(theirs, text)


def test_a_sentence_piece_model_reads_as_sentencepiece_does(tmp_path):
  """A model that sentencepiece trains, and the same vocabulary as GGUF."""
  spm = pytest.importorskip('sentencepiece', reason='gguf brings it along')
  corpus = tmp_path / 'corpus.txt'
  source = pathlib.Path(gguf_bpe.__file__).read_text(encoding='utf-8')
  corpus.write_text(source, encoding='utf-8')
  spm.SentencePieceTrainer.train(
    input=str(corpus),
    model_prefix=str(tmp_path / 'model'),
    model_type='bpe',
    vocab_size=600,
    byte_fallback=True,
    character_coverage=0.98,
    normalization_rule_name='identity',
    remove_extra_whitespaces=False,
    minloglevel=2,
  )
  theirs = spm.SentencePieceProcessor(model_file=str(tmp_path / 'model.model'))
  file = GGUFFile(tmp_path, _keys(theirs), {})
  tokens, kinds = _tokens(file)
  own = gguf_bpe.sentence_piece(file, tokens, kinds)
  for text in (*TEXTS, source[:3000]):
    ids = theirs.encode(text)
    assert own.encode(text).ids == ids, text
    assert own.decode(ids) == theirs.decode(ids)


def _keys(model):
  kinds = []
  for i in range(model.vocab_size()):
    if model.is_unknown(i):
      kinds.append(2)
    elif model.is_control(i):
      kinds.append(3)
    else:
      kinds.append(6 if model.is_byte(i) else 1)
  count = range(model.vocab_size())
  return {
    'tokenizer.ggml.tokens': [model.id_to_piece(i) for i in count],
    'tokenizer.ggml.scores': [model.get_score(i) for i in count],
    'tokenizer.ggml.token_type': kinds,
  }


def _tokens(file):
  kinds = [
    gguf_bpe.TokenType(t) for t in file.metadata['tokenizer.ggml.token_type']
  ]
  return file.metadata['tokenizer.ggml.tokens'], kinds
