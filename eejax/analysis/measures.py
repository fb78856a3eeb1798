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

A user's own measure is a function that returns a loss in [0, 1]. It is given
what its parameters name:

  ours       the text decoded with exits
  full       the full model's own continuation of the same prompt
  prompt     what both continue
  reference  how the text that the prompt was cut from goes on

as token ids, and with `_text` behind the name (`ours_text`, ...) as text. Two
parameters of other names are given `ours` and `full`, in this order. The
measure is passed as the function itself, or by name as `module:function`.

Example:
  >>> from eejax.analysis import measures
  >>> def is_shorter(ours, reference):
  ...   return float(len(ours) < len(reference))
  >>> pair = measures.Pair(ours=(1, 2), full=(1, 3), reference=(1, 2, 3))
  >>> measures.get_measure(is_shorter)(pair)
  1.0
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

_AS_TEXT = '_text'
# What a user's own measure can name.
GIVEN = tuple(
  name + form
  for form in ('', _AS_TEXT)
  for name in ('ours', 'full', 'prompt', 'reference')
)


@dataclasses.dataclass(frozen=True)
class Pair:
  """A generated text and what it is compared with, as token ids.

  Attributes:
    ours: the text decoded with exits.
    full: the full model's own continuation of the same prompt.
    judged: what the full model would have chosen at each place of `ours`,
      given the text before it; None where it was not asked.
    prompt: what both texts continue.
    reference: how the text that the prompt was cut from goes on; None where
      that is not known.
    decode: returns the text of token ids; None where there is no tokenizer.
  """

  ours: Tokens
  full: Tokens
  judged: Tokens | None = None
  prompt: Tokens = ()
  reference: Tokens | None = None
  decode: Callable[[Tokens], str] | None = None

  def given(self, name: str) -> Tokens | str:
    """Return what a measure's parameter of this name is given.

    Raises:
      ArgumentError: it is not known.
    """
    tokens = getattr(self, name.removesuffix(_AS_TEXT))
    if tokens is None:
      raise ArgumentError(
        'a measure asks for the reference, and what follows the prompts is '
        'not known.'
      )
    if not name.endswith(_AS_TEXT):
      return tuple(tokens)
    if self.decode is None:
      raise ArgumentError(
        f'a measure asks for {name}, and there is no tokenizer to decode it.'
      )
    return self.decode(tokens)


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


@dataclasses.dataclass(frozen=True)
class OwnMeasure:
  """A user's own function as a measure.

  Attributes:
    function: it.
    names: parameters that it is given by their names, of `GIVEN`.
    takes_two: whether it is given `ours` and `full` as its first arguments.
  """

  function: Callable[..., float]
  names: tuple[str, ...]
  takes_two: bool

  def __call__(self, pair: Pair) -> float:
    """Return the loss of a pair."""
    two = [pair.given('ours'), pair.given('full')] if self.takes_two else []
    return self.function(*two, **{n: pair.given(n) for n in self.names})


def _of_function(function: Any, name: str) -> OwnMeasure:
  """Return the measure of a user's function; see the module's docstring."""
  if not callable(function):
    raise ArgumentError(f'the measure {name!r} is no function.')
  try:
    parameters = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):  # Some built-in functions tell nothing.
    return OwnMeasure(function, (), takes_two=True)
  by_position = [
    p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY
  ]
  names = [p.name for p in parameters if p.name in GIVEN]
  names = [n for n in names if n not in {p.name for p in by_position}]
  others = [
    p.name
    for p in parameters
    if p.name not in names and p.default is p.empty and not _is_rest(p)
  ]
  has_rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
  if len(others) not in (0, 2) or not (names or others or has_rest):
    raise ArgumentError(
      f'the measure {name!r} must take {", ".join(GIVEN)}, or two parameters '
      f'of other names; it has {", ".join(others) or "none"}.'
    )
  return OwnMeasure(
    function, tuple(names), takes_two=len(others) == 2 or not names
  )


def _is_rest(parameter: inspect.Parameter) -> bool:
  return parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def needs_judgement(measure: MeasureLike) -> bool:
  """Return whether a measure reads `Pair.judged`."""
  return measure == 'local'


def needs_reference(measure: MeasureLike) -> bool:
  """Return whether a measure reads how the prompts' text goes on."""
  return any(n.startswith('reference') for n in _names(measure))


def needs_text(measure: MeasureLike) -> bool:
  """Return whether a measure reads text, not only token ids."""
  return any(n.endswith(_AS_TEXT) for n in _names(measure))


def _names(measure: MeasureLike) -> tuple[str, ...]:
  found = get_measure(measure)
  return found.names if isinstance(found, OwnMeasure) else ()


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
