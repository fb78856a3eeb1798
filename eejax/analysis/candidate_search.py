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
"""Search for candidates: which exits, scores and thresholds should pay.

A captured text and the costs of decoding are enough. Settings are chosen on
one part of the text and forecast on another; `eejax.analysis.measurement`
measures them on a third. `eejax.analysis.verdict` says what comes of it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from eejax.analysis import break_even, exit_placement
from eejax.analysis.agreement import NaturalExits, summarise
from eejax.analysis.candidate import (
  NATURAL,
  TRAINED,
  Candidate,
  Forecast,
  Promise,
)
from eejax.analysis.cost_model import DecodeCost
from eejax.analysis.exit_placement import Budget, CandidateExits
from eejax.analysis.exit_scores import exit_scores
from eejax.analysis.measurement import natural_config
from eejax.analysis.suitability.speculation import (
  SpeculationCost,
  speculation,
)
from eejax.capture.captured import Captured, ReadoutKind
from eejax.config import EarlyExitConfig, GateKind
from eejax.decoding.policy import defaults
from eejax.decoding.policy.policy import Mode, Policy, Threshold
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import DEFAULT, Bootstrap, Interval
from eejax.stats.bounds import samples_needed

# What a capture needs for this.
FIELDS = ('top_tokens', 'top_log_probs', 'loss', 'entropy', 'gate_score')
NUM_CANDIDATES = 2
DEFAULT_BUDGET = Budget()
# Drafts go on while the exit's score is at least this, as by default.
DRAFT_THRESHOLD = float(defaults.THRESHOLDS[Mode.SPECULATIVE.value])
_DELTA = 0.05
_LENGTHS = (1, 2, 3, 5, 7)

# Returns what decoding a model with a policy costs.
CostOf = Callable[[EarlyExitConfig, Policy], DecodeCost]


@dataclasses.dataclass(frozen=True)
class CandidateSearch:
  """Candidates that were found, and what a text says of early exit at all.

  Attributes:
    natural: every depth, and the ceiling.
    candidates: the best setting of each kind, with its forecast.
    needed: by depth, the share of tokens a natural exit there must take to
      pay alone, asked by its head; None where even all are too few.
    settled: by depth, the share of tokens whose stable depth is there or
      before.
    certify_sequences: how many sequences would certify the best early exit
      for the budget if they lose what its tokens lost here; None where none
      would.
    head_in_blocks: what reading the final head costs, in blocks.
    window_factor: what the widest window costs over one token.
  """

  natural: NaturalExits
  candidates: tuple[Candidate, ...]
  needed: dict[int, float | None]
  settled: dict[int, float]
  certify_sequences: int | None
  head_in_blocks: float
  window_factor: float


@dataclasses.dataclass(frozen=True)
class SearchSettings:
  """Settings of a search.

  Attributes:
    window: every `window`-th token at the latest goes to full depth.
    budget: of early exit: agreement to be kept, and exits at most.
    bootstrap: how intervals are made.
  """

  window: int = 8
  budget: Budget = DEFAULT_BUDGET
  bootstrap: Bootstrap = DEFAULT


def find_candidates(
  captured: Captured,
  *,
  config: EarlyExitConfig,
  cost_of: CostOf,
  search_rows: int | None = None,
  settings: SearchSettings = SearchSettings(),
) -> CandidateSearch:
  """Return the best candidate of each kind.

  Args:
    captured: all positions of at least two rows of text, one document or
      piece a row, with `FIELDS`, every natural depth, and trained exits where
      there are any.
    config: the model with its exits.
    cost_of: what decoding costs, as `decode_cost` returns it.
    search_rows: settings are chosen on so many rows, the first ones, and
      forecast on the others; None is the first half.
    settings: of the search.

  Raises:
    ArgumentError: one of the two parts is empty.
  """
  text = _Text(captured, search_rows)
  families = _families(text.captured, config)
  candidates: list[Candidate] = []
  for family in families:
    found = [
      _early_exit(text, family, criterion, cost_of, settings)
      for criterion in family.criteria
    ]
    # By the rows that were searched on.
    candidates.append(max(found, key=lambda one: one[1])[0])
  drafts = [_draft(text, family, cost_of, settings) for family in families]
  drafting = max(drafts, key=lambda one: one[1])[0]
  candidates += [drafting, *_lookups(drafting, settings.window)]
  natural = families[0]
  summary = summarise(
    text.spread(text.captured.only(ReadoutKind.NATURAL).loss),
    text.spread(text.captured.only(ReadoutKind.NATURAL).top1).astype(np.int32),
    text.counted.astype(np.float32),
    bootstrap=settings.bootstrap,
  )
  cost = cost_of(natural.config, _asking('max_prob', settings.window))
  return CandidateSearch(
    natural=summary,
    candidates=tuple(candidates),
    needed=_needed(natural, cost_of, settings.window),
    settled=_settled(summary),
    certify_sequences=_certify_sequences(candidates, settings.budget),
    head_in_blocks=cost.model.head_in_blocks,
    window_factor=cost.shared.of(settings.window),
  )


@dataclasses.dataclass(frozen=True)
class _Family:
  """Family of exits: natural depths, or those that were trained.

  Attributes:
    source: `NATURAL` or `TRAINED`.
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


