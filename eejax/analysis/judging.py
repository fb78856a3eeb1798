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
"""How a verdict on early exit is found: a capture and costs are enough.

See `eejax.analysis.verdict` for what it says. Exits, scores and thresholds are
chosen on every other row of the text and reported on the rest.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from eejax.analysis import break_even, placement
from eejax.analysis.agreement import NaturalExits, summarise
from eejax.analysis.cost_model import DecodeCost
from eejax.analysis.placement import Budget, Candidates
from eejax.analysis.suitability.speculation import (
  SpeculationCost,
  speculation,
)
from eejax.analysis.verdict import Verdict, Way
from eejax.capture.captured import Captured, ReadoutKind
from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  GateKind,
  ModelConfig,
  OutputMatrix,
)
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval
from eejax.stats.bounds import samples_needed

# What a capture needs for this.
FIELDS = ('top_tokens', 'top_log_probs', 'loss', 'entropy', 'gate_score')
NUM_CANDIDATES = 2
DEFAULT_BUDGET = Budget()
_DELTA = 0.05
_LENGTHS = (1, 2, 3, 5, 7)

# Returns what decoding with some exits and a score costs.
CostFor = Callable[[EarlyExitConfig, str], DecodeCost]


def judge(
  captured: Captured,
  *,
  config: EarlyExitConfig,
  cost_for: CostFor,
  machine: str,
  window: int = 8,
  budget: Budget = DEFAULT_BUDGET,
  bootstrap: Bootstrap = DEFAULT,
) -> Verdict:
  """Judge early exit on a model.

  Args:
    captured: all positions of at least two rows of text, one document or
      piece a row, with `FIELDS`, every natural depth, and trained exits where
      there are any.
    config: the model with its exits.
    cost_for: what decoding costs.
    machine: where that comes from, in words.
    window: of the decoder.
    budget: of the early exit.
    bootstrap: how intervals are made.
  """
  ready = _in_order(captured)
  grid = _Grid(ready)
  families = _families(ready, config)
  ways = [
    _early_exit(grid, family, criterion, cost_for, window, budget, bootstrap)
    for family in families
    for criterion in family.criteria
  ]
  # Chosen by the rows that were searched on.
  lossy, _ = max(ways, key=lambda found: found[1])
  drafts = [
    _draft(ready, family, cost_for, window, bootstrap) for family in families
  ]
  lossless, _ = max(drafts, key=lambda found: found[1])
  natural = families[0]
  summary = summarise(
    grid.spread(ready.only(ReadoutKind.NATURAL).loss),
    grid.spread(ready.only(ReadoutKind.NATURAL).top1).astype(np.int32),
    grid.counted.astype(np.float32),
    bootstrap=bootstrap,
  )
  cost = cost_for(natural.config, 'max_prob')
  lost = 1 - lossy.agreement.value
  return Verdict(
    natural=summary,
    lossless=lossless,
    lossy=lossy,
    loss=1 - budget.agreement,
    needed=_needed(natural, cost_for, window),
    settled=_settled(summary),
    sequences=samples_needed(
      risk=min(max(1 - budget.agreement, 1e-6), 0.999),
      delta=_DELTA,
      expected=lost,
    ),
    head_in_blocks=cost.model.head_in_blocks,
    window_factor=cost.shared.of(window),
    machine=machine,
  )


@dataclasses.dataclass(frozen=True)
class _Family:
  """Hold exits of one kind: natural depths, or those that were trained.

  Attributes:
    source: what they are, in words.
    kind: of their read-outs.
    config: the model with them as its exits.
    readouts: their places among the capture's read-outs.
    criteria: scores they can be asked by.
  """

  source: str
  kind: ReadoutKind
  config: EarlyExitConfig
  readouts: tuple[int, ...]
  criteria: tuple[str, ...]

  def cost_of(self, cost_for: CostFor, criterion: str):
    """Return the cost of some of the exits, by their numbers."""
    exits = self.config.exits
    return lambda chosen: cost_for(
      self.config.with_exits(tuple(exits[i] for i in chosen)), criterion
    )


def _families(captured: Captured, config: EarlyExitConfig) -> list[_Family]:
  scores = ('max_prob', 'margin', 'entropy')
  places = lambda kind: tuple(
    i
    for i, r in enumerate(captured.readouts)
    if r.kind is kind and 0 < r.depth < captured.num_layers
  )
  natural = places(ReadoutKind.NATURAL)
  found = [
    _Family(
      'natural exits',
      ReadoutKind.NATURAL,
      natural_config(
        config.model, [int(captured.readouts[i].depth) for i in natural]
      ),
      natural,
      scores,
    )
  ]
  trained = places(ReadoutKind.EXIT)
  names = {captured.readouts[i].name for i in trained}
  exits = tuple(e for e in config.exits if e.name in names)
  if exits:
    gated = all(e.gate is not GateKind.NONE for e in exits)
    found.append(
      _Family(
        'the exits of the model',
        ReadoutKind.EXIT,
        config.with_exits(exits),
        trained,
        (*scores, 'gate') if gated else scores,
      )
    )
  return found


def natural_config(
  model: ModelConfig, depths: Sequence[int]
) -> EarlyExitConfig:
  """Return a model whose own final norm and head are read at some depths."""
  return EarlyExitConfig(
    model,
    tuple(
      ExitConfig(depth, ExitHeadKind.NORM, OutputMatrix.SHARED)
      for depth in depths
    ),
  )


class _Grid:
  """Lay positions out as rows of text."""

  def __init__(self, captured: Captured):
    _, self._row = np.unique(captured.row, return_inverse=True)
    first = np.flatnonzero(np.diff(self._row, prepend=-1))
    self._column = np.arange(len(self._row)) - first[self._row]
    shape = (len(first), int(self._column.max()) + 1)
    self.counted = np.zeros(shape, bool)
    self.counted[self._row, self._column] = captured.weight > 0
    self.captured = captured

  def spread(self, values: np.ndarray) -> np.ndarray:
    """Return values [..., N] as [..., rows, T], 0 where there is none."""
    found = np.zeros((*values.shape[:-1], *self.counted.shape), values.dtype)
    found[..., self._row, self._column] = values
    return found


def _in_order(captured: Captured) -> Captured:
  return captured.at_positions(
    np.lexsort((captured.position, captured.segment, captured.row))
  )


def scores_of(
  captured: Captured, criterion: str, *, vocab_size: int
) -> np.ndarray:
  """Return a criterion's score [R, N] of each read-out, in [0, 1]."""
  if criterion == 'gate':
    return captured.gate_score
  if criterion == 'entropy':
    return 1 - captured.entropy / np.log(vocab_size)
  chances = np.exp(captured.top_log_probs)
  if criterion == 'margin':
    return chances[..., 0] - chances[..., 1]
  return chances[..., 0]


