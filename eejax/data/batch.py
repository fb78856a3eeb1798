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
"""Batches of token ids and the one place where documents are packed in rows.

A document of n tokens teaches n - 1 next-token predictions. Rows are filled
with those predictions, not with tokens, so a document that is cut at the end
of a row loses none: the last target of one piece is the first input of the
next.
"""

import dataclasses
import enum
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from eejax.data.document import Document, tokens_of, weights_of
from eejax.errors import ArgumentError, EejaxError
from eejax.types import Float, Int


class Packing(enum.Enum):
  """How documents share rows.

  PACKED       rows are full; a document may begin or end anywhere in one
  WHOLE        a document that does not fit what is left of a row begins the
               next one; only one longer than a row is cut
  ONE_PER_ROW  a row holds one document, or one piece of a long one
  """

  PACKED = 'packed'
  WHOLE = 'whole'
  ONE_PER_ROW = 'one_per_row'


@dataclasses.dataclass(frozen=True)
class Batch:
  """One batch of next-token prediction.

  Attributes:
    tokens: inputs; 0 in padding.
    targets: the token that follows each input; 0 in padding.
    weights: 1 where the target counts, 0 in padding and where a document
      is not learned.
    positions: place in the document or in its piece; restarts at 0.
    segment_ids: 1, 2, ... per document of a row; 0 in padding. A token may
      attend only to tokens of its own segment.
  """

  tokens: Int[np.ndarray, 'B T']
  targets: Int[np.ndarray, 'B T']
  weights: Float[np.ndarray, 'B T']
  positions: Int[np.ndarray, 'B T']
  segment_ids: Int[np.ndarray, 'B T']

  def as_dict(self) -> dict[str, np.ndarray]:
    """Return the arrays by name, without copying them."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @classmethod
  def padding(cls, batch_size: int, *, sequence_length: int) -> 'Batch':
    """Return a batch in which nothing counts."""
    shape = (batch_size, sequence_length)
    return cls(
      tokens=np.zeros(shape, np.int32),
      targets=np.zeros(shape, np.int32),
      weights=np.zeros(shape, np.float32),
      positions=np.zeros(shape, np.int32),
      segment_ids=np.zeros(shape, np.int32),
    )


@runtime_checkable
class DocumentSource(Protocol):
  """A numbered sequence of tokenized documents.

  A source may also have a `fingerprint`, a string that changes with its
  content or order; a resumed run then refuses another corpus.
  """

  def documents(self, *, start: int) -> Iterator[Document]:
    """Return the documents from number `start` on, always the same ones.

    A source for training never ends; one for evaluation ends after a pass.
    """
    ...


class PackedBatches:
  """Iterate over a source's documents in batches that can be resumed.

  With several shards, shard i takes documents i, i + n, i + 2n, ...: together
  they take every document once. A source that ends gives all shards the same
  number of batches (short ones end in padding), for a collective that one
  host skips would hang the others.
  """

  def __init__(
    self,
    source: DocumentSource,
    *,
    sequence_length: int,
    batch_size: int,
    packing: Packing = Packing.PACKED,
    shard_index: int = 0,
    num_shards: int = 1,
  ):
    """Start at the first document of the shard.

    Args:
      source: where documents come from.
      sequence_length: columns of a batch (T).
      batch_size: rows of a batch (B), of this shard alone.
      packing: how documents share rows.
      shard_index: which shard of the documents to take.
      num_shards: how many shards there are.

    Raises:
      ArgumentError: a number is out of range.
    """
    if sequence_length < 1 or batch_size < 1:
      raise ArgumentError(
        'sequence_length and batch_size must be at least 1, not '
        f'{sequence_length} and {batch_size}.'
      )
    if not 0 <= shard_index < num_shards:
      raise ArgumentError(
        f'shard_index must lie in 0..{num_shards - 1}, not {shard_index}.'
      )
    self._source = source
    self._sequence_length = sequence_length
    self._batch_size = batch_size
    self._packing = packing
    self._shard_index = shard_index
    self._num_shards = num_shards
    self._seek(document=0, offset=0, batches=0, passed=[0] * num_shards)

  def __iter__(self) -> 'PackedBatches':
    return self

  def __next__(self) -> Batch:
    batch = Batch.padding(
      self._batch_size, sequence_length=self._sequence_length
    )
    filled = 0
    while filled < self._batch_size and self._fill_row(batch, row=filled):
      filled += 1
    if not filled and self._batches >= self._batches_of_longest_shard():
      raise StopIteration
    self._batches += 1
    return batch

  def state(self) -> dict[str, Any]:
    """Return what `restore` needs to go on after the last batch returned.

    The values are plain numbers and strings: the document being read, how
    many of its predictions are used, and the settings they hold for.
    """
    return {
      'document': self._document,
      'offset': self._offset,
      'batches': self._batches,
      'passed': list(self._passed),
      'settings': self._settings(),
    }

  def restore(self, state: dict[str, Any]) -> None:
    """Go on where `state` was taken, bit for bit.

    Raises:
      EejaxError: the state was taken with other settings or another corpus.
    """
    saved, current = state['settings'], self._settings()
    for name, value in current.items():
      if saved.get(name) != value:
        raise EejaxError(
          f'the saved data order has {name} {saved.get(name)!r} and this run '
          f'has {value!r}; resume with the same data, or start a new run.'
        )
    self._seek(
      document=state['document'],
      offset=state['offset'],
      batches=state['batches'],
      passed=list(state['passed']),
    )

  def _settings(self) -> dict[str, Any]:
    return {
      'sequence_length': self._sequence_length,
      'batch_size': self._batch_size,
      'packing': self._packing.value,
      'shard_index': self._shard_index,
      'num_shards': self._num_shards,
      'fingerprint': getattr(self._source, 'fingerprint', ''),
    }

  def _seek(
    self, *, document: int, offset: int, batches: int, passed: list[int]
  ) -> None:
    self._document = document
    self._offset = offset
    self._batches = batches
    # How much each shard has behind it: columns if rows hold several
    # documents, else rows. Every shard counts for all, so no communication is
    # needed to know who has the most batches.
    self._passed = passed
    self._stream: Iterator[Document] | None = None
    self._current: Document | None = None

  def _fill_row(self, batch: Batch, *, row: int) -> bool:
    """Fill a row as far as documents go; return whether anything is in it."""
    column = segment = 0
    while column < self._sequence_length:
      document = self._own_document()
      if document is None:
        break
      left = len(document) - 1 - self._offset
      size = min(self._sequence_length - column, left)
      if self._packing is Packing.WHOLE and column and size < left:
        break
      if size > 0:
        segment += 1
        here = np.s_[row, column : column + size]
        first = self._offset
        tokens, last = tokens_of(document), first + size
        batch.tokens[here] = tokens[first:last]
        batch.targets[here] = tokens[first + 1 : last + 1]
        batch.weights[here] = weights_of(document)[first + 1 : last + 1]
        batch.positions[here] = np.arange(size)
        batch.segment_ids[here] = segment
        column += size
        self._offset += size
      if self._offset >= len(document) - 1:
        self._pass_by(document)
      if column and self._packing is Packing.ONE_PER_ROW:
        break
    return column > 0

  def _own_document(self) -> Document | None:
    """Return the document being read, passing by those of other shards."""
    if self._stream is None:
      self._stream = iter(self._source.documents(start=self._document))
    while self._current is None:
      document = next(self._stream, None)
      if document is None:
        return None
      if self._document % self._num_shards == self._shard_index:
        self._current = document
      else:
        self._pass_by(document)
    return self._current

  def _pass_by(self, document: Document) -> None:
    predictions = max(len(document) - 1, 0)
    shard = self._document % self._num_shards
    if self._packing is Packing.ONE_PER_ROW:
      predictions = -(-predictions // self._sequence_length)
    elif self._packing is Packing.WHOLE:
      filled = self._passed[shard] % self._sequence_length
      if filled and filled + predictions > self._sequence_length:
        predictions += self._sequence_length - filled
    self._passed[shard] += predictions
    self._document += 1
    self._offset = 0
    self._current = None

  def _batches_of_longest_shard(self) -> int:
    rows = max(self._passed)
    if self._packing is not Packing.ONE_PER_ROW:
      rows = -(-rows // self._sequence_length)
    return -(-rows // self._batch_size)
