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
"""Losses of a sequence, in [0, 1]: how far a text is from the full model's.

  local       share of its tokens that the full model, given the same text
              before them, would not have chosen
  same_place  share of places at which it has another token than the full
              model's own continuation; after one other token texts go their
              own ways, so it says more of where that came than of how many
  rouge_l     1 - ROUGE-L to the full model's own continuation, on tokens

ROUGE-L is the F1 of the longest common subsequence: with c its length, a and b
those of the texts, 2 c / (a + b) (Lin 2004, ROUGE, section 3, beta = 1). A
user's own measure is a function `module:function` of two sequences of tokens,
ours and the full model's, that returns a loss in [0, 1].
"""

import dataclasses
import importlib
import math
from collections.abc import Callable, Sequence

import numpy as np

from eejax.errors import ArgumentError

Tokens = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Pair:
  """Hold a text and what it is compared with; all tokens are generated ones.

  Attributes:
    ours: the text decoded with exits.
    full: the full model's own continuation of the same prompt.
    judged: what the full model would have said at each place of `ours`, given
      the same text; None where nobody asked.
  """

  ours: Tokens
  full: Tokens
  judged: Tokens | None = None


Measure = Callable[[Pair], float]


def local(pair: Pair) -> float:
  """Return the share of tokens that the full model would not have chosen."""
  if pair.judged is None:
    raise ArgumentError(
      'the measure local asks what the full model says along our text.'
    )
  if not pair.ours:
    return 0.0
  ours, judged = np.asarray(pair.ours), np.asarray(pair.judged)
  return float((ours != judged).mean())


def same_place(pair: Pair) -> float:
  """Return the share of places with another token; a missing one is one."""
  longest = max(len(pair.ours), len(pair.full))
  same = sum(a == b for a, b in zip(pair.ours, pair.full, strict=False))
  return 1 - same / longest if longest else 0.0


def rouge_l(pair: Pair) -> float:
  """Return 1 - ROUGE-L on tokens."""
  total = len(pair.ours) + len(pair.full)
  if not total:
    return 0.0
  return 1 - 2 * common_length(pair.ours, pair.full) / total


def common_length(ours: Tokens, theirs: Tokens) -> int:
  """Return the length of the longest common subsequence."""
  best = np.zeros(len(theirs) + 1, int)
  other = np.asarray(theirs)
  for token in ours:
    # Along a row of the table, what stands to the left is a running maximum.
    longer = np.where(other == token, best[:-1] + 1, best[1:])
    best[1:] = np.maximum.accumulate(np.maximum(longer, best[1:]))
  return int(best[-1])


MEASURES: dict[str, Measure] = {
  'local': local,
  'same_place': same_place,
  'rouge_l': rouge_l,
}


def register_measure(name: str, measure: Measure) -> None:
  """Make a measure known by a name.

  Raises:
    ArgumentError: the name is taken.
  """
  if name in MEASURES:
    raise ArgumentError(f'there is a measure {name!r} already.')
  MEASURES[name] = measure


def get_measure(name: str) -> Measure:
  """Return a measure by its name, or a user's `module:function`.

  Raises:
    ArgumentError: there is none.
  """
  if name in MEASURES:
    return MEASURES[name]
  module, colon, function = name.partition(':')
  if not colon:
    raise ArgumentError(
      f'there is no measure {name!r}; there are {", ".join(MEASURES)}, or your '
      'own as module:function.'
    )
  try:
    own = getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError) as error:
    raise ArgumentError(
      f'the measure {name!r} cannot be imported ({error}); put its module '
      'where Python finds it.'
    ) from error
  if not callable(own):
    raise ArgumentError(f'the measure {name!r} is no function.')
  return lambda pair: own(tuple(pair.ours), tuple(pair.full))


def needs_judgement(name: str) -> bool:
  """Return whether a measure asks the full model along our text."""
  return name == 'local'


def loss(name: str, measure: Measure, pair: Pair) -> float:
  """Return the loss of a pair.

  Raises:
    ArgumentError: the measure returns no number in [0, 1].
  """
  value = float(measure(pair))
  if math.isnan(value) or not 0 <= value <= 1:
    raise ArgumentError(
      f'the measure {name} returned {value}, and a loss must lie in [0, 1].'
    )
  return value