def _early_exit(
  grid: _Grid, family: _Family, criterion: str, cost_for, window, budget, boots
) -> tuple[Way, float]:
  """Return the best early exit, and its speed where it was searched."""
  chosen = list(family.readouts)
  captured = grid.captured
  vocab = family.config.model.vocab_size
  scores = scores_of(captured, criterion, vocab_size=vocab)[chosen]
  candidates = Candidates(
    names=tuple(captured.readouts[i].name for i in chosen),
    depths=tuple(int(captured.readouts[i].depth) for i in chosen),
    scores=grid.spread(np.clip(scores, 0.0, 1.0).astype(np.float32)),
    agree=grid.spread(captured.agree[chosen]),
    counted=grid.counted,
  )
  found = placement.search(
    candidates,
    cost_of=family.cost_of(cost_for, criterion),
    window=window,
    budget=budget,
    bootstrap=boots,
  )
  way = Way(
    name='early exit',
    level='empirical, teacher-forced',
    source=family.source,
    depths=tuple(candidates.depths[i] for i in found.chosen),
    criterion=criterion if found.chosen else '',
    thresholds=found.thresholds,
    speedup=found.speedup,
    agreement=found.agreement,
  )
  return way, found.searched[1]


def _draft(
  captured: Captured, family: _Family, cost_for: CostFor, window, boots
) -> tuple[Way, float]:
  """Return the best self-speculation, chosen on every other row."""
  cost = cost_for(family.config, 'max_prob')
  # What a step costs beside blocks and the head is paid for each draft, too.
  head = cost.model.head_in_blocks + cost.step / cost.model.block
  _, row = np.unique(captured.row, return_inverse=True)
  halves = [captured.at_positions(row % 2 == half) for half in (0, 1)]

  def speculate(half: int, lengths: tuple[int, ...], bootstrap):
    return [
      one
      for length in lengths
      for one in speculation(
        halves[half],
        cost=SpeculationCost(head, cost.shared.of(length + 1)),
        lengths=(length,),
        readouts=family.kind,
        bootstrap=bootstrap,
      )
    ]

  lengths = tuple(n for n in _LENGTHS if n < window) or (1,)
  few = Bootstrap(draws=1)
  best = max(speculate(0, lengths, few), key=lambda s: s.speedup.value)
  again = next(
    s for s in speculate(1, (best.length,), boots) if s.readout == best.readout
  )
  way = Way(
    name='self-speculation',
    level='exact',
    source=family.source,
    depths=(int(best.depth),),
    criterion='',
    thresholds=(),
    speedup=again.speedup,
    agreement=Interval(1.0, 1.0, 1.0),
    drafts=best.length,
  )
  return way, best.speedup.value


def _needed(
  family: _Family, cost_for: CostFor, window: int
) -> dict[int, float | None]:
  """Return the share of tokens each natural exit alone must take to pay."""
  found = {}
  for exit in family.config.exits:
    cost = cost_for(family.config.with_exits((exit,)), 'max_prob')
    found[exit.depth] = break_even.break_even(cost, 0, window=window)
  return found


def _settled(natural: NaturalExits) -> dict[int, float]:
  shares = np.cumsum([d.stable for d in natural.depths])
  return {
    d.depth: float(share)
    for d, share in zip(natural.depths, shares, strict=True)
  }
