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
"""Predicted speed-up of lossless self-speculation, best over exit and length.

An exit at depth E drafts d tokens, the rest of the model verifies them and
adds one of its own. With a block as the unit and a head of h blocks, a round
costs, keys and values of the first E blocks being kept,

  round = d (E + h) + E + (L - E + h) w

where w >= 1 is what a window of d + 1 tokens costs over one token (1 where
weights decide), and yields the drafts before the first miss and one more. The
yield is measured: of every run of d tokens in the text, how many drafts before
the first that is not the full model's. Where tokens agreed independently with
probability a it would be (1 - a^(d+1)) / (1 - a).

  SSPEC = max over E and d of (L + h) yield / round  (eejax definition)

Known limits: the text is given, not generated (teacher-forced), rows of a
batch do not wait for one another here, and attention over the cache is left
out. It is lossless: the speed-up changes, the tokens do not.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from eejax.analysis.suitability.score import natural_depths
from eejax.capture.captured import Captured, ReadoutKind
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import (
  DEFAULT,
  Bootstrap,
  Interval,
  function_interval,
)
from eejax.types import Bool, Float

NAME = 'SSPEC (eejax definition)'


@dataclasses.dataclass(frozen=True)
class SpeculationCost:
  """Say what the parts cost, in blocks.

  Attributes:
    head: one reading of the final norm and output matrix.
    window: a block or a head for a window of drafts over one token, at least
      1.
  """

  head: float
  window: float = 1.0

  def __post_init__(self):
    if self.head < 0 or self.window < 1:
      raise ArgumentError(
        f'head ({self.head}) must be at least 0 and window ({self.window}) '
        'at least 1.'
      )

  def round(self, *, depth: float, length: int, num_layers: int) -> float:
    """Return what drafting `length` tokens and verifying them costs."""
    draft = length * (depth + self.head)
    verify = depth + (num_layers - depth + self.head) * self.window
    return draft + verify


@dataclasses.dataclass(frozen=True)
class Speculation:
  """A way to speculate, with its forecast.

  Attributes:
    readout: name of the exit that drafts.
    depth: its depth, E.
    length: drafts a round, d.
    speedup: over full decoding; the interval is of the yield on other text.
    yielded: tokens a round.
    agreement: share of tokens at which the exit says what the full model says.
  """

  readout: str
  depth: float
  length: int
  speedup: Interval
  yielded: float
  agreement: float


def speculation(
  captured: Captured,
  *,
  cost: SpeculationCost,
  lengths: Sequence[int] = (1, 2, 3, 4, 5, 6, 8),
  readouts: ReadoutKind = ReadoutKind.NATURAL,
  bootstrap: Bootstrap = DEFAULT,
) -> tuple[Speculation, ...]:
  """Return every exit with its best length, the fastest first.

  The first entry is SSPEC; where its speed-up is below 1, it does not pay.

  Args:
    captured: a text with all positions of its rows, in order.
    cost: what the parts cost.
    lengths: drafts a round to try, each at least 1.
    readouts: natural depths or trained exits.
    bootstrap: how intervals are made, over rows.

  Raises:
    ArgumentError: no exit can draft, or a length is below 1.
  """
  if not lengths or min(lengths) < 1:
    raise ArgumentError('lengths of drafts must be at least 1.')
  ready = (
    natural_depths(captured)
    if readouts is ReadoutKind.NATURAL
    else captured.only(readouts)
  )
  ready = ready.at_positions(
    np.lexsort((ready.position, ready.segment, ready.row))
  )
  layers = ready.num_layers
  joined = _joined(ready)
  found = []
  for i, readout in enumerate(ready.readouts[:-1]):
    if not 1 <= readout.depth < layers:
      continue
    best = max(
      (
        _speculate(ready, i, d, joined=joined, cost=cost, bootstrap=None)
        for d in lengths
      ),
      key=lambda s: s.speedup.value,
    )
    found.append(
      _speculate(
        ready, i, best.length, joined=joined, cost=cost, bootstrap=bootstrap
      )
    )
  if not found:
    raise ArgumentError(
      'no read-out between the first block and the last can draft.'
    )
  return tuple(sorted(found, key=lambda s: -s.speedup.value))


def expected_yield(agreement: float, length: int) -> float:
  """Return tokens a round where tokens agree independently.

  Leviathan et al. (2023), Fast Inference from Transformers via Speculative
  Decoding, equation 1.
  """
  return float(sum(agreement**k for k in range(length + 1)))


def _speculate(
  ready, index: int, length: int, *, joined, cost, bootstrap
) -> Speculation:
  readout, layers = ready.readouts[index], ready.num_layers
  agree = ready.agree[index]
  yielded, counted = run_yield(agree, joined, length=length)
  sums, _ = ready.by_row(np.where(counted, yielded, 0.0))
  weights, _ = ready.by_row(counted.astype(float))
  price = cost.round(depth=readout.depth, length=length, num_layers=layers)
  factor = (layers + cost.head) / price
  if not weights.sum():
    # Rows shorter than a round: what independence would give.
    mean = expected_yield(float(agree.mean()), length)
    speedup = Interval(*(factor * mean,) * 3)
  elif bootstrap is None:
    mean = float(sums.sum() / weights.sum())
    speedup = Interval(*(factor * mean,) * 3)
  else:
    mean = float(sums.sum() / weights.sum())
    speedup = function_interval(
      sums[:, None],
      weights,
      lambda means: factor * means[:, 0],
      bootstrap=bootstrap,
    )
  return Speculation(
    readout=readout.name,
    depth=readout.depth,
    length=length,
    speedup=speedup,
    yielded=mean,
    agreement=float(np.average(agree, weights=ready.weight)),
  )


def run_yield(
  agree: Bool[np.ndarray, 'N'], joined: Bool[np.ndarray, 'N'], *, length: int
) -> tuple[Float[np.ndarray, 'N'], Bool[np.ndarray, 'N']]:
  """Return what a round that starts at each token yields.

  Args:
    agree: whether the exit says what the full model says.
    joined: whether a token follows the one before it in the same text.
    length: drafts a round.

  Returns:
    The drafts before the first miss and one more, and which tokens have a
    whole round after them.
  """
  size = len(agree)
  running = np.ones(size, bool)
  whole = np.ones(size, bool)
  total = np.ones(size)
  for k in range(length):
    there = np.arange(size) + k < size
    place = np.minimum(np.arange(size) + k, size - 1)
    whole &= there & (joined[place] if k else True)
    running = running & agree[place]
    total += running
  return total, whole


def _joined(ready: Captured) -> np.ndarray:
  same = np.ones(ready.num_positions, bool)
  for name, step in (('row', 0), ('segment', 0), ('position', 1)):
    values = ready[name]
    same[1:] &= np.diff(values) == step
  same[0] = False
  return same
