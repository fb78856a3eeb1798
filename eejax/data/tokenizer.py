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
"""Text to token ids and back, with Hugging Face `tokenizers`."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

import tokenizers

from eejax import storage
from eejax.data import bpe
from eejax.data.special_tokens import (
  SpecialTokens,
  named_tokens,
  read_special_tokens,
  tokenizer_config,
)
from eejax.errors import ArgumentError, CheckpointError

# What a folder may say about its tokenizer. The first group is the
# tokenizer's own and is kept by `save`; the second belongs to the model.
_OWN_FILES = (
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
)
_MODEL_FILES = ('generation_config.json', 'config.json')
_BYTE_TOKEN = re.compile(r'<0x[0-9A-Fa-f]{2}>')


class Tokenizer:
  """Encode and decode text.

  Attributes:
    bos_id: token that starts a text, or None.
    eos_ids: tokens that end a text, the tokenizer's own first.
    adds_bos: whether the tokenizer's makers start every text with `bos_id`.
  """

  def __init__(
    self,
    inner: tokenizers.Tokenizer,
    *,
    special: SpecialTokens,
    files: dict[str, bytes] | None = None,
  ):
    """Wrap `inner`; most callers want `load` or `train_bpe`.

    Args:
      inner: the tokenizer; truncation and padding are switched off.
      special: its control tokens.
      files: contents of the tokenizer's files by name, for `save`.
    """
    inner.no_truncation()
    inner.no_padding()
    self._inner = inner
    self._special = special
    self._files = dict(files or {})
    self.bos_id = special.bos_id
    self.eos_ids = special.eos_ids
    self.adds_bos = special.adds_bos
    ids = inner.get_vocab(with_added_tokens=True).values()
    self._highest_id = max(ids, default=-1)
    # What decoding leaves out.
    self._silent = frozenset(
      i for i, t in inner.get_added_tokens_decoder().items() if t.special
    )

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Tokenizer':
    """Load a folder with a `tokenizer.json`, or such a file.

    Raises:
      CheckpointError: there is none, or it cannot be read.
    """
    path = storage.as_path(path)
    file = path / 'tokenizer.json' if path.is_dir() else path
    if not file.is_file():
      raise CheckpointError(
        f'{path} has no tokenizer.json; save the tokenizer there with '
        "transformers' AutoTokenizer, or train one on your own text."
      )
    content = file.read_bytes()
    try:
      inner = tokenizers.Tokenizer.from_str(content.decode('utf-8'))
    except Exception as error:  # `tokenizers` raises bare Exceptions
      raise CheckpointError(
        f'{file} is not a tokenizer that can be read: {error}.'
      ) from error
    files = {
      name: (file.parent / name).read_bytes()
      for name in _OWN_FILES + _MODEL_FILES
      if (file.parent / name).is_file()
    }
    special = read_special_tokens(inner, files)
    own = {n: files[n] for n in _OWN_FILES if n in files}
    return cls(inner, special=special, files={'tokenizer.json': content, **own})

  def save(self, folder: str | os.PathLike) -> None:
    """Write files that `load` and transformers' AutoTokenizer read.

    A loaded tokenizer's files are written as they were, byte for byte. End
    tokens that only the model's configuration named stay with the model.
    """
    folder = storage.as_path(folder)
    storage.make_folder(folder)
    files = dict(self._files)
    files.setdefault('tokenizer.json', self.to_json().encode('utf-8'))
    config = tokenizer_config(self._inner, self._special)
    files.setdefault(
      'tokenizer_config.json', json.dumps(config, indent=2).encode('utf-8')
    )
    for name, content in files.items():
      (folder / name).write_bytes(content)

  def file(self, name: str) -> bytes | None:
    """Return the content of a file of the tokenizer, or None."""
    return self._files.get(name)

  @functools.cached_property
  def special_tokens(self) -> dict[str, str]:
    """Return the control tokens by the names that its files give them.

    A tokenizer whose files name none, as a trained one, has `bos_token` and
    `eos_token`.
    """
    if named := named_tokens(self._files):
      return named
    return named_tokens(
      {
        'tokenizer_config.json': json.dumps(
          tokenizer_config(self._inner, self._special)
        ).encode('utf-8')
      }
    )

  def is_control(self, token_id: int) -> bool:
    """Return whether a token has no text of its own."""
    return token_id in self._silent

  def to_json(self) -> str:
    """Return what a `tokenizer.json` of this tokenizer holds."""
    return self._inner.to_str()

  @functools.cached_property
  def fingerprint(self) -> str:
    """Return a digest of everything that decides how text is encoded."""
    ids = f'{self.bos_id} {self.eos_ids} '
    content = (ids + self.to_json()).encode('utf-8')
    return hashlib.blake2b(content, digest_size=8).hexdigest()

  @property
  def vocab_size(self) -> int:
    """Return one more than the highest id."""
    return self._highest_id + 1

  @property
  def eos_id(self) -> int | None:
    """Return the tokenizer's own end token, or None."""
    return self.eos_ids[0] if self.eos_ids else None

  def encode(self, text: str, *, add_bos: bool) -> list[int]:
    """Return the ids of `text`, after the start token if `add_bos`.

    The names of control tokens in `text` become those tokens, as everywhere
    in the Hugging Face world; nothing else is added.

    Raises:
      ArgumentError: `add_bos` and the tokenizer has no start token.
    """
    return self.encode_batch([text], add_bos=add_bos)[0]

  def encode_batch(
    self, texts: Sequence[str], *, add_bos: bool
  ) -> list[list[int]]:
    """Return what `encode` returns for each text, using every core."""
    start: list[int] = []
    if add_bos:
      if self.bos_id is None:
        raise ArgumentError(
          'this tokenizer has no start token, so none can be added.'
        )
      start = [self.bos_id]
    encodings = self._inner.encode_batch_fast(
      list(texts), add_special_tokens=False
    )
    return [start + e.ids for e in encodings]

  def encode_document(self, text: str) -> list[int]:
    """Return `text` between the start and end tokens that there are."""
    return self.encode_documents([text])[0]

  def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
    """Return what `encode_document` returns for each text."""
    end = [] if self.eos_id is None else [self.eos_id]
    documents = self.encode_batch(texts, add_bos=self.bos_id is not None)
    return [ids + end for ids in documents]

  def token_name(self, token_id: int) -> str:
    """Return what a token is called in the vocabulary, '' if it is in none."""
    return self._inner.id_to_token(token_id) or ''

  def decode(self, ids: Iterable[SupportsIndex]) -> str:
    """Return the text of `ids`; control tokens have none."""
    return self._inner.decode([int(i) for i in ids], skip_special_tokens=True)

  def pieces(
    self,
    ids: Iterable[SupportsIndex],
    *,
    context: Iterable[SupportsIndex] = (),
  ) -> list[str]:
    """Return the text each id adds after `context`, whole characters only.

    A character of several tokens stands at its last one. Without `context`
    the pieces together are `decode(ids)`.
    """
    decoder = IncrementalDecoder(self, context=context)
    pieces = [decoder.push(i) for i in ids]
    if pieces:
      pieces[-1] += decoder.flush()
    return pieces


