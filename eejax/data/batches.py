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
"""From a run's data settings to batches."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from eejax import cache_folders, store_folder
from eejax.data import corpus, token_files
from eejax.data.batch import DocumentSource, PackedBatches
from eejax.data.chat import TEMPLATE_FILE, ChatTemplate, chat_template
from eejax.data.conversation_tokens import (
  cut_conversations,
  encode_conversations,
)
from eejax.data.conversations import Conversation
from eejax.data.corpus import Split
from eejax.data.data_config import STANDARD_LIBRARY, DataConfig
from eejax.data.document import WeightedDocument
from eejax.data.memory_source import (
  InMemoryDocuments,
  OrderedDocuments,
  Passes,
  nothing_to_predict,
)
from eejax.data.sharded import ShardedBatches
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError, EejaxError
from eejax.progress import SILENT, Progress
from eejax.storage import AnyPath
from eejax.types import Int

__all__ = [
  'DataConfig',
  'make_batches',
  'make_shared_batches',
  'make_source',
  'pieces',
  'read_texts',
  'tokenize',
]

# Documents encoded at a time: enough to keep every core busy, few enough that
# the tokenizer's own records of them stay small.
_CHUNK = 256
_CHUNK_CHARACTERS = 2**18
# Texts of more bytes are tokenized into files and not kept in memory.
LARGE = 2**26


def read_texts(config: DataConfig, *, split: Split) -> Iterator[str]:
  """Return the documents of a corpus that needs no TensorFlow, as text.

  Raises:
    EejaxError: the corpus cannot be read; see `corpus.read_documents`.
  """
  if config.uses_seqio:
    raise ArgumentError(
      f'{config.corpus} is read through seqio and has tokens, not texts; give '
      f'{STANDARD_LIBRARY!r} or files.'
    )
  if config.tokens_folder is not None:
    raise ArgumentError(
      f'{config.corpus} has tokens, not texts; name the text itself.'
    )
  if config.has_conversations:
    return (c.text for c in _conversations(config, split))
  if config.corpus == STANDARD_LIBRARY:
    return corpus.standard_library_documents(split)
  return corpus.read_documents(
    config.corpus, unit=config.unit, field=config.field, split=split
  )


def _conversations(config: DataConfig, split: Split) -> Iterator[Conversation]:
  return corpus.read_conversations(
    config.corpus, field=config.messages_field, split=split
  )


def tokenize(
  texts: Iterator[str], *, tokenizer: Tokenizer
) -> Iterator[np.ndarray]:
  """Return each text's ids, between the start and end tokens there are."""
  chunk: list[str] = []
  characters = 0
  for text in texts:
    chunk.append(text)
    characters += len(text)
    if len(chunk) == _CHUNK or characters > _CHUNK_CHARACTERS:
      yield from _encode(chunk, tokenizer)
      chunk, characters = [], 0
  yield from _encode(chunk, tokenizer)


