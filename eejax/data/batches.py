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
from collections.abc import Iterator

import numpy as np

from eejax.data import corpus
from eejax.data.batch import DocumentSource, PackedBatches, Packing
from eejax.data.corpus import Split, TextUnit
from eejax.data.memory_source import InMemoryDocuments, Passes
from eejax.data.tokenizer import Tokenizer
from eejax.errors import ArgumentError

STANDARD_LIBRARY = 'stdlib'
SEQIO_PREFIX = 'seqio:'
TFDS_PREFIX = 'tfds:'
# Documents encoded at a time: enough to keep every core busy, few enough that
# the tokenizer's own records of them stay small.
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Describe the data of a run.

  Attributes:
    corpus: `stdlib`; a file, folder or glob of the user's; `seqio:TASK` for a
      seqio task or mixture; `tfds:NAME[/CONFIG][:SPLIT[:FIELD]]`.
    sequence_length: columns of a batch (T).
    batch_size: rows of a batch over all shards together.
    packing: how documents share rows.
    unit: what one document of a text file is.
    field: where the text is in the objects of a .jsonl file.
    seed: decides the order of training documents.
    shard_index: which shard of the documents this host takes.
    num_shards: how many hosts share the documents.
  """

  corpus: str = STANDARD_LIBRARY
  sequence_length: int = 512
  batch_size: int = 8
  packing: Packing = Packing.PACKED
  unit: TextUnit = TextUnit.FILE
  field: str = 'text'
  seed: int = 0
  shard_index: int = 0
  num_shards: int = 1

  def __post_init__(self):
    if self.sequence_length < 1 or self.batch_size < 1:
      raise ArgumentError(
        'sequence_length and batch_size must be at least 1, not '
        f'{self.sequence_length} and {self.batch_size}.'
      )
    if not 0 <= self.shard_index < self.num_shards:
      raise ArgumentError(
        f'shard_index must lie in 0..{self.num_shards - 1}, not '
        f'{self.shard_index}.'
      )
    if self.batch_size % self.num_shards:
      raise ArgumentError(
        f'batch_size ({self.batch_size}) must be a multiple of num_shards '
        f'({self.num_shards}).'
      )

  @property
  def uses_seqio(self) -> bool:
    """Return whether the corpus comes through seqio, hence TensorFlow."""
    return self.corpus.startswith((SEQIO_PREFIX, TFDS_PREFIX))


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
  if config.corpus == STANDARD_LIBRARY:
    return corpus.standard_library_documents(split)
  return corpus.read_documents(
    config.corpus, unit=config.unit, field=config.field, split=split
  )


def tokenize(
  texts: Iterator[str], *, tokenizer: Tokenizer
) -> Iterator[np.ndarray]:
  """Return each text's ids, between the start and end tokens there are."""
  chunk: list[str] = []
  for text in texts:
    chunk.append(text)
    if len(chunk) == _CHUNK:
      yield from _encode(chunk, tokenizer)
      chunk = []
  yield from _encode(chunk, tokenizer)


def _encode(texts: list[str], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
  for ids in tokenizer.encode_documents(texts):
    yield np.asarray(ids, np.int32)


def make_source(
  config: DataConfig,
  tokenizer: Tokenizer,
  split: Split,
  *,
  passes: Passes = Passes.ENDLESS,
) -> DocumentSource:
  """Return the tokenized documents that `config` describes.

  Raises:
    EejaxError: the corpus cannot be read, or the part asked for is empty.
  """
  if config.uses_seqio:
    # Only here, so that nobody else needs TensorFlow.
    from eejax.data import seqio_pipeline

    return seqio_pipeline.make_source(config, tokenizer, split, passes=passes)
  texts = read_texts(config, split=split)
  documents = list(tokenize(texts, tokenizer=tokenizer))
  if not documents:
    raise ArgumentError(
      f'the {split.value} part of {config.corpus} is empty; give more or '
      "smaller documents (unit), or ask for the part 'all'."
    )
  return InMemoryDocuments(documents, passes=passes, seed=config.seed)


def make_batches(
  config: DataConfig,
  tokenizer: Tokenizer,
  split: Split,
  *,
  passes: Passes = Passes.ENDLESS,
) -> PackedBatches:
  """Return the batches of this host's shard that `config` describes.

  Args:
    config: the data of the run.
    tokenizer: turns text into ids.
    split: which part of the corpus.
    passes: `ENDLESS` to train, `ONCE` to evaluate.

  Raises:
    EejaxError: the corpus cannot be read, or the part asked for is empty.
  """
  return PackedBatches(
    make_source(config, tokenizer, split, passes=passes),
    sequence_length=config.sequence_length,
    batch_size=config.batch_size // config.num_shards,
    packing=config.packing,
    shard_index=config.shard_index,
    num_shards=config.num_shards,
  )