class IncrementalDecoder:
  """Turn ids into text one by one, for streaming.

  All pieces and the last `flush` together are exactly `decode` of all ids;
  what a later id could still change is held back: bytes of a character that
  is not complete, and, where a tokenizer falls back to single bytes, the
  whole run of them (its decoder judges a run as one).
  """

  def __init__(
    self, tokenizer: Tokenizer, *, context: Iterable[SupportsIndex] = ()
  ):
    """Start after `context`, whose text is not returned.

    Args:
      tokenizer: says what ids mean.
      context: ids before the first one pushed, usually the prompt. Whether
        a word begins with a space can depend on it.
    """
    self._tokenizer = tokenizer
    inner = tokenizer._inner
    self._id_to_token = inner.id_to_token
    # A decoder pickles as JSON.
    state = inner.decoder.__getstate__() if inner.decoder else b''
    self._byte_fallback = b'"ByteFallback"' in state
    # `_window[:_anchor]` was returned in full; it only keeps the decoder from
    # taking the window's first token for the start of the text.
    self._window: list[int] = []
    self._anchor = 0
    self._returned = 0  # characters of the window's text
    for i in context:
      self.push(i)

  def push(self, token_id: SupportsIndex) -> str:
    """Take the next id; return the text that is certain now, maybe none."""
    token_id = int(token_id)
    token = self._id_to_token(token_id)
    if token is None or token_id in self._tokenizer._silent:
      return ''
    self._window.append(token_id)
    if self._byte_fallback and _BYTE_TOKEN.fullmatch(token):
      return ''
    text = self._tokenizer.decode(self._window)
    # Byte-level decoders show an incomplete character as one U+FFFD.
    certain = text.removesuffix('\ufffd')
    piece = certain[self._returned :]
    self._returned = max(self._returned, len(certain))
    if certain == text:
      self._shorten()
    return piece

  def flush(self) -> str:
    """Return what was held back, after the last id."""
    piece = self._tokenizer.decode(self._window)[self._returned :]
    self._returned += len(piece)
    return piece

  def _shorten(self) -> None:
    """Drop the old anchor if the tokens after it can take its place."""
    anchor = self._window[self._anchor :]
    text = self._tokenizer.decode(anchor)
    # An anchor without text would leave the stripping of a leading space to
    # the tokens after it.
    if text:
      self._window = anchor
      self._anchor = len(anchor)
      self._returned = len(text)


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
  """Train a byte-level BPE tokenizer; see `bpe.train`."""
  inner = bpe.train(texts, vocab_size=vocab_size)
  special = SpecialTokens(
    bos_id=bpe.BOS_ID, eos_ids=(bpe.EOS_ID,), adds_bos=True
  )
  return Tokenizer(inner, special=special)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
  """Check that a model of `vocab_size` tokens knows every id.

  Raises:
    ArgumentError: it does not.
  """
  if tokenizer.vocab_size > vocab_size:
    raise ArgumentError(
      f'the tokenizer has ids up to {tokenizer.vocab_size - 1} and the model '
      f'only {vocab_size} tokens; use the tokenizer the model was trained with.'
    )
