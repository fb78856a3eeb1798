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
"""Tokenized documents: every token is learned, or those with a weight."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from eejax.types import Float, Int, Integer


@dataclasses.dataclass(frozen=True)
class WeightedDocument:
  """A document of which not every token is learned.

  Attributes:
    tokens: token ids.
    weights: of each token where it is predicted; 0 is not learned.
  """

  tokens: Int[np.ndarray, 'T']
  weights: Float[np.ndarray, 'T']

  def __len__(self) -> int:
    return len(self.tokens)

  def __getitem__(self, part: slice) -> 'WeightedDocument':
    return WeightedDocument(self.tokens[part], self.weights[part])

  @property
  def is_learned(self) -> bool:
    """Return whether a token counts that is predicted from another one."""
    return bool((self.weights[1:] > 0).any())

  def turns(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield each run of tokens that count, after all that comes before it."""
    counted = np.concatenate([[False], self.weights[1:] > 0, [False]])
    changes = np.flatnonzero(counted[1:] != counted[:-1]) + 1
    for begin, end in changes.reshape(-1, 2):
      yield (
        tuple(self.tokens[:begin].tolist()),
        tuple(self.tokens[begin:end].tolist()),
      )


Document = Integer[np.ndarray, '_'] | WeightedDocument


def tokens_of(document: Document) -> Integer[np.ndarray, 'T']:
  """Return the token ids of a document."""
  if isinstance(document, WeightedDocument):
    return document.tokens
  return document


def weights_of(document: Document) -> Float[np.ndarray, 'T']:
  """Return the weight of each token of a document."""
  if isinstance(document, WeightedDocument):
    return document.weights
  return np.ones(len(document), np.float32)
