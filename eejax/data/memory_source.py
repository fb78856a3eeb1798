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
"""Tokenized documents in an order, the source behind every corpus of texts."""

import enum
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from eejax.data.document import Document, WeightedDocument, tokens_of
from eejax.errors import EejaxError


class Passes(enum.Enum):
  """How often a source goes through its documents.

  ENDLESS  for ever, in a new order each time; for training
  ONCE     one time, in the corpus's own order; for evaluation
  """

  ENDLESS = 'endless'
  ONCE = 'once'


class OrderedDocuments:
  """Serve the documents of a sequence, which need not be in memory.

  Attributes:
    fingerprint: digest of what they are, the seed and the passes.
  """

  def __init__(
    self,
    documents: Sequence[Document],
    *,
    passes: Passes,
    seed: int = 0,
    fingerprint: str,
  ):
    """Keep `documents`.

    Args:
      documents: each with its start and end tokens.
      passes: whether to stop after one pass.
      seed: decides the order of every pass of `ENDLESS`.
      fingerprint: of the documents.
    """
    self._documents = documents
    self._passes = passes
    self._seed = seed
    self.fingerprint = fingerprint

  def __len__(self) -> int:
    return len(self._documents)

  def documents(self, *, start: int) -> Iterator[Document]:
    """Return the documents from number `start` on; see `DocumentSource`."""
    if self._passes is Passes.ONCE:
      for i in range(start, len(self._documents)):
        yield self._documents[i]
      return
    epoch, first = divmod(start, len(self._documents))
    while True:
      for i in self._order(epoch)[first:]:
        yield self._documents[i]
      epoch, first = epoch + 1, 0

  def _order(self, epoch: int) -> np.ndarray:
    # Sorting raw Philox words, since NumPy promises that a bit generator's
    # words stay the same from version to version and promises no such thing
    # of `permutation`.
    words = np.random.Philox(key=[self._seed % 2**64, epoch]).random_raw(
      len(self._documents)
    )
    return np.argsort(words, kind='stable')


class InMemoryDocuments(OrderedDocuments):
  """Serve tokenized documents from memory."""

  def __init__(
    self,
    documents: Sequence[Document],
    *,
    passes: Passes,
    seed: int = 0,
  ):
    """Keep `documents`.

    Args:
      documents: each with its start and end tokens.
      passes: whether to stop after one pass.
      seed: decides the order of every pass of `ENDLESS`.

    Raises:
      EejaxError: there is nothing to predict in any document.
    """
    kept: list[Document] = [
      d if isinstance(d, WeightedDocument) else np.asarray(d, np.int32)
      for d in documents
    ]
    if not any(len(d) > 1 for d in kept):
      raise nothing_to_predict()
    digest = hashlib.blake2b(f'{passes.value} {seed}'.encode(), digest_size=8)
    for document in kept:
      digest.update(len(document).to_bytes(8, 'little'))
      digest.update(tokens_of(document).astype('<i4').tobytes())
      if isinstance(document, WeightedDocument):
        digest.update(document.weights.astype('<f4').tobytes())
    super().__init__(
      kept, passes=passes, seed=seed, fingerprint=digest.hexdigest()
    )

  @property
  def num_tokens(self) -> int:
    """Return how many tokens one pass has."""
    return sum(map(len, self._documents))


def nothing_to_predict() -> EejaxError:
  """Return what is raised for documents of less than two tokens."""
  return EejaxError(
    'the corpus has no document of two tokens or more, so there is nothing to '
    'predict; give it some text.'
  )
