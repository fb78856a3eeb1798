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
"""Build the two kinds of tokenizers that GGUF files have."""

import enum
import re
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

from eejax.checkpoint import gguf_pretokenizers
from eejax.checkpoint.gguf_file import GGUFFile
from eejax.errors import CheckpointError

PREFIX = 'tokenizer.ggml'
_PADDING = re.compile(r'\[PAD\d+\]')


class TokenType(enum.IntEnum):
  """What a token of a GGUF vocabulary is."""

  NORMAL = 1
  UNKNOWN = 2
  CONTROL = 3
  USER_DEFINED = 4
  UNUSED = 5
  BYTE = 6


def pre_tokenizer(file: GGUFFile) -> gguf_pretokenizers.PreTokenizer:
  """Return how a byte-level tokenizer cuts text.

  Raises:
    CheckpointError: the file does not say it, or names what is not known.
  """
  try:
    return gguf_pretokenizers.find(file.get(f'{PREFIX}.pre', str))
  except CheckpointError as error:
    raise CheckpointError(f'{file.path}: {error}') from error


def byte_level(
  file: GGUFFile, tokens: list[str], types: list[TokenType]
) -> tokenizers.Tokenizer:
  """Return a byte-level BPE.

  Args:
    file: has its merges, and says how it cuts text.
    tokens: of the vocabulary.
    types: of the tokens.

  Raises:
    CheckpointError: the file does not say what it is.
  """
  pre = pre_tokenizer(file)
  vocabulary = _vocabulary(tokens, types)
  merges = []
  for merge in file.need(f'{PREFIX}.merges', list):
    left, space, right = str(merge).partition(' ')
    if not left:  # the left one begins with the space
      left, space, right = str(merge)[1:].partition(' ')
      left = ' ' + left
    merges.append((left, right))
    if not space or not {left, right, left + right} <= vocabulary.keys():
      raise CheckpointError(
        f'{file.path}: the merge {merge!r:.60} names a token that is not in '
        'the vocabulary.'
      )
  made = _build(file, vocabulary, merges, ignore_merges=pre.whole_words)
  if pre.composes:
    made.normalizer = pre.normalizer()
  made.pre_tokenizer = pre.build()
  made.decoder = decoders.ByteLevel()
  return made


def sentence_piece(
  file: GGUFFile, tokens: list[str], types: list[TokenType]
) -> tokenizers.Tokenizer:
  """Return a BPE as SentencePiece makes them.

  Args:
    file: has the score of each token.
    tokens: of the vocabulary.
    types: of the tokens.

  Raises:
    CheckpointError: the file does not say what it is.
  """
  scores = file.need(f'{PREFIX}.scores', list)
  if len(scores) != len(tokens):
    raise CheckpointError(
      f'{file.path}: {PREFIX}.scores has {len(scores)} values for '
      f'{len(tokens)} tokens.'
    )
  vocabulary = _vocabulary(tokens, types)
  unknown = next(
    (t for t, k in zip(tokens, types, strict=True) if k is TokenType.UNKNOWN),
    None,
  )
  pieces = [
    (score, token)
    for token, score, kind in zip(tokens, scores, types, strict=True)
    if kind is TokenType.NORMAL and token in vocabulary
  ]
  merges = _merges_of(pieces)
  made = _build(
    file,
    vocabulary,
    merges,
    unk_token=unknown,
    fuse_unk=True,
    byte_fallback=TokenType.BYTE in types,
  )
  has_prefix = file.get(f'{PREFIX}.add_space_prefix', bool, True)
  space = normalizers.Replace(' ', '\u2581')
  back: list[decoders.Decoder] = [
    decoders.Replace('\u2581', ' '),
    decoders.ByteFallback(),
    decoders.Fuse(),
  ]
  if has_prefix:
    made.normalizer = normalizers.Sequence(
      [normalizers.Prepend('\u2581'), space]
    )
    back.append(decoders.Strip(' ', 1, 0))
  else:
    made.normalizer = space
  made.decoder = decoders.Sequence(back)
  return made


def _merges_of(pieces: list[tuple[float, str]]) -> list[tuple[str, str]]:
  """Return the merges of a SentencePiece vocabulary, the best first.

  SentencePiece joins the two neighbours whose union has the highest score, so
  any two pieces that make a piece are a merge, ranked by its score.
  """
  known = {token for _, token in pieces}
  best_first = sorted(pieces, key=lambda piece: -piece[0])
  return [
    (token[:cut], token[cut:])
    for _, token in best_first
    for cut in range(1, len(token))
    if token[:cut] in known and token[cut:] in known
  ]


def _build(
  file: GGUFFile,
  vocabulary: dict[str, int],
  merges: list[tuple[str, str]],
  **options: Any,
) -> tokenizers.Tokenizer:
  try:
    model = models.BPE(vocab=vocabulary, merges=merges, **options)
    return tokenizers.Tokenizer(model)
  except Exception as error:  # the library raises bare Exception
    raise CheckpointError(
      f'{file.path}: its tokenizer cannot be built ({error}).'
    ) from error


def _vocabulary(
  tokens: Sequence[str], types: Sequence[TokenType]
) -> dict[str, int]:
  """Return the ids of tokens that are some; others fill up the table."""
  return {
    token: number
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
    if not (kind is TokenType.UNUSED and _PADDING.fullmatch(token))
  }
