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
"""Write a tokenizer as the keys of a GGUF file."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from eejax.checkpoint import gguf_pretokenizers
from eejax.checkpoint.gguf_bpe import PREFIX, TokenType
from eejax.checkpoint.gguf_tokenizer import NONE, TEMPLATE
from eejax.checkpoint.model import Model
from eejax.data.chat import chat_template
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError

_BYTE = '<0x{:02X}>'
# Texts on which no two ways to cut agree.
_PROBES = (
  "It's WE'LL I'VE don't HTMLParser camelCase x1 12 345 6789 123456\n",
  'a  b   c\t\td \n\n  e\r\n f(x)=g_h[0]; #!/usr/bin ... ?! //\n/// end  ',
  'caf\u00e9 cafe\u0301 \u65e5\u672c\u8a9e\u306e \ud55c\uae00 \u10d0\u10d1 ',
  '\u0939\u093f\u0928\u094d\u0926\u0940\uff0c\u3002 \u00bd\u2460 \u01bb\u0294',
  'x=1,y=2. (a|b)\u2026 \u060c $5+<6>^~`q` 1 000 000 a b c d',
)


def metadata(checkpoint: Model) -> dict[str, Any]:
  """Return the keys that hold a model's tokenizer and chat template.

  Raises:
    ArgumentError: llama.cpp has no such tokenizer.
  """
  config = checkpoint.config.model
  if checkpoint.tokenizer_folder is None:
    return {f'{PREFIX}.model': NONE[0], **_ids(config.bos_id, config.eos_ids)}
  tokenizer = checkpoint.tokenizer
  described = json.loads(tokenizer.to_json())
  model = described['model']
  if model.get('type') != 'BPE':
    raise ArgumentError(
      f'a tokenizer of the kind {model.get("type")} cannot be written to a '
      'GGUF file; byte-level BPE and SentencePiece BPE can.'
    )
  inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
  merges = [
    tuple(m.split(' ', 1)) if isinstance(m, str) else tuple(m)
    for m in model['merges']
  ]
  ends = (*tokenizer.eos_ids[:1], *config.eos_ids)
  values = {
    **_ids(tokenizer.bos_id, tuple(dict.fromkeys(ends))),
    f'{PREFIX}.add_bos_token': tokenizer.adds_bos,
    **_other_ids(tokenizer, inner),
  }
  if model.get('byte_fallback'):
    values |= _sentence_piece(described, inner, merges, config.vocab_size)
  else:
    values |= _byte_level(described, inner, merges, config.vocab_size)
  try:
    values[TEMPLATE] = chat_template(tokenizer).source
  except ArgumentError:
    pass  # There is none.
  return values


def pre_tokenizer_name(tokenizer: tokenizers.Tokenizer) -> str:
  """Return the name of how a byte-level tokenizer cuts text.

  Raises:
    ArgumentError: there is none.
  """
  whole_words = bool(getattr(tokenizer.model, 'ignore_merges', False))
  if tokenizer.pre_tokenizer is not None:
    found = _cut(tokenizer.normalizer, tokenizer.pre_tokenizer)
    for name, known in gguf_pretokenizers.PRE_TOKENIZERS.items():
      if known.whole_words == whole_words and found == _known_cut(known):
        return name
  raise ArgumentError(
    'llama.cpp has no name for the way in which this tokenizer cuts text, so '
    'the model would read other tokens there; export a Hugging Face folder.'
  )


@functools.cache
def _known_cut(known: gguf_pretokenizers.PreTokenizer) -> list[list[str]]:
  return _cut(known.normalizer(), known.build())


def _cut(normalizer: Any, pre: Any) -> list[list[str]]:
  texts = [normalizer.normalize_str(t) if normalizer else t for t in _PROBES]
  return [[piece for piece, _ in pre.pre_tokenize_str(t)] for t in texts]


def _byte_level(
  described: Mapping[str, Any],
  inner: tokenizers.Tokenizer,
  merges: list[tuple[str, ...]],
  size: int,
) -> dict[str, Any]:
  tokens, types = _tokens(described, inner, size)
  return {
    f'{PREFIX}.model': 'gpt2',
    f'{PREFIX}.pre': pre_tokenizer_name(inner),
    f'{PREFIX}.tokens': tokens,
    f'{PREFIX}.token_type': types,
    f'{PREFIX}.merges': [' '.join(pair) for pair in merges],
  }


def _sentence_piece(
  described: Mapping[str, Any],
  inner: tokenizers.Tokenizer,
  merges: list[tuple[str, ...]],
  size: int,
) -> dict[str, Any]:
  tokens, types = _tokens(described, inner, size)
  ranks: dict[str, int] = {}
  for rank, pair in enumerate(merges):
    ranks.setdefault(''.join(pair), rank)
  # The sooner a piece is made, the higher its score.
  lowest = float(-len(merges))
  scores = [-float(ranks[t]) if t in ranks else lowest for t in tokens]
  bytes_ = {_BYTE.format(i) for i in range(256)}
  unknown = described['model'].get('unk_token')
  for number, token in enumerate(tokens):
    if token in bytes_:
      types[number] = int(TokenType.BYTE)
    elif token == unknown:
      types[number] = int(TokenType.UNKNOWN)
  return {
    f'{PREFIX}.model': 'llama',
    f'{PREFIX}.pre': 'default',
    f'{PREFIX}.tokens': tokens,
    f'{PREFIX}.scores': scores,
    f'{PREFIX}.token_type': types,
    f'{PREFIX}.add_space_prefix': _has_prefix(inner),
  }


def _has_prefix(inner: tokenizers.Tokenizer) -> bool:
  """Return whether a text that begins with a word gets a space before it."""
  text = 'a'
  if inner.normalizer is not None:
    text = inner.normalizer.normalize_str(text)
  if inner.pre_tokenizer is not None:
    text = ''.join(p for p, _ in inner.pre_tokenizer.pre_tokenize_str(text))
  return text.startswith('\u2581')


def _tokens(
  described: Mapping[str, Any], inner: tokenizers.Tokenizer, size: int
) -> tuple[list[str], list[int]]:
  """Return the tokens by id, and the type of each."""
  tokens = [f'[PAD{number}]' for number in range(size)]
  types = [int(TokenType.UNUSED)] * size
  for token, number in inner.get_vocab(with_added_tokens=True).items():
    tokens[number], types[number] = token, int(TokenType.NORMAL)
  for added in described.get('added_tokens') or []:
    kind = TokenType.CONTROL if added['special'] else TokenType.USER_DEFINED
    types[added['id']] = int(kind)
  return tokens, types


def _ids(bos: int | None, ends: tuple[int, ...]) -> dict[str, Any]:
  names = zip(('eos', 'eot', 'eom'), ends, strict=False)
  found = {'bos': bos, **dict(names)}
  return {
    f'{PREFIX}.{name}_token_id': number
    for name, number in found.items()
    if number is not None
  }


def _other_ids(
  tokenizer: Tokenizer, inner: tokenizers.Tokenizer
) -> dict[str, Any]:
  names = {'unk_token': 'unknown', 'pad_token': 'padding'}
  found = {
    theirs: inner.token_to_id(tokenizer.special_tokens[ours])
    for ours, theirs in names.items()
    if ours in tokenizer.special_tokens
  }
  return {
    f'{PREFIX}.{name}_token_id': number
    for name, number in found.items()
    if number is not None
  }