def _families(captured: Captured, config: EarlyExitConfig) -> list[_Family]:
  scores = ('max_prob', 'margin', 'entropy')
  places = lambda kind: tuple(
    i
    for i, r in enumerate(captured.readouts)
    if r.kind is kind and 0 < r.depth < captured.num_layers
  )
  natural = places(ReadoutKind.NATURAL)
  depths = [int(captured.readouts[i].depth) for i in natural]
  families = [
    _Family(
      NATURAL,
      ReadoutKind.NATURAL,
      natural_config(config.model, depths),
      natural,
      scores,
    )
  ]
  trained = places(ReadoutKind.EXIT)
  names = {captured.readouts[i].name for i in trained}
  exits = tuple(e for e in config.exits if e.name in names)
  if exits:
    gated = all(e.gate is not GateKind.NONE for e in exits)
    families.append(
      _Family(
        TRAINED,
        ReadoutKind.EXIT,
        config.with_exits(exits),
        trained,
        (*scores, 'gate') if gated else scores,
      )
    )
  return families


def _asking(criterion: str, window: int) -> Policy:
  """Return a policy under which every exit is asked."""
  return Policy(Mode.EARLY_EXIT, criterion, (0.5,), window=window)


class _Text:
  """Captured positions laid out as rows of text, the first ones to search."""

  def __init__(self, captured: Captured, search_rows: int | None):
    self.captured = _in_order(captured)
    _, self._row = np.unique(self.captured.row, return_inverse=True)
    first = np.flatnonzero(np.diff(self._row, prepend=-1))
    self._column = np.arange(len(self._row)) - first[self._row]
    shape = (len(first), int(self._column.max()) + 1)
    self.counted = np.zeros(shape, bool)
    self.counted[self._row, self._column] = self.captured.weight > 0
    count = len(first) // 2 if search_rows is None else search_rows
    self.searched: np.ndarray = np.arange(len(first)) < count
    if self.searched.all() or not self.searched.any():
      raise ArgumentError(
        'settings are chosen on one part of the text and forecast on another, '
        'and one of them is empty; give more text.'
      )

  def halves(self) -> tuple[Captured, Captured]:
    """Return the positions that are searched on, and the others."""
    at = self.captured.at_positions
    searched = self.searched[self._row]
    return at(searched), at(~searched)

  def spread(self, values: np.ndarray) -> np.ndarray:
    """Return values [..., N] as [..., rows, T], 0 where there is none."""
    table = np.zeros((*values.shape[:-1], *self.counted.shape), values.dtype)
    table[..., self._row, self._column] = values
    return table


def _in_order(captured: Captured) -> Captured:
  return captured.at_positions(
    np.lexsort((captured.position, captured.segment, captured.row))
  )


