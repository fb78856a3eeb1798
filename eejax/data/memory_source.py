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
"""Tokenized documents in memory, the source behind every small corpus."""

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


class InMemoryDocuments:
  """Serve tokenized documents from memory.

  Attributes:
    fingerprint: digest of token ids and weights, the seed and the passes.
  """

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
    self._documents: list[Document] = [
      d if isinstance(d, WeightedDocument) else np.asarray(d, np.int32)
      for d in documents
    ]
    if not any(len(d) > 1 for d in self._documents):
      raise EejaxError(
        'the corpus has no document of two tokens or more, so there is '
        'nothing to predict; give it some text.'
      )
    self._passes = passes
    self._seed = seed
    digest = hashlib.blake2b(f'{passes.value} {seed}'.encode(), digest_size=8)
    for document in self._documents:
      digest.update(len(document).to_bytes(8, 'little'))
      digest.update(tokens_of(document).astype('<i4').tobytes())
      if isinstance(document, WeightedDocument):
        digest.update(document.weights.astype('<f4').tobytes())
    self.fingerprint = digest.hexdigest()

  def __len__(self) -> int:
    return len(self._documents)

  @property
  def num_tokens(self) -> int:
    """Return how many tokens one pass has."""
    return sum(map(len, self._documents))

  def documents(self, *, start: int) -> Iterator[Document]:
    """Return the documents from number `start` on; see `DocumentSource`."""
    if self._passes is Passes.ONCE:
      yield from self._documents[start:]
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
