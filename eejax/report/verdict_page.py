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

from eejax.analysis.verdict import Answer, Verdict, Way
from eejax.report import page
from eejax.report.svg import Axis, Format, Series, line_chart
from eejax.stats.bootstrap import Interval

_WORDS = ('its text is', 'exits', 'score', 'thresholds')
_KINDS = {Answer.YES: 'yes', Answer.UNCLEAR: 'maybe', Answer.NO: 'no'}


def render(found: Verdict, facts: Mapping[str, object]) -> str:
  """Return the whole page.

  Args:
    found: the verdict.
    facts: what was probed, by name.
  """
  parts = [
    '<h1>Does early exit pay here?</h1>',
    page.verdict(found.headline(), kind=_KINDS[found.answer]),
    page.cards(_cards(found)),
    page.bullets(found.sentences()),
    page.section('Ways to decode', page.table(way_rows(found), words=_WORDS)),
    page.section(
      'What every depth says', _charts(found), page.table(depth_rows(found))
    ),
    page.section('What was probed', page.facts(facts), _method()),
  ]
  return page.page('eejax probe', '\n'.join(parts))


def way_rows(found: Verdict) -> list[dict[str, object]]:
  """Return the lines of a table of both ways."""
  return [_way_row(way) for way in (found.lossless, found.lossy)]


def depth_rows(found: Verdict) -> list[dict[str, object]]:
  """Return the lines of a table of every depth."""
  rows = []
  for d in found.natural.depths:
    needed = found.needed.get(d.depth)
    inside = 0 < d.depth < found.natural.num_layers
    rows.append(
      {
        'depth': d.depth,
        'loss, nats': f'{d.loss.value:.3f}',
        'agrees with final': _percent(d.agreement.value),
        'settled by here': _percent(found.settled[d.depth]),
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


def _way_row(way: Way) -> dict[str, object]:
  return {
    'way': way.name,
    'its text is': way.level,
    'exits': (
      f'{way.source} at {", ".join(map(str, way.depths))}'
      if way.depths
      else 'none that pay'
    ),
    'score': way.criterion or None,
    'thresholds': ', '.join(f'{t:.3g}' for t in way.thresholds) or None,
    'tokens as in full': _percent(way.agreement.value),
    'predicted speed': _range(way.speedup),
    'measured': None if way.measured is None else _range(way.measured),
    'pays': way.answer.value,
  }


def _cards(found: Verdict) -> list[tuple[str, str]]:
  ceiling = found.natural.saved_if_stable
  low, high = _percent(ceiling.low), _percent(ceiling.high)
  cards = [
    (
      _percent(ceiling.value),
      f'of the blocks an oracle could skip ({low} to {high})',
    )
  ]
  for way, words in ((found.lossless, 'lossless'), (found.lossy, 'with loss')):
    speed = way.speedup
    cards.append(
      (
        f'{speed.value:.2f}x',
        f'predicted speed, {words} ({speed.low:.2f} to {speed.high:.2f})',
      )
    )
  cards.append(
    (f'{found.head_in_blocks:.1f}', 'blocks of time to read the head once')
  )
  return cards


def _charts(found: Verdict) -> str:
  depths = found.natural.depths
  x = [float(d.depth) for d in depths]
  agree = Series(
    'agrees with the final token',
    x,
    [d.agreement.value for d in depths],
    ends=[(d.agreement.low, d.agreement.high) for d in depths],
  )
  settled = Series(
    'settled by here', x, [found.settled[d.depth] for d in depths]
  )
  inside = [d.depth for d in depths if d.depth in found.needed]
  needed = Series(
    'must take to pay',
    [float(d) for d in inside],
    [found.needed[d] for d in inside],
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
    'trained exits with theirs, given the text so far (teacher-forced). '
    'Exits, scores and thresholds were chosen on every other row of the text; '
    'agreement and speed are of the other rows, with 95 % intervals over '
    'rows. Speed is predicted by replaying decoding token by token with the '
    'cost of its parts, one prompt at a time; measured, where there is such '
    'a figure, is the wall clock of texts generated freely, the least of '
    'several times, with the range over prompts.'
  )


def _range(speed: Interval) -> str:
  return f'{speed.value:.2f} ({speed.low:.2f}-{speed.high:.2f})'


def _percent(share: float) -> str:
  return f'{100 * share:.1f} %'
