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
"""Make the files of a tokenizer from the vocabulary in a GGUF file."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from eejax import cache_folders
from eejax.checkpoint import gguf_bpe
from eejax.checkpoint.atomic import whole_folder
from eejax.checkpoint.gguf_bpe import PREFIX, TokenType
from eejax.checkpoint.gguf_file import GGUFFile
from eejax.errors import ArgumentError, CheckpointError

TEMPLATE = 'tokenizer.chat_template'
# What a file without a tokenizer says.
NONE = ('none', 'no_vocab')
_CONFIG, _TOKENIZER = 'tokenizer_config.json', 'tokenizer.json'
_NAMES = {
  'bos_token': 'bos',
  'eos_token': 'eos',
  'unk_token': 'unknown',
  'pad_token': 'padding',
}


def make_folder(file: GGUFFile) -> pathlib.Path | None:
  """Return a folder with the tokenizer's files, None if the file has none.

  The folder is one of eejax's caches and named by what it holds.

  Raises:
    CheckpointError: the tokenizer is broken, or not supported.
  """
  files = make_files(file)
  if files is None:
    return None
  digest = hashlib.sha256()
  for name, text in sorted(files.items()):
    digest.update(f'{name} {len(text)}\n{text}'.encode())
  place = cache_folders.folder('tokenizers') / digest.hexdigest()[:32]
  if not (place / _CONFIG).is_file():
    try:
      with whole_folder(place, marker=_CONFIG) as new:
        for name, text in files.items():
          (new / name).write_text(text, encoding='utf-8')
    except ArgumentError:
      pass  # Another process was faster.
  return place


def make_files(file: GGUFFile) -> dict[str, str] | None:
  """Return the texts of `tokenizer.json` and `tokenizer_config.json`.

  Raises:
    CheckpointError: the tokenizer is broken, or not supported.
  """
  kind = file.need(f'{PREFIX}.model', str)
  if kind in NONE:
    return None
  tokens = _tokens(file)
  types = _types(file, len(tokens))
  if kind == 'gpt2':
    made = gguf_bpe.byte_level(file, tokens, types)
    adds_bos = gguf_bpe.pre_tokenizer(file).adds_bos
  elif kind == 'llama':
    made = gguf_bpe.sentence_piece(file, tokens, types)
    adds_bos = True
  else:
    raise CheckpointError(
      f'{file.path}: the tokenizer {kind!r:.80} is not supported; supported '
      'are gpt2 (byte-level BPE) and llama (SentencePiece).'
    )
  made.add_tokens(list(_added(tokens, types)))
  config = _config(file, tokens, adds_bos=adds_bos)
  _add_ends(made, config)
  return {
    _TOKENIZER: made.to_str(),
    _CONFIG: json.dumps(config, indent=2, ensure_ascii=False) + '\n',
  }


# MARK: What the file says


def _tokens(file: GGUFFile) -> list[str]:
  tokens = file.need(f'{PREFIX}.tokens', list)
  if not tokens or not all(isinstance(t, str) for t in tokens):
    raise CheckpointError(f'{file.path}: {PREFIX}.tokens must be texts.')
  if len(set(tokens)) < len(tokens):
    seen: set[str] = set()
    twice = next(t for t in tokens if t in seen or seen.add(t))  # type: ignore
    raise CheckpointError(
      f'{file.path}: the token {twice!r:.60} is in the vocabulary twice.'
    )
  return tokens


def _types(file: GGUFFile, count: int) -> list[TokenType]:
  stored = file.get(f'{PREFIX}.token_type', list)
  if stored is None:
    return [TokenType.NORMAL] * count
  if len(stored) != count:
    raise CheckpointError(
      f'{file.path}: {PREFIX}.token_type has {len(stored)} values for {count} '
      'tokens.'
    )
  try:
    return [TokenType(t) for t in stored]
  except ValueError as error:
    raise CheckpointError(
      f'{file.path}: {PREFIX}.token_type has an unknown value ({error}).'
    ) from error


def _added(
  tokens: Sequence[str], types: Sequence[TokenType]
) -> Iterable[AddedToken]:
  """Yield what is found in a text before anything else is."""
  for token, kind in zip(tokens, types, strict=True):
    if kind in (TokenType.CONTROL, TokenType.UNKNOWN):
      yield AddedToken(token, special=True, normalized=False)
    elif kind is TokenType.USER_DEFINED and token:
      yield AddedToken(token, special=False, normalized=False)


# MARK: The configuration


def _config(
  file: GGUFFile, tokens: list[str], *, adds_bos: bool
) -> dict[str, Any]:
  """Return `tokenizer_config.json`."""
  config: dict[str, Any] = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'add_bos_token': file.get(f'{PREFIX}.add_bos_token', bool, adds_bos),
    'add_eos_token': file.get(f'{PREFIX}.add_eos_token', bool, False),
    'clean_up_tokenization_spaces': False,
  }
  for name, theirs in _NAMES.items():
    number = file.get(f'{PREFIX}.{theirs}_token_id', int)
    if number is None:
      continue
    if not 0 <= number < len(tokens):
      raise CheckpointError(
        f'{file.path}: {PREFIX}.{theirs}_token_id is {number}, but there are '
        f'{len(tokens)} tokens.'
      )
    config[name] = tokens[number]
  template = file.get(TEMPLATE, str)
  if template is not None:
    config['chat_template'] = template
  return config


def _add_ends(made: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
  """Let the tokenizer add what stands before and after every text."""
  bos, eos = config.get('bos_token'), config.get('eos_token')
  before = [bos] if config['add_bos_token'] and bos else []
  after = [eos] if config['add_eos_token'] and eos else []
  ids = {t: made.token_to_id(t) for t in (*before, *after)}
  if not ids or None in ids.values():
    return
  made.post_processor = processors.TemplateProcessing(
    single=[*before, '$A', *after],
    pair=[*before, '$A', *after, *before, '$B', *after],
    special_tokens=list(ids.items()),
  )