def _encode(texts: list[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
  for ids in tokenizer.encode_documents(texts):
    yield np.asarray(ids, np.int32)


def conversation_template(tokenizer: Tokenizer) -> ChatTemplate:
  """Return the chat template that writes conversations.

  Raises:
    ArgumentError: there is none.
  """
  try:
    return chat_template(tokenizer)
  except ArgumentError as error:
    raise ArgumentError(
      'conversations are written by a chat template, and the tokenizer has '
      f'none; put a {TEMPLATE_FILE} beside its tokenizer.json.'
    ) from error


def conversation_documents(
  config: DataConfig, tokenizer: Tokenizer, split: Split
) -> list[WeightedDocument]:
  """Return whole conversations, tokenized; the assistant's turns count.

  Raises:
    EejaxError: they cannot be read, the part asked for is empty, or the
      tokenizer has no chat template.
  """
  template = conversation_template(tokenizer)
  documents = list(
    encode_conversations(template, _conversations(config, split))
  )
  if not documents:
    raise _empty(config, split)
  return documents


def make_source(
  config: DataConfig,
  tokenizer: Tokenizer,
  split: Split,
  *,
  passes: Passes = Passes.ENDLESS,
  progress: Progress = SILENT,
) -> DocumentSource:
  """Return the tokenized documents that `config` describes.

  Text that is longer than a row is cut into pieces, to be learned; of a longer
  conversation what fits a row is taken, and `progress` is told.

  Raises:
    EejaxError: the corpus cannot be read, or the part asked for is empty or,
      to be learned, does not fill a row.
  """
  if config.has_conversations:
    return InMemoryDocuments(
      cut_conversations(
        conversation_documents(config, tokenizer, split),
        length=config.sequence_length,
        progress=progress,
      ),
      passes=passes,
      seed=config.seed,
    )
  if config.uses_seqio:
    # Only here, so that nobody else needs TensorFlow.
    from eejax.data import seqio_pipeline

    return seqio_pipeline.make_source(config, tokenizer, split, passes=passes)
  if config.tokens_folder is not None:
    return _in_files(config.tokens_folder, config, tokenizer, split, passes)
  if is_large(config):
    with progress.waiting('tokenizing'):
      kept = _kept_tokens(config, tokenizer)
    return _in_files(kept, config, tokenizer, split, passes)
  texts = read_texts(config, split=split)
  documents = list(tokenize(texts, tokenizer=tokenizer))
  if not documents:
    raise _empty(config, split)
  if passes is Passes.ENDLESS:
    _check_fills_row(documents, config)
    documents = [
      piece
      for document in documents
      for piece in pieces(document, length=config.sequence_length)
    ]
  return InMemoryDocuments(documents, passes=passes, seed=config.seed)


def is_large(config: DataConfig) -> bool:
  """Return whether the files of a text have more than `LARGE` bytes."""
  if config.corpus == STANDARD_LIBRARY:
    return False
  files = corpus.find_files(config.corpus)
  return sum(int(store_folder.file_facts(f)[1]) for f in files) > LARGE


def prepare_tokens(
  config: DataConfig, tokenizer: Tokenizer, folder: str | os.PathLike
) -> AnyPath:
  """Tokenize a text into files, which `tokens:FOLDER` then names.

  It takes the memory of a shard, whatever the text's size: name the unit of a
  document, for one that is a whole file is read whole.

  Args:
    config: of the text; only what its documents are is looked at.
    tokenizer: turns it into ids.
    folder: where they go, here or in a store (`gs://bucket/tokens`).

  Raises:
    EejaxError: the text cannot be read, or something is at `folder`.
  """
  if config.has_conversations or config.uses_seqio:
    raise ArgumentError(
      f'{config.corpus} is not plain text; only that is tokenized into files.'
    )

  def read(split: Split) -> Iterator[np.ndarray]:
    return tokenize(read_texts(config, split=split), tokenizer=tokenizer)

  return token_files.write(
    folder,
    read,
    tokenizer=tokenizer,
    settings=_text_settings(config),
  )


def _text_settings(config: DataConfig) -> dict[str, Any]:
  return {
    'corpus': config.corpus,
    'unit': config.unit.value,
    'field': config.field,
  }


def _kept_tokens(config: DataConfig, tokenizer: Tokenizer) -> AnyPath:
  """Return the tokens of a text in this machine's cache, made if need be."""
  files = [
    store_folder.file_facts(file) for file in corpus.find_files(config.corpus)
  ]
  key = [_text_settings(config), files, tokenizer.fingerprint]
  digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
  place = cache_folders.folder('tokens') / digest[:16]
  if not (place / token_files.MANIFEST).is_file():
    prepare_tokens(config, tokenizer, place)
  return place


def _in_files(
  folder: str | os.PathLike,
  config: DataConfig,
  tokenizer: Tokenizer,
  split: Split,
  passes: Passes,
) -> OrderedDocuments:
  files = token_files.open_files(folder, split, tokenizer=tokenizer)
  endless = passes is Passes.ENDLESS
  length = config.sequence_length if endless else None
  documents = token_files.TokenPieces(files, length=length)
  if not len(documents):
    raise _empty(config, split)
  if documents.longest < 2:
    raise nothing_to_predict()
  words = f'{files.fingerprint} {passes.value} {config.seed} {length}'
  return OrderedDocuments(
    documents,
    passes=passes,
    seed=config.seed,
    fingerprint=hashlib.blake2b(words.encode(), digest_size=8).hexdigest(),
  )


def _check_fills_row(
  documents: Sequence[Int[np.ndarray, '_']], config: DataConfig
) -> None:
  """Check that training does not learn one short text by heart."""
  total = sum(len(d) for d in documents)
  if total < config.sequence_length:
    raise ArgumentError(
      f'{config.corpus} has {total} tokens to train on, which do not fill one '
      f'row of {config.sequence_length}; give more text, or a smaller '
      'sequence_length.'
    )


def _empty(config: DataConfig, split: Split) -> ArgumentError:
  return ArgumentError(
    f'the {split.value} part of {config.corpus} is empty; give more or '
    "smaller documents (unit), or ask for the part 'all'."
  )


def pieces(
  document: Int[np.ndarray, 'T'], *, length: int
) -> Iterator[Int[np.ndarray, 'S']]:
  """Cut a document into pieces that each predict at most `length` tokens.

  Training shuffles pieces: whole files in a row would fill a batch with one
  file, whose gradient says little of the others. Neighbours share a token, so
  that every token but the first is predicted once.

  Args:
    document: token ids.
    length: predictions a piece has at most.
  """
  for first in range(0, max(len(document) - 1, 1), length):
    yield document[first : first + length + 1]


def make_batches(
  config: DataConfig,
  tokenizer: Tokenizer,
  split: Split,
  *,
  passes: Passes = Passes.ENDLESS,
  progress: Progress = SILENT,
) -> PackedBatches:
  """Return the batches of this host's shard that `config` describes.

  Args:
    config: the data of the run.
    tokenizer: turns text into ids.
    split: which part of the corpus.
    passes: `ENDLESS` to train, `ONCE` to evaluate.
    progress: is told what does not fit a row.

  Raises:
    EejaxError: the corpus cannot be read, or the part asked for is empty.
  """
  # seqio has already taken this host's shard.
  whole = config.uses_seqio and passes is Passes.ENDLESS
  return PackedBatches(
    make_source(config, tokenizer, split, passes=passes, progress=progress),
    sequence_length=config.sequence_length,
    batch_size=config.batch_size // config.num_shards,
    packing=config.row_packing,
    shard_index=0 if whole else config.shard_index,
    num_shards=1 if whole else config.num_shards,
  )


def make_shared_batches(
  config: DataConfig,
  tokenizer: Tokenizer,
  *,
  index: int,
  count: int,
  progress: Progress = SILENT,
) -> PackedBatches | ShardedBatches:
  """Return one share of the rows of every training batch.

  A share has `num_shards / count` of the shards; with a `num_shards` of 1
  there are as many shards as shares.

  Args:
    config: the data of the run; its `shard_index` is not looked at.
    tokenizer: turns text into ids.
    index: which share, 0..count-1.
    count: how many shares there are.
    progress: is told what does not fit a row.

  Raises:
    EejaxError: shards or rows cannot be shared out, or the corpus cannot be
      read.
  """
  shards = config.num_shards if config.num_shards > 1 else count
  if shards % count or config.batch_size % shards:
    raise EejaxError(
      f'{config.batch_size} rows in {shards} shards cannot be shared by '
      f'{count} groups of hosts; make num_shards a multiple of {count} and '
      f'batch_size one of num_shards.'
    )
  if shards == 1:
    return make_batches(config, tokenizer, Split.TRAIN, progress=progress)
  own = range(index * shards // count, (index + 1) * shards // count)
  return ShardedBatches(
    {
      shard: make_batches(
        dataclasses.replace(config, shard_index=shard, num_shards=shards),
        tokenizer,
        Split.TRAIN,
        progress=progress if shard == own[0] else SILENT,
      )
      for shard in own
    },
    num_shards=shards,
  )
