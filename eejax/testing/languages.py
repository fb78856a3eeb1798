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
"""Synthetic languages in which the difficulty of every token is known.

Each says, for every token of a sample, how hard it is to predict from what
stands before it: the entropy of its distribution given the way the sample
was made, in nats, and a name for what it takes. No model can be better than
the entropy on average, and how far it is from it shows what it learned.

  Branching  a Markov chain; token v has b_v successors, equally likely:
             entropy log b_v
  Copying    a random word, a separator, the word again: the second time is
             certain to whoever looks it up
  Hopping    pairs of a map f, then queries of k hops: f applied k times to a
             key; each hop is a look-up that needs the one before
  Brackets   balanced brackets of several kinds; closing is certain in kind,
             and opens with probability q while there is room

Rows have one length, so they make a batch at once.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from eejax.data.batch import Batch
from eejax.errors import ArgumentError
from eejax.types import Float, Int

# The token that every language has before its own.
SEPARATOR = 0
_OWN = 1


@dataclasses.dataclass(frozen=True)
class Sample:
  """Hold some text of a language.

  Attributes:
    tokens: rows of equal length.
    entropy: of each token given the tokens before, nats.
    kinds: what each token takes to predict, by its place in `kind_names`.
    kind_names: names of the kinds.
  """

  tokens: Int[np.ndarray, 'B S']
  entropy: Float[np.ndarray, 'B S']
  kinds: Int[np.ndarray, 'B S']
  kind_names: tuple[str, ...]

  def batch(self) -> Batch:
    """Return the next-token predictions: one fewer than tokens in a row."""
    ids = self.tokens.astype(np.int32)
    rows, length = ids.shape
    ones = np.ones((rows, length - 1))
    return Batch(
      tokens=ids[:, :-1],
      targets=ids[:, 1:],
      weights=ones.astype(np.float32),
      positions=(np.arange(length - 1) * ones).astype(np.int32),
      segment_ids=ones.astype(np.int32),
    )

  @property
  def target_entropy(self) -> Float[np.ndarray, 'B T']:
    """Return the entropy of each target of `batch`."""
    return self.entropy[:, 1:]

  @property
  def target_kinds(self) -> Int[np.ndarray, 'B T']:
    """Return the kind of each target of `batch`."""
    return self.kinds[:, 1:]


class Language(abc.ABC):
  """Make text whose difficulty is known.

  Attributes:
    kind_names: what its tokens can take to predict.
  """

  kind_names: tuple[str, ...]

  @property
  @abc.abstractmethod
  def vocab_size(self) -> int:
    """Return one more than the highest token."""

  @abc.abstractmethod
  def row(
    self, length: int, random: np.random.Generator
  ) -> tuple[list[int], list[float], list[int]]:
    """Return tokens, entropies and kinds of a row, at least `length` long."""

  def sample(self, rows: int, length: int, *, seed: int = 0) -> Sample:
    """Return some text, the same for the same arguments.

    Args:
      rows: how many.
      length: tokens of each, at least 2.
      seed: of the drawing.

    Raises:
      ArgumentError: a number is out of range.
    """
    if rows < 1 or length < 2:
      raise ArgumentError('a sample has at least one row of two tokens.')
    random = np.random.default_rng(seed)
    made = [self.row(length, random) for _ in range(rows)]
    cut = lambda i, dtype: np.array([m[i][:length] for m in made], dtype)
    return Sample(cut(0, int), cut(1, float), cut(2, int), self.kind_names)


@dataclasses.dataclass(frozen=True)
class Branching(Language):
  """Follow each token by one of its own successors, all equally likely.

  Attributes:
    branches: how many successors each token has; as many tokens.
    seed: of which successors these are.
  """

  branches: tuple[int, ...] = (1, 1, 1, 1, 2, 2, 4, 8)
  seed: int = 0

  kind_names = ('start', 'certain', 'open')

  def __post_init__(self):
    size = len(self.branches)
    if not all(1 <= b <= size for b in self.branches):
      raise ArgumentError(f'a token of {size} has 1 to {size} successors.')

  @property
  def vocab_size(self) -> int:
    """Return one more than the highest token."""
    return _OWN + len(self.branches)

  def successors(self) -> list[np.ndarray]:
    """Return the tokens that may follow each token."""
    random = np.random.default_rng(self.seed)
    size = len(self.branches)
    # The first is the next one in a ring, so that all can be reached.
    return [
      _OWN
      + np.concatenate(
        [[(v + 1) % size], (v + 1 + random.permutation(size - 1) + 1) % size]
      )[:b]
      for v, b in enumerate(self.branches)
    ]

  def row(self, length, random):
    """Return tokens, entropies and kinds of a row."""
    following = self.successors()
    token = int(random.integers(_OWN, self.vocab_size))
    tokens, entropy, kinds = [token], [math.log(len(self.branches))], [0]
    while len(tokens) < length:
      choices = following[token - _OWN]
      token = int(random.choice(choices))
      tokens.append(token)
      entropy.append(math.log(len(choices)))
      kinds.append(1 if len(choices) == 1 else 2)
    return tokens, entropy, kinds


@dataclasses.dataclass(frozen=True)
class Copying(Language):
  """Say a random word, a separator, and the word again.

  Attributes:
    letters: tokens that words are made of.
    word: letters of a word.
  """

  letters: int = 8
  word: int = 5

  kind_names = ('separator', 'random', 'copy')

  @property
  def vocab_size(self) -> int:
    """Return one more than the highest token."""
    return _OWN + self.letters

  def row(self, length, random):
    """Return tokens, entropies and kinds of a row."""
    tokens: list[int] = []
    entropy: list[float] = []
    kinds: list[int] = []
    while len(tokens) < length:
      word = random.integers(_OWN, self.vocab_size, self.word).tolist()
      tokens += [*word, SEPARATOR, *word, SEPARATOR]
      entropy += [math.log(self.letters)] * self.word
      entropy += [0.0] * (self.word + 2)
      kinds += [1] * self.word + [0] + [2] * self.word + [0]
    return tokens, entropy, kinds


@dataclasses.dataclass(frozen=True)
class Hopping(Language):
  """Show a map, then ask for what several hops lead to.

  A row is pairs `key value` of a permutation in random order, then queries
  `QUERY-k key answer`, answer = f(f(... key)), k times. Asking for the right
  answer takes as many look-ups, one after the other.

  Attributes:
    keys: size of the map.
    hops: numbers of hops that are asked for, equally often.
  """

  keys: int = 5
  hops: tuple[int, ...] = (1, 2, 3)

  def __post_init__(self):
    if self.keys < 2 or not self.hops or min(self.hops) < 1:
      raise ArgumentError('hopping needs two keys and hops of at least 1.')

  @property
  def kind_names(self) -> tuple[str, ...]:  # type: ignore[override]
    """Return what its tokens can take to predict."""
    return ('question', 'map', *(f'{k} hops' for k in self.hops))

  @property
  def vocab_size(self) -> int:
    """Return one more than the highest token."""
    return 1 + len(self.hops) + self.keys

  @property
  def first_key(self) -> int:
    """Return the lowest token that is a key."""
    return 1 + len(self.hops)

  def row(self, length, random):
    """Return tokens, entropies and kinds of a row."""
    size = self.keys
    order, image = random.permutation(size), random.permutation(size)
    tokens: list[int] = []
    entropy: list[float] = []
    for seen, key in enumerate(order):
      tokens += [self.first_key + int(key), self.first_key + int(image[key])]
      # Keys and values each are those not seen yet.
      entropy += [math.log(size - seen)] * 2
    kinds = [1] * len(tokens)
    tokens.append(SEPARATOR)
    entropy.append(0.0)
    kinds.append(0)
    while len(tokens) < length:
      which = int(random.integers(len(self.hops)))
      key = int(random.integers(size))
      answer = key
      for _ in range(self.hops[which]):
        answer = int(image[answer])
      tokens += [1 + which, self.first_key + key, self.first_key + answer]
      entropy += [math.log(len(self.hops)), math.log(size), 0.0]
      kinds += [0, 0, 2 + which]
    return tokens, entropy, kinds


@dataclasses.dataclass(frozen=True)
class Brackets(Language):
  """Open and close brackets of several kinds, always balanced.

  Where nothing is open a bracket opens; where `deepest` are open one closes;
  else one opens with probability `opens`.

  Attributes:
    kinds: of brackets; kind i opens with one token and closes with another.
    deepest: brackets that may be open at once.
    opens: probability of opening where both can happen, in (0, 1).
  """

  kinds: int = 3
  deepest: int = 4
  opens: float = 0.5

  kind_names = ('forced open', 'forced close', 'free')

  def __post_init__(self):
    if self.kinds < 1 or self.deepest < 1 or not 0 < self.opens < 1:
      raise ArgumentError(
        'brackets need a kind, a depth, and a probability between 0 and 1.'
      )

  @property
  def vocab_size(self) -> int:
    """Return one more than the highest token."""
    return _OWN + 2 * self.kinds

  def row(self, length, random):
    """Return tokens, entropies and kinds of a row."""
    open_kinds: list[int] = []
    tokens: list[int] = []
    entropy: list[float] = []
    kinds: list[int] = []
    q = self.opens
    # Whether to open, then which kind to open; a closing one has no choice.
    free = (
      -q * math.log(q) - (1 - q) * math.log(1 - q) + q * math.log(self.kinds)
    )
    while len(tokens) < length:
      must_open, must_close = not open_kinds, len(open_kinds) == self.deepest
      if must_open or (not must_close and random.random() < q):
        kind = int(random.integers(self.kinds))
        open_kinds.append(kind)
        tokens.append(_OWN + kind)
      else:
        tokens.append(_OWN + self.kinds + open_kinds.pop())
      if must_open:
        entropy.append(math.log(self.kinds))
      else:
        entropy.append(0.0 if must_close else free)
      kinds.append(0 if must_open else 1 if must_close else 2)
    return tokens, entropy, kinds


@dataclasses.dataclass(frozen=True)
class Mixture(Language):
  """Give each row to one of several languages, drawn at known rates.

  Each language has tokens of its own, after those of the ones before it, so
  a row shows from its first token which one it is.

  Attributes:
    languages: what is mixed.
    rates: how often each is drawn, above 0.
  """

  languages: tuple[Language, ...]
  rates: tuple[float, ...]

  def __post_init__(self):
    if len(self.languages) != len(self.rates) or not self.rates:
      raise ArgumentError('a mixture needs a rate for each language.')
    if min(self.rates) <= 0:
      raise ArgumentError('the rates of a mixture must be above 0.')

  @property
  def kind_names(self) -> tuple[str, ...]:  # type: ignore[override]
    """Return what its tokens can take to predict, language by language."""
    return tuple(
      f'{type(language).__name__.lower()}: {name}'
      for language in self.languages
      for name in language.kind_names
    )

  @property
  def vocab_size(self) -> int:
    """Return one more than the highest token."""
    return sum(language.vocab_size for language in self.languages)

  def row(self, length, random):
    """Return tokens, entropies and kinds of a row."""
    rates = np.array(self.rates) / sum(self.rates)
    chosen = int(random.choice(len(self.languages), p=rates))
    before = self.languages[:chosen]
    tokens, entropy, kinds = self.languages[chosen].row(length, random)
    # The first token tells the language, too; over rows this averages to the
    # entropy of which one it is.
    entropy = [entropy[0] - math.log(rates[chosen]), *entropy[1:]]
    return (
      _shifted(tokens, sum(x.vocab_size for x in before)),
      entropy,
      _shifted(kinds, sum(len(x.kind_names) for x in before)),
    )


def _shifted(values: Sequence[int], by: int) -> list[int]:
  return [v + by for v in values]
