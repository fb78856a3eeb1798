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
"""Which tokens a score is computed over, where the whole head is dear.

One pass over an output matrix costs as much as some blocks where vocabularies
are large, so logits of some tokens alone can stand for all of
them in a score. The token that is emitted always comes from the whole head;
a draft, which the whole model verifies, from the frequent ones alone (FR-Spec,
Zhao et al. 2025, arXiv 2502.14856, abstract).
Probabilities are normalised over the tokens that are scored, so scores are
higher than over all of them, and thresholds have to be tuned anew.
"""

import dataclasses
import enum
import os
from collections.abc import Sequence

import numpy as np

from eejax import storage
from eejax.decoding.policy.notation import parse_notation, write_notation
from eejax.errors import ArgumentError


class Scored(enum.Enum):
  """Which tokens are scored.

  WHOLE: all.
  FREQUENT: the same tokens always, those that are frequent in texts.
  CANDIDATES: those that the first exit asked for a token held the likeliest;
  it alone reads its whole head for the score.
  """

  WHOLE = 'whole'
  FREQUENT = 'frequent'
  CANDIDATES = 'candidates'


@dataclasses.dataclass(frozen=True)
class ScoredVocabulary:
  """Which tokens a score is computed over.

  Attributes:
    kind: which.
    size: how many, at least 2; 0 for WHOLE.
  """

  kind: Scored = Scored.WHOLE
  size: int = 0

  def __post_init__(self):
    least = 0 if self.kind is Scored.WHOLE else 2
    if self.size < least:
      raise ArgumentError(
        f'the scored vocabulary {self.kind.value} needs a number of tokens, at '
        f'least 2, such as {self.kind.value}(2048).'
      )
    if self.kind is Scored.WHOLE and self.size:
      raise ArgumentError('the scored vocabulary whole takes no number.')

  @property
  def notation(self) -> str:
    """Return the text that stands for it."""
    if self.kind is Scored.WHOLE:
      return self.kind.value
    return write_notation(self.kind.value, self.size)

  def check_size(self, vocab_size: int) -> None:
    """Raise an `ArgumentError` if there are fewer tokens than are scored."""
    if self.size > vocab_size:
      raise ArgumentError(
        f'the scored vocabulary {self.notation} is larger than the '
        f"model's, which has {vocab_size} tokens; give fewer."
      )


def parse_scored_vocabulary(text: str) -> ScoredVocabulary:
  """Read a scored vocabulary as policies write it.

  Example:
    >>> parse_scored_vocabulary('frequent(2048)').size
    2048

  Raises:
    ArgumentError: there is none of that name, or the number makes no sense.
  """
  name, numbers = parse_notation(text)
  known = [kind.value for kind in Scored]
  if name not in known:
    raise ArgumentError(
      f'there is no scored vocabulary {name!r}; there are {", ".join(known)}.'
    )
  size = numbers[0] if numbers else 0
  if len(numbers) > 1 or not isinstance(size, int):
    raise ArgumentError(
      f'a scored vocabulary takes one whole number, not {text!r}.'
    )
  return ScoredVocabulary(Scored(name), size)


def read_token_ids(path: str | os.PathLike) -> np.ndarray:
  """Read token ids, the most frequent first: a .npy file, or numbers as text.

  Raises:
    ArgumentError: the file cannot be read, or holds something else.
  """
  path = storage.local_path(path)
  try:
    if path.suffix == '.npy':
      return np.load(path, allow_pickle=False)
    return np.array([int(x) for x in path.read_text('utf-8').split()])
  except OSError as error:
    raise ArgumentError(
      f'the token ids {path} cannot be read ({error.strerror}).'
    ) from error
  except ValueError as error:
    raise ArgumentError(
      f'{path} holds no token ids: {error}; write one number a line, the most '
      'frequent token first.'
    ) from error


def first_token_ids(
  vocabulary: ScoredVocabulary,
  token_ids: Sequence[int] | np.ndarray | None,
  *,
  vocab_size: int,
) -> np.ndarray:
  """Return the ids of the tokens that are scored, checked.

  Args:
    vocabulary: how many.
    token_ids: the most frequent first; None takes them as they are numbered,
      which for a tokenizer of merges is their order of frequency at training.
    vocab_size: of the model.

  Raises:
    ArgumentError: there are too few, or one is no token or is there twice.
  """
  if token_ids is None:
    token_ids = np.arange(vocab_size)
  ids = np.asarray(token_ids)
  if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
    raise ArgumentError('token ids must be a list of whole numbers.')
  ids = ids[: vocabulary.size]
  if len(ids) < vocabulary.size:
    raise ArgumentError(
      f'the scored vocabulary {vocabulary.notation} wants {vocabulary.size} '
      f'token ids, and {len(ids)} were given.'
    )
  if ids.min() < 0 or ids.max() >= vocab_size:
    raise ArgumentError(
      f'token ids must be 0 to {vocab_size - 1}, and one of those given is '
      f'{ids.min() if ids.min() < 0 else ids.max()}.'
    )
  if len(np.unique(ids)) < len(ids):
    raise ArgumentError('a token id is given twice; give each once.')
  return ids