def _early_exit(
  text: _Text,
  family: _Family,
  criterion: str,
  cost_of: CostOf,
  settings: SearchSettings,
) -> tuple[Candidate, float]:
  """Return the best early exit, and its speed where it was searched."""
  chosen = list(family.readouts)
  captured, window = text.captured, settings.window
  scores = exit_scores(captured, criterion)[chosen]
  exits = CandidateExits(
    names=tuple(captured.readouts[i].name for i in chosen),
    depths=tuple(int(captured.readouts[i].depth) for i in chosen),
    scores=text.spread(scores.astype(np.float32)),
    agree=text.spread(captured.agree[chosen]),
    counted=text.counted,
  )
  with_exits = lambda chosen: family.config.with_exits(
    tuple(family.config.exits[i] for i in chosen)
  )
  placed = exit_placement.search(
    exits.at_rows(text.searched),
    exits.at_rows(~text.searched),
    cost_of=lambda c: cost_of(with_exits(c), _asking(criterion, window)),
    window=window,
    budget=settings.budget,
    bootstrap=settings.bootstrap,
  )
  thresholds: tuple[Threshold, ...] = placed.thresholds
  lost = placed.agreement
  candidate = Candidate(
    name=f'early exit from {family.source} exits',
    source=family.source,
    depths=tuple(exits.depths[i] for i in placed.chosen),
    policy=(
      Policy(Mode.EARLY_EXIT, criterion, thresholds, window=window)
      if placed.chosen
      else None
    ),
    promise=Promise.EMPIRICAL,
    forecast=Forecast(
      placed.speedup, Interval(1 - lost.value, 1 - lost.high, 1 - lost.low)
    ),
  )
  return candidate, placed.searched[1]


def _draft(
  text: _Text, family: _Family, cost_of: CostOf, settings: SearchSettings
) -> tuple[Candidate, float]:
  """Return the best self-speculation, and its speed where it was searched."""
  cost = cost_of(family.config, _asking('max_prob', settings.window))
  # What a step costs beside blocks and the head is paid for each draft, too.
  head = cost.model.head_in_blocks + cost.step / cost.model.block
  searched, held_out = text.halves()

  def speculate(part: Captured, lengths: Sequence[int], bootstrap: Bootstrap):
    return [
      one
      for length in lengths
      for one in speculation(
        part,
        cost=SpeculationCost(head, cost.shared.of(length + 1)),
        lengths=(length,),
        readouts=family.kind,
        bootstrap=bootstrap,
      )
    ]

  lengths = tuple(n for n in _LENGTHS if n < settings.window) or (1,)
  best = max(
    speculate(searched, lengths, Bootstrap(draws=1)),
    key=lambda s: s.speedup.value,
  )
  again = next(
    s
    for s in speculate(held_out, (best.length,), settings.bootstrap)
    if s.readout == best.readout
  )
  candidate = Candidate(
    name='lossless, exits draft',
    source=family.source,
    depths=(int(best.depth),),
    policy=Policy(
      Mode.SPECULATIVE, 'max_prob', (0.0,), draft_length=best.length
    ),
    promise=Promise.EXACT,
    forecast=Forecast(again.speedup, Interval(0.0, 0.0, 0.0)),
  )
  return candidate, best.speedup.value


def _lookups(drafting: Candidate, window: int) -> tuple[Candidate, ...]:
  """Return lossless decoding that drafts from the text so far."""
  both: tuple[tuple[str, Threshold], ...] = (
    ('lossless, the text drafts', None),
    ('lossless, exits and the text draft', DRAFT_THRESHOLD),
  )
  return tuple(
    dataclasses.replace(
      drafting,
      name=name,
      policy=Policy(
        Mode.SPECULATIVE,
        'max_prob',
        (threshold,),
        window=window,
        prompt_lookup=defaults.PROMPT_LOOKUP,
      ),
      # What a text repeats of itself is not known before it is written.
      forecast=None,
    )
    for name, threshold in both
  )


def _certify_sequences(
  candidates: Sequence[Candidate], budget: Budget
) -> int | None:
  lossy = [
    c.forecast
    for c in candidates
    if c.promise is Promise.EMPIRICAL and c.forecast and c.policy
  ]
  if not lossy:
    return None
  best = max(lossy, key=lambda forecast: forecast.speedup.value)
  return samples_needed(
    risk=min(max(1 - budget.agreement, 1e-6), 0.999),
    delta=_DELTA,
    expected=max(best.loss.value, 0.0),
  )


def _needed(
  family: _Family, cost_of: CostOf, window: int
) -> dict[int, float | None]:
  """Return the share of tokens each natural exit alone must take to pay."""
  asking = _asking('max_prob', window)
  return {
    exit.depth: break_even.break_even(
      cost_of(family.config.with_exits((exit,)), asking), 0, window=window
    )
    for exit in family.config.exits
  }


def _settled(natural: NaturalExits) -> dict[int, float]:
  shares = np.cumsum([d.stable for d in natural.depths])
  return {
    d.depth: float(share)
    for d, share in zip(natural.depths, shares, strict=True)
  }
