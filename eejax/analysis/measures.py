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
"""Losses of a generated text, in [0, 1]: how far it is from the full model's.

  local       share of its tokens that the full model, given the same text
              before them, would not have chosen
  same_place  share of places at which it has another token than the full
              model's own continuation; after the first other token two texts
              go their own ways, so this says where that came rather than how
              many tokens are worse
  rouge_l     1 - ROUGE-L to the full model's own continuation, on tokens

ROUGE-L is the F1 of the longest common subsequence: with c its length and a, b
the lengths of the texts, 2 c / (a + b) (Lin 2004, ROUGE: A Package for
Automatic Evaluation of Summaries, section 3, with beta = 1).

A user's own measure is a function of two sequences of token ids, the text and
the full model's continuation, that returns a loss in [0, 1]. A function with a
parameter named `prompt` is given the prompt's token ids by that name, too. It
is passed as the function itself, or by name as `module:function`.

Example:
  >>> from eejax.analysis import measures
  >>> measures.rouge_l(measures.Pair(ours=(1, 2), full=(1, 3)))
  0.5
"""

import dataclasses
import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eejax.errors import ArgumentError

Tokens = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Pair:
  """A generated text and what it is compared with, as token ids.

  Attributes:
    ours: the text decoded with exits.
    full: the full model's own continuation of the same prompt.
    judged: what the full model would have chosen at each place of `ours`,
      given the text before it; None where it was not asked.
    prompt: what both texts continue.
  """

  ours: Tokens
  full: Tokens
  judged: Tokens | None = None
  prompt: Tokens = ()


Measure = Callable[[Pair], float]
# A measure by its name, as `module:function`, or a user's own function.
MeasureLike = str | Callable[..., float]


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
  """Return the share of places whose token differs or is missing."""
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
    # Along a row of the table, the cell to the left is a running maximum.
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


def measure_name(measure: MeasureLike) -> str:
  """Return a measure's name; of a function it is `module:function`."""
  if isinstance(measure, str):
    return measure
  name = getattr(measure, '__qualname__', type(measure).__qualname__)
  return f'{getattr(measure, "__module__", "")}:{name}'


def get_measure(measure: MeasureLike) -> Measure:
  """Return a measure by its name, or a user's own.

  Args:
    measure: a name of `MEASURES`, `module:function`, or a function; see the
      module's docstring.

  Raises:
    ArgumentError: there is none, or it is no function.
  """
  if not isinstance(measure, str):
    return _of_function(measure, measure_name(measure))
  if measure in MEASURES:
    return MEASURES[measure]
  module, colon, function = measure.partition(':')
  if not colon:
    raise ArgumentError(
      f'there is no measure {measure!r}; there are {", ".join(MEASURES)}, or '
      'your own as module:function.'
    )
  try:
    own = getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError) as error:
    raise ArgumentError(
      f'the measure {measure!r} cannot be imported ({error}); put its module '
      'where Python finds it.'
    ) from error
  return _of_function(own, measure)


def _of_function(function: Any, name: str) -> Measure:
  """Return the measure of a user's function; see the module's docstring."""
  if not callable(function):
    raise ArgumentError(f'the measure {name!r} is no function.')
  try:
    takes_prompt = 'prompt' in inspect.signature(function).parameters
  except (TypeError, ValueError):  # Some built-in functions tell nothing.
    takes_prompt = False

  def measure(pair: Pair) -> float:
    more = {'prompt': tuple(pair.prompt)} if takes_prompt else {}
    return function(tuple(pair.ours), tuple(pair.full), **more)

  return measure


def needs_judgement(measure: MeasureLike) -> bool:
  """Return whether a measure reads `Pair.judged`."""
  return measure == 'local'


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
