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
"""Exits by what is predicted: beginnings of words, digits, white space, ...

A token is classed by its text, whatever the tokenizer's way to write it:

  first         it has a letter, and its first letter follows no letter: it
                begins a word (or is one)
  continuation  its first letter goes on with a word of the token before
  digits        it has a digit and no letter
  punctuation   neither, and more than white space
  white_space   nothing else
  special       no text: a control token
  other         not a character alone, but a part of one

The class is that of the target, the token a position predicts. The class of
the input has no `continuation`: whether it was one lies before the position,
so every token with a letter is `letters`.

Deciles of frequency go by how often a token is the target in the text: the
rarest tokens that make up a tenth of all positions are decile 1.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence

import numpy as np

from eejax.analysis.natural.depths import Ceiling, depths, mean_over
from eejax.capture.captured import Captured
from eejax.data.tokenizer import Tokenizer
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval
from eejax.types import Int

_BROKEN = '\ufffd'
NUM_DECILES = 10


class TokenClass(enum.Enum):
  """What a token is; see the module's docstring."""

  FIRST = 'first'
  CONTINUATION = 'continuation'
  LETTERS = 'letters'
  DIGITS = 'digits'
  PUNCTUATION = 'punctuation'
  WHITE_SPACE = 'white_space'
  SPECIAL = 'special'
  OTHER = 'other'


@dataclasses.dataclass(frozen=True)
class ClassFigures:
  """Natural exits of one class of positions.

  Attributes:
    name: of the class.
    positions: how many there are.
    share: of all positions.
    skip: mean of 1 - depth / L, by the name of the depth; see
      `eejax.analysis.natural.depths`.
    mean_depth: likewise the mean depth.
    agreement: at each read-out.
    loss: of the full model, nats; None where it was not captured.
    accuracy: share of positions at which the full model's token follows.
  """

  name: str
  positions: int
  share: float
  skip: Mapping[str, Interval]
  mean_depth: Mapping[str, Interval]
  agreement: tuple[Interval, ...]
  loss: Interval | None
  accuracy: Interval


def token_texts(tokenizer: Tokenizer, vocab_size: int) -> tuple[str, ...]:
  """Return what each token adds to a text that ends with a letter.

  Control tokens, and numbers the tokenizer does not know, add nothing.
  """
  anchor = tokenizer.encode('a', add_bos=False)
  before = tokenizer.decode(anchor)
  texts = []
  for token in range(min(vocab_size, tokenizer.vocab_size)):
    after = tokenizer.decode([*anchor, token])
    texts.append(after[len(before) :] if after.startswith(before) else _BROKEN)
  return (*texts, *[''] * (vocab_size - len(texts)))


def context_class(text: str) -> TokenClass:
  """Return what a token is, without regard to what stands before it."""
  if not text:
    return TokenClass.SPECIAL
  if any(c.isalpha() for c in text):
    return TokenClass.LETTERS
  if any(c.isdigit() for c in text):
    return TokenClass.DIGITS
  if text.isspace():
    return TokenClass.WHITE_SPACE
  return TokenClass.OTHER if _BROKEN in text else TokenClass.PUNCTUATION


def token_class(text: str, *, before: str) -> TokenClass:
  """Return what a token is.

  Args:
    text: of the token.
    before: text of the token before it.
  """
  found = context_class(text)
  if found is not TokenClass.LETTERS:
    return found
  first = next(i for i, c in enumerate(text) if c.isalpha())
  previous = text[first - 1] if first else before[-1:]
  if previous.isalpha():
    return TokenClass.CONTINUATION
  return TokenClass.FIRST


def target_classes(
  captured: Captured, texts: Sequence[str]
) -> Int[np.ndarray, 'N']:
  """Return the class of each position's target, by its place in the enum."""
  number = {c: i for i, c in enumerate(TokenClass)}
  pairs, which = np.unique(
    np.stack([captured.token, captured.target]), axis=1, return_inverse=True
  )
  classes = [
    number[token_class(texts[target], before=texts[token])]
    for token, target in pairs.T
  ]
  return np.array(classes)[which.reshape(-1)]


def input_classes(
  captured: Captured, texts: Sequence[str]
) -> Int[np.ndarray, 'N']:
  """Return the class of each position's input, by its place in the enum."""
  number = {c: i for i, c in enumerate(TokenClass)}
  classes = np.array([number[context_class(t)] for t in texts])
  return classes[captured.token]


def frequency_deciles(captured: Captured) -> Int[np.ndarray, 'N']:
  """Return how frequent each position's target is: 1 the rarest, to 10.

  A token is of one decile with all its positions, the one that the middle of
  them falls in.
  """
  tokens, which, counts = np.unique(
    captured.target, return_inverse=True, return_counts=True
  )
  order = np.argsort(counts, kind='stable')
  middle = np.cumsum(counts[order]) - counts[order] / 2
  deciles = np.empty(len(tokens), int)
  deciles[order] = np.floor(NUM_DECILES * middle / counts.sum()).astype(int) + 1
  return np.minimum(deciles, NUM_DECILES)[which.reshape(-1)]


def by_target(
  captured: Captured,
  texts: Sequence[str],
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> tuple[ClassFigures, ...]:
  """Return the natural exits of each class of targets there is.

  Args:
    captured: a text.
    texts: of each token, see `token_texts`.
    bootstrap: how intervals are made.
  """
  groups = _groups(target_classes(captured, texts))
  return class_figures(captured, groups, bootstrap=bootstrap)


def by_input(
  captured: Captured,
  texts: Sequence[str],
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> tuple[ClassFigures, ...]:
  """Return them for each class of inputs."""
  groups = _groups(input_classes(captured, texts))
  return class_figures(captured, groups, bootstrap=bootstrap)


def by_frequency(
  captured: Captured, *, bootstrap: Bootstrap = DEFAULT
) -> tuple[ClassFigures, ...]:
  """Return them for each decile of the target's frequency."""
  decile = frequency_deciles(captured)
  groups = {
    f'decile {d}': decile == d
    for d in range(1, NUM_DECILES + 1)
    if (decile == d).any()
  }
  return class_figures(captured, groups, bootstrap=bootstrap)


def _groups(classes: Int[np.ndarray, 'N']) -> dict[str, np.ndarray]:
  return {
    c.value: classes == i
    for i, c in enumerate(TokenClass)
    if (classes == i).any()
  }


def class_figures(
  captured: Captured,
  groups: Mapping[str, np.ndarray],
  *,
  bootstrap: Bootstrap = DEFAULT,
) -> tuple[ClassFigures, ...]:
  """Return the natural exits of groups of positions.

  Args:
    captured: a text.
    groups: masks [N] by name, each with a position at least.
    bootstrap: how intervals are made, over all rows with such a position.
  """
  by_ceiling = {c.value: depths(captured, c) for c in Ceiling}
  agree, layers = captured.agree, max(captured.num_layers, 1)
  right = captured.top1[-1] == captured.target
  total = float(captured.weight.sum())
  found = []
  for name, inside in groups.items():

    def mean(values, inside=inside) -> Interval:
      return mean_over(captured, values, where=inside, bootstrap=bootstrap)

    loss = mean(captured.loss[-1]) if 'loss' in captured else None
    found.append(
      ClassFigures(
        name=name,
        positions=int(inside.sum()),
        share=float(captured.weight[inside].sum()) / total,
        skip={c: mean(1 - d / layers) for c, d in by_ceiling.items()},
        mean_depth={c: mean(d) for c, d in by_ceiling.items()},
        agreement=tuple(mean(a) for a in agree),
        loss=loss,
        accuracy=mean(right),
      )
    )
  return tuple(found)
