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
"""The page of `eejax probe`: will early exit pay on a model."""

from collections.abc import Mapping

from eejax.analysis.candidate import Answer, Promise
from eejax.analysis.candidate_search import CandidateSearch
from eejax.analysis.verdict import Verdict
from eejax.report import page
from eejax.report.svg import Axis, Format, Series, line_chart

# Columns of words, not of numbers.
_WORDS = ('candidate', 'promise', 'exits', 'score', 'pays')
KINDS = {Answer.YES: 'yes', Answer.UNDECIDED: 'maybe', Answer.NO: 'no'}
# More sequences than this are not worth naming.
_MOST = 5000


def render(
  verdict: Verdict, search: CandidateSearch, facts: Mapping[str, object]
) -> str:
  """Return the whole page.

  Args:
    verdict: the answer.
    search: what it was chosen from.
    facts: what was probed, by name.
  """
  parts = [
    '<h1>Does early exit pay here?</h1>',
    page.verdict(verdict.sentence(), kind=KINDS[verdict.answer]),
    page.cards(_cards(verdict, search)),
    page.bullets([*verdict.sentences(), *reasons(search)]),
    page.section('Ways to decode', page.table(verdict.rows(), words=_WORDS)),
    page.section(
      'What every depth says', _charts(search), page.table(depth_rows(search))
    ),
    page.section('What was probed', page.facts(facts), _method()),
  ]
  return page.page('eejax probe', '\n'.join(parts))


def reasons(search: CandidateSearch) -> list[str]:
  """Return what stands behind an answer, a sentence each."""
  ceiling = search.natural.saved_if_stable
  lines = [
    f'Ceiling: {_percent(ceiling.value)} of the blocks '
    f'({_percent(ceiling.low)} to {_percent(ceiling.high)}) could be skipped '
    'by an oracle that knew the stable depth of every token; nobody does.',
    'Costs: reading the head takes as long as '
    f'{search.head_in_blocks:.1f} blocks, and catching up a whole window '
    f'{search.window_factor:.1f} times as long as one token.',
  ]
  lossy = any(
    c.promise is Promise.EMPIRICAL and c.policy for c in search.candidates
  )
  if lossy:
    count = search.certify_sequences
    lines.append(
      'The early exit that was found is too close to the budget to be '
      'certified for it; allow a larger loss.'
      if count is None or count > _MOST
      else f'It would take about {count} sequences to certify the early exit '
      'that was found (calibrate).'
    )
  else:
    lines.append(_why_not(search))
  return lines


def _why_not(search: CandidateSearch) -> str:
  gaps = {
    depth: (share, search.settled[depth])
    for depth, share in search.needed.items()
    if share is not None
  }
  if not gaps:
    return (
      'No early exit was found: catching up skipped blocks costs so much here '
      'that no exit would pay even if every token took it.'
    )
  depth, (share, settled) = min(
    gaps.items(), key=lambda item: item[1][0] - item[1][1]
  )
  return (
    f'No early exit was found: one at depth {depth} alone would have to take '
    f'{share:.0%} of the tokens to pay, and {settled:.0%} are settled there; '
    'nobody knows which without asking. Trained exits settle more (add_exits, '
    'then tune).'
  )


def depth_rows(search: CandidateSearch) -> list[dict[str, object]]:
  """Return the lines of a table of every depth."""
  rows = []
  for d in search.natural.depths:
    needed = search.needed.get(d.depth)
    inside = 0 < d.depth < search.natural.num_layers
    rows.append(
      {
        'depth': d.depth,
        'loss, nats': f'{d.loss.value:.3f}',
        'agrees with final': _percent(d.agreement.value),
        'settled by here': _percent(search.settled[d.depth]),
        'must take to pay': (
          None
          if not inside
          else 'never pays'
          if needed is None
          else _percent(needed)
        ),
      }
    )
  return rows


def _cards(verdict: Verdict, search: CandidateSearch) -> list[tuple[str, str]]:
  ceiling = search.natural.saved_if_stable
  low, high = _percent(ceiling.low), _percent(ceiling.high)
  cards = [
    (
      _percent(ceiling.value),
      f'of the blocks an oracle could skip ({low} to {high})',
    )
  ]
  best = verdict.best
  if best is not None and best.speedup is not None:
    speed = best.speedup
    kind = 'forecast' if best.measured is None else 'measured'
    cards.append(
      (
        f'{speed.value:.2f}x',
        f'{kind} speed, {best.name} ({speed.low:.2f} to {speed.high:.2f})',
      )
    )
  if verdict.noise is not None:
    noise = verdict.noise
    cards.append(
      (
        f'{noise.value:.2f}x',
        f'full decoding against itself ({noise.low:.2f} to {noise.high:.2f})',
      )
    )
  cards.append(
    (f'{search.head_in_blocks:.1f}', 'blocks of time to read the head once')
  )
  return cards


def _charts(search: CandidateSearch) -> str:
  depths = search.natural.depths
  x = [float(d.depth) for d in depths]
  agree = Series(
    'agrees with the final token',
    x,
    [d.agreement.value for d in depths],
    ends=[(d.agreement.low, d.agreement.high) for d in depths],
  )
  settled = Series(
    'settled by here', x, [search.settled[d.depth] for d in depths]
  )
  inside = [d.depth for d in depths if d.depth in search.needed]
  needed = Series(
    'must take to pay',
    [float(d) for d in inside],
    [search.needed[d] for d in inside],
    dashed=True,
  )
  share = Axis('share of tokens', Format.PERCENT, low=0.0, high=1.0)
  first = line_chart(
    [agree, settled, needed],
    title='Share of tokens that agree, are settled, and must exit to pay',
    x=Axis('depth'),
    y=share,
  )
  loss = line_chart(
    # At depth 0 it is far off the scale of the others.
    [Series('loss', x[1:], [d.loss.value for d in depths[1:]])],
    title='Cross-entropy of every depth',
    x=Axis('depth'),
    y=Axis('nats a token'),
  )
  return page.panels(
    [
      ('How early tokens are settled', first),
      ('Loss by depth, from 1 on', loss),
    ]
  )


def _method() -> str:
  return page.paragraph(
    "Every depth is read with the model's own final norm and head, and "
    'trained exits with theirs, given the text so far (teacher-forced). Exits, '
    'scores and thresholds were chosen on one part of the text and forecast '
    'on another, by replaying decoding token by token with the cost of its '
    'parts, one prompt at a time. Measured speed is the wall clock of texts '
    'that are generated freely after prompts of a third part, in turns with '
    'full decoding, and measured loss the share of their tokens that the full '
    'model would not have chosen. Intervals are 95 %, over rows and prompts.'
  )


def _percent(share: float) -> str:
  return f'{100 * share:.1f} %'
