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
"""The sections of an analysis: what a captured text says of early exit.

Each takes a captured text and returns values of dataclasses, numbers and
texts alone. None needs another, so one that fails leaves the rest.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eejax.analysis.exit_scores import readable_criteria
from eejax.analysis.natural import gates as natural_gates
from eejax.analysis.natural import subwords as subwords_lib
from eejax.analysis.natural.alignment import alignment
from eejax.analysis.natural.curves import curves
from eejax.analysis.natural.depths import (
  Ceiling,
  distribution,
  stable_depth,
)
from eejax.analysis.natural.sublayers import sublayer_exits
from eejax.analysis.suitability import speculation as speculation_lib
from eejax.analysis.suitability.headroom import headroom
from eejax.analysis.suitability.score import (
  DEFAULT_SETTINGS,
  ScoreSettings,
  Similarity,
  score,
)
from eejax.analysis.suitability.skip import (
  BUDGETS,
  Quality,
  SweepSettings,
  regrets,
  skip_at,
  sweep,
)
from eejax.analysis.suitability.speculation import Speculation, SpeculationCost
from eejax.capture.captured import Captured, ReadoutKind
from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import DEFAULT, FUNCTION_METHOD, METHOD, Bootstrap

LEVEL = 'empirical, teacher-forced'
# Columns of a grid of tokens, so that one of a deep model can be read.
MOST_DEPTHS = 16


@dataclasses.dataclass(frozen=True)
class SectionSettings:
  """Say how sections are computed.

  Attributes:
    score: what the score's definition leaves open.
    sweep: which gates, and how finely.
    budgets: e of SKIP@e.
    lengths: drafts a round that speculation tries.
    bootstrap: how intervals are made.
  """

  score: ScoreSettings = DEFAULT_SETTINGS
  sweep: SweepSettings = SweepSettings()
  budgets: tuple[float, ...] = BUDGETS
  lengths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)
  bootstrap: Bootstrap = DEFAULT

  def __post_init__(self):
    check_fields(self)


DEFAULTS = SectionSettings()


def natural(captured: Captured, settings: SectionSettings) -> dict[str, Any]:
  """Return what every depth says, and where answers first appear."""
  how = settings.bootstrap
  return {
    'readouts': curves(captured, bootstrap=how),
    'ceilings': [distribution(captured, c, bootstrap=how) for c in Ceiling],
    'tokens': captured.num_positions,
    'rows': captured.num_rows,
    'confidence': settings.bootstrap.confidence,
    'intervals': f'{METHOD}; of functions of several means: {FUNCTION_METHOD}',
    'level': LEVEL,
  }


def free_running(
  captured: Captured, settings: SectionSettings
) -> dict[str, Any]:
  """Return the section `natural` of a text that the full model generated."""
  return natural(captured, settings) | {'level': 'empirical, free-running'}


def subwords(
  captured: Captured, settings: SectionSettings, *, texts: Sequence[str]
) -> dict[str, Any]:
  """Return the natural exits by what a token is, and by how frequent.

  Args:
    captured: a text.
    settings: how sections are computed.
    texts: what each token of the vocabulary adds to a text.
  """
  chosen = captured.only(ReadoutKind.NATURAL)
  how = settings.bootstrap
  return {
    'depths': [r.depth for r in chosen.readouts],
    'by_target': subwords_lib.by_target(chosen, texts, bootstrap=how),
    'by_input': subwords_lib.by_input(chosen, texts, bootstrap=how),
    'by_frequency': subwords_lib.by_frequency(chosen, bootstrap=how),
  }


def suitability(
  captured: Captured, settings: SectionSettings
) -> dict[str, Any]:
  """Return the score by every similarity, and the ceilings beside it."""
  found, left_out = [], []
  for kind in Similarity:
    chosen = dataclasses.replace(settings.score, similarity=kind)
    try:
      found.append(
        score(captured, settings=chosen, bootstrap=settings.bootstrap)
      )
    except ArgumentError as error:  # the capture lacks its array
      left_out.append(f'{kind.value}: {error}')
  return {
    'scores': found,
    'chosen': settings.score.words(),
    'left_out': left_out,
    'headroom': headroom(captured, bootstrap=settings.bootstrap),
  }


def gates(captured: Captured, settings: SectionSettings) -> dict[str, Any]:
  """Return what gates detect and what they can skip, natural and trained."""
  kinds = [ReadoutKind.NATURAL]
  if captured.facts.indices(ReadoutKind.EXIT):
    kinds.append(ReadoutKind.EXIT)
  return {
    'sweeps': [_swept(captured, settings, kind) for kind in kinds],
    'detection': [
      found
      for found in natural_gates.compare(
        captured.only(ReadoutKind.NATURAL),
        bootstrap=settings.bootstrap,
        gates=_natural_gates(captured),
      ).values()
    ],
  }


def _natural_gates(captured: Captured) -> tuple[str, ...]:
  # Natural read-outs have no trained gate.
  names = readable_criteria(captured)
  return tuple(n for n in names if n != 'gate')


def _swept(captured: Captured, settings: SectionSettings, kind: ReadoutKind):
  how = dataclasses.replace(settings.sweep, readouts=kind)
  found = sweep(captured, settings=how)
  return {
    'readouts': kind,
    'depths': found.depths,
    'full_accuracy': float(found.full_accuracy.sum() / found.counts.sum()),
    'points': found.points,
    'skips': [
      skip_at(found, e, quality=quality, bootstrap=settings.bootstrap)
      for quality in Quality
      for e in settings.budgets
    ],
    'regrets': regrets(captured, found, bootstrap=settings.bootstrap),
  }


def confidence(captured: Captured, settings: SectionSettings) -> Any:
  """Return how far confidence means the same at every depth."""
  return alignment(
    captured.only(ReadoutKind.NATURAL), bootstrap=settings.bootstrap
  )


def sublayers(
  captured: Captured, settings: SectionSettings
) -> dict[str, Any] | None:
  """Return what exits after attention are worth; None if none was read."""
  if not captured.facts.indices(ReadoutKind.ATTENTION):
    return None
  return {
    c.value: sublayer_exits(captured, c, bootstrap=settings.bootstrap)
    for c in (Ceiling.FIRST_MATCH, Ceiling.STABLE)
  }


def speculation(
  captured: Captured,
  settings: SectionSettings,
  *,
  cost_of: Callable[[int], SpeculationCost],
) -> dict[str, Any]:
  """Return what lossless self-speculation should bring.

  Args:
    captured: a text.
    settings: how sections are computed.
    cost_of: what parts cost where so many tokens are drafted a round.
  """
  kinds = [ReadoutKind.NATURAL]
  if captured.facts.indices(ReadoutKind.EXIT):
    kinds.append(ReadoutKind.EXIT)
  costs = {length: cost_of(length) for length in settings.lengths}
  return {
    'head': next(iter(costs.values())).head,
    'windows': {length: cost.window for length, cost in costs.items()},
    'by_readouts': [
      {'readouts': kind, 'exits': _drafts(captured, settings, kind, costs)}
      for kind in kinds
    ],
  }


def _drafts(
  captured: Captured,
  settings: SectionSettings,
  kind: ReadoutKind,
  costs: Mapping[int, SpeculationCost],
) -> list[Speculation]:
  """Return every exit with its best length, the fastest first."""
  best: dict[str, Speculation] = {}
  for length, cost in costs.items():
    for found in speculation_lib.speculation(
      captured,
      cost=cost,
      lengths=(length,),
      readouts=kind,
      bootstrap=settings.bootstrap,
    ):
      known = best.get(found.readout)
      if known is None or found.speedup.value > known.speedup.value:
        best[found.readout] = found
  return sorted(best.values(), key=lambda s: -s.speedup.value)


# Text that a token adds after another one.
PieceOf = Callable[[int, int | None], str]


def token_grid(
  captured: Captured,
  *,
  piece_of: PieceOf,
  most_tokens: int = 48,
  candidates: int = 5,
) -> dict[str, Any]:
  """Return what every depth says after the first tokens of a text.

  Args:
    captured: a text with natural read-outs; its first row is taken.
    piece_of: text that a token adds after the one before it.
    most_tokens: how many of them at most.
    candidates: likeliest tokens listed at each depth.
  """
  chosen = captured.only(ReadoutKind.NATURAL)
  first = np.flatnonzero(chosen.row == chosen.row[0])[:most_tokens]
  chosen = chosen.at_positions(first)
  every = spread(len(chosen.readouts), most=MOST_DEPTHS)
  stable = stable_depth(chosen.top1)
  tokens = [int(t) for t in chosen.token]
  shown = min(candidates, chosen.top_tokens.shape[-1])
  return {
    'depths': [chosen.readouts[i].depth for i in every],
    'tokens': [
      piece_of(t, before)
      for t, before in zip(tokens, [None, *tokens], strict=False)
    ],
    'targets': [
      piece_of(int(t), before)
      for t, before in zip(chosen.target, tokens, strict=True)
    ],
    # A read-out that is not shown may be where a token settles; the mark then
    # stands at the next one that is.
    'settled': [
      next(k for k, i in enumerate(every) if i >= stable[n])
      for n in range(len(first))
    ],
    'readings': [
      [_reading(chosen, i, n, shown, piece_of) for i in every]
      for n in range(len(first))
    ],
  }


def _reading(
  captured: Captured, i: int, n: int, shown: int, piece_of: PieceOf
) -> dict[str, Any]:
  """Return what read-out `i` says after token `n`."""
  before = int(captured.token[n])
  tokens = captured.top_tokens[i, n, :shown]
  log_probs = captured.top_log_probs[i, n, :shown]
  return {
    'candidates': [
      [piece_of(int(t), before), float(np.exp(min(p, 0.0)))]
      for t, p in zip(tokens, log_probs, strict=True)
    ],
    'same': bool(captured.agree[i, n]),
  }


def spread(count: int, *, most: int) -> list[int]:
  """Return at most `most` of the numbers below `count`, ends included."""
  if count <= most:
    return list(range(count))
  places = np.linspace(0, count - 1, most).round().astype(int)
  return sorted(set(places.tolist()))


def describe(captured: Captured) -> Mapping[str, Any]:
  """Return where a capture comes from."""
  facts = captured.facts
  return {
    'num_layers': facts.num_layers,
    'vocab_size': facts.vocab_size,
    'model': facts.model,
    'backbone_hash': facts.backbone_hash,
    'data': facts.data,
    'tokenizer': facts.tokenizer,
    'dtype': facts.dtype,
    'versions': facts.versions,
    'readouts': [
      {'name': r.name, 'depth': r.depth, 'kind': r.kind.value}
      for r in facts.readouts
    ],
  }
