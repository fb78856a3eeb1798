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
"""Disjoint parts of a text, split by document.

What is searched on, certified on and reported on must not share a document:
two pieces of one file are more alike than two pieces of two files.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from eejax.data.document import Document, WeightedDocument, tokens_of
from eejax.errors import ArgumentError

# Tokens of a stretch of a document where there are too few documents.
_STRETCH = 1024
# Stretches for each part at least, in all the text together.
_STRETCHES_PER_PART = 8


def split_documents(
  documents: Sequence[Document], *, shares: Sequence[float]
) -> list[list[Document]]:
  """Return disjoint parts of documents, about as large as their shares.

  Documents are taken in the order of hashes of their tokens, and each goes to
  the part that lacks most of its share of the tokens. A document's part hence
  does not depend on the order of the documents. Equal documents go to the same
  part. Within a part, documents stand in the order they came in.

  Where there are fewer documents than parts, stretches of up to 1,024 tokens
  of a document count as documents; conversations are not cut.

  Args:
    documents: in any order.
    shares: of the parts, positive; they need not sum to 1.

  Raises:
    ArgumentError: a share is not positive, or there are fewer conversations
      than parts.
  """
  if not shares or min(shares) <= 0:
    raise ArgumentError(
      f'parts of a text must have positive shares, not {tuple(shares)}.'
    )
  wanted = np.array(shares, float) / sum(shares)
  hashes = [document_hash(d) for d in documents]
  if len(set(hashes)) < len(wanted):
    documents = _stretches(documents, parts=len(wanted))
    hashes = [document_hash(d) for d in documents]
  sizes: dict[str, int] = {}
  for digest, document in zip(hashes, documents, strict=True):
    sizes[digest] = sizes.get(digest, 0) + len(document)
  held, part_of = np.zeros(len(wanted)), {}
  for digest in sorted(sizes):
    size = sizes[digest]
    part = int(np.argmax(wanted * (held.sum() + size) - held))
    held[part] += size
    part_of[digest] = part
  parts: list[list[Document]] = [[] for _ in wanted]
  for digest, document in zip(hashes, documents, strict=True):
    parts[part_of[digest]].append(document)
  return parts


def document_hash(document: Document) -> str:
  """Return a hash of a document's tokens."""
  values = np.asarray(tokens_of(document), np.int64).tobytes()
  return hashlib.blake2b(values, digest_size=16).hexdigest()


def _stretches(documents: Sequence[Document], *, parts: int) -> list[Document]:
  if any(isinstance(d, WeightedDocument) for d in documents):
    raise ArgumentError(
      f'{len(documents)} conversations cannot be split into {parts} parts; '
      'give more different ones.'
    )
  total = sum(map(len, documents))
  length = min(_STRETCH, max(total // (parts * _STRETCHES_PER_PART), 2))
  return [
    document[first : first + length]
    for document in documents
    for first in range(0, len(document), length)
  ]
