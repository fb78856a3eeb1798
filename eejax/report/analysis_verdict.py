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
"""Say in plain words whether early exit will pay on a model as it is.

Where the sections hold what `eejax probe` found with costs timed on a machine,
that is the answer. Else it is made of the sections that there are, by bytes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from eejax.report.analysis_formats import gate_words

Values = Mapping[str, Any]

# A predicted speed-up below this is within what a prediction misses by.
_FASTER = 1.05
# Share of blocks skipped at one changed token in a hundred that is worth a
# check's own cost, and below which nothing is left of it.
_MUCH, _LITTLE = 0.15, 0.05
_NO_ROOM = 0.10


@dataclasses.dataclass(frozen=True)
class Verdict:
  """Hold the answer to whether it pays.

  Attributes:
    kind: 'yes', 'maybe' or 'no'.
    headline: one sentence.
    reasons: what it rests on, a sentence each.
  """

  kind: str
  headline: str
  reasons: tuple[str, ...]


def verdict(values: Values) -> Verdict:
  """Return the answer from the sections there are.

  Args:
    values: plain values of the sections by name; missing ones are left out
      of the reasons.
  """
  skip = best_skip(values, budget=0.01)
  judged = values.get('verdict')
  if judged:
    bound = None if skip is None else gated_bound(values, skip)
    said = (*judged['sentences'], *_skip_words(skip, bound))
    return Verdict(judged['kind'], judged['headline'], said)
  ceiling = _ceiling(values)
  fastest = best_speculation(values)
  lossless = fastest is not None and fastest['speedup']['low'] > _FASTER
  bound = None if skip is None else gated_bound(values, skip)
  worth = bound is None or bound > _FASTER
  share = 0.0 if skip is None else _expected(skip)
  gated = worth and share >= _MUCH
  few = not worth or share < _LITTLE
  slow = fastest is None or fastest['speedup']['high'] <= _FASTER
  if lossless or gated:
    kind, headline = 'yes', 'Early exit should pay on this model as it is.'
  elif (ceiling is not None and ceiling['high'] < _NO_ROOM) or (few and slow):
    kind = 'no'
    headline = 'No: early exit will not pay on this model as it is.'
  else:
    kind = 'maybe'
    headline = 'Early exit can save little on this model as it is.'
  reasons = [
    *_ceiling_words(ceiling),
    *_skip_words(skip, bound),
    *_speculation_words(fastest),
    'Level: empirical, teacher-forced; speed-ups are predicted from bytes '
    'read, not measured. Trained exits can do better than what is there by '
    'nature.',
  ]
  return Verdict(kind, headline, tuple(reasons))


def best_skip(values: Values, *, budget: float) -> Values | None:
  """Return the largest SKIP@budget in agreement, natural or trained exits."""
  found = [
    {**skip, 'readouts': s['readouts']}
    for s in (values.get('gates') or {}).get('sweeps', ())
    for skip in s['skips']
    if skip['quality'] == 'agreement' and abs(skip['budget'] - budget) < 1e-9
  ]
  worth = lambda s: (gated_bound(values, s) or 1.0, _expected(s))
  return max(found, key=worth, default=None)


def gated_bound(values: Values, skip: Values) -> float | None:
  """Return the speed-up that exits could bring at most; None if unknown.

  Blocks and output matrices that are read count, by bytes; the keys and values
  of skipped blocks, which are due later, do not.
  """
  head = (values.get('speculation') or {}).get('head')
  about = (values.get('suitability') or {}).get('headroom')
  if head is None or not about:
    return None
  layers = about['depths'][-1]
  spent = layers * (1 - _expected(skip)) + head * skip['heads']
  return (layers + head) / spent


def best_speculation(values: Values) -> Values | None:
  """Return the fastest way to speculate."""
  found = [
    {**exit, 'readouts': group['readouts']}
    for group in (values.get('speculation') or {}).get('by_readouts', ())
    for exit in group['exits']
  ]
  return max(found, key=lambda s: s['speedup']['value'], default=None)


def _expected(skip: Values) -> float:
  held_out = skip['held_out_skip']
  return skip['skip']['value'] if held_out is None else held_out


def _ceiling(values: Values) -> Values | None:
  found = values.get('suitability')
  return None if not found else found['headroom']['stable']


def _ceiling_words(ceiling: Values | None) -> Sequence[str]:
  if ceiling is None:
    return ()
  return (
    f'An oracle that knew the stable depth of every token could skip '
    f'{_range(ceiling)} of the blocks without changing one.',
  )


def _skip_words(skip: Values | None, bound: float | None) -> Sequence[str]:
  if skip is None:
    return ()
  kind = 'trained exits' if skip['readouts'] == 'exit' else 'natural exits'
  words = (
    f'The best gate ({gate_words(skip["gate"])}, {kind}) skips '
    f'{_range(skip["skip"])} with at most {100 * skip["budget"]:g} % of tokens '
    'changed'
  )
  if skip['held_out_skip'] is not None:
    words += (
      f'; on text its threshold was not chosen on, '
      f'{100 * skip["held_out_skip"]:.1f} % with '
      f'{100 * skip["held_out_drop"]:.1f} % changed'
    )
  if bound is None:
    return (f'{words}. Checks are not counted in this.',)
  end = (
    'so its checks cost more than it saves'
    if bound <= 1
    else f'so it is {bound:.2f} times as fast at most'
  )
  return (
    f'{words}. It reads {skip["heads"]:.1f} output matrices a token, {end} '
    '(keys and values of skipped blocks not counted).',
  )


def _speculation_words(fastest: Values | None) -> Sequence[str]:
  if fastest is None:
    return ()
  speed = fastest['speedup']
  drafts = 'draft' if fastest['length'] == 1 else 'drafts'
  return (
    f'Lossless self-speculation from depth {fastest["depth"]:g} with '
    f'{fastest["length"]} {drafts} a round is predicted to be '
    f'{speed["value"]:.2f} times as fast as full decoding '
    f'({speed["low"]:.2f} to {speed["high"]:.2f}).',
  )


def _range(interval: Values) -> str:
  value, low, high = (100 * interval[k] for k in ('value', 'low', 'high'))
  return f'{value:.1f} % ({low:.1f} to {high:.1f} %)'
