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
"""Sections of an analysis about scores, gates and self-speculation."""

from eejax.report import page
from eejax.report.formats import (
  Values,
  bounds,
  gate_name,
  percent,
  percent_interval,
  times,
)
from eejax.report.svg import (
  Axis,
  Format,
  Mark,
  Series,
  bar_chart,
  interval_series,
  line_chart,
)

_SHARE = Axis('share of tokens', Format.PERCENT, low=0.0)


def suitability_section(section: Values | None) -> str:
  """Return the scores by similarity, beside the ceilings."""
  if not section:
    return ''
  rows = [
    {
      'similarity': s['settings'].split(',')[0].replace('_', ' '),
      'EAS': f'{s["eas"]["value"]:.3f} ({bounds(s["eas"])})',
      'normalised': f'{s["normalised"]["value"]:.3f}',
      'settings': s['settings'],
    }
    for s in section['scores']
  ]
  ceilings = section['headroom']
  ranged = lambda name: percent_interval(ceilings[name])
  return page.section(
    'How suited the model is',
    page.panels(
      [('Similarity to the full model, by depth', _similarity_chart(section))]
    ),
    page.table(rows, words=('settings',)),
    page.facts(
      {
        'SAT, skipped at the stable depth': ranged('stable'),
        'FIRST, at the first match': ranged('first_match'),
        'AGREE, mean agreement of depths': ranged('agree'),
      }
    ),
    page.paragraph(
      'EAS is the mean over depths of S^alpha w^(1 - alpha), S the similarity '
      'and w the share of blocks skipped there (eejax definition). It averages '
      'shallow depths as well, so it can be high where no exit is usable: read '
      'it beside the ceilings, and compare scores of equal settings alone.'
    ),
    *(page.paragraph(f'Left out: {words}') for words in section['left_out']),
  )


def _similarity_chart(section: Values) -> str:
  """Return every similarity to the full model by depth."""
  return line_chart(
    [
      interval_series(
        s['settings'].split(',')[0].replace('_', ' '),
        s['depths'],
        s['similarity'],
      )
      for s in section['scores']
    ],
    title='Similarity to the full model by depth',
    x=Axis('depth'),
    y=Axis('similarity', low=0.0, high=1.0),
  )


def gates_section(section: Values | None) -> str:
  """Return what gates skip and how well they detect the stable depth."""
  if not section:
    return ''
  parts = []
  for swept in section['sweeps']:
    kind = 'trained exits' if swept['readouts'] == 'exit' else 'natural exits'
    parts += [
      page.panels(
        [
          (f'Agreement by skip, {kind}', _agreement_by_skip_chart(swept)),
          (f'Accuracy by skip, {kind}', _accuracy_by_skip_chart(swept)),
          (f'Where tokens leave, {kind}', _exits_at_budget_chart(swept)),
        ]
      ),
      f'<h3>Largest skip at a budget, {kind}</h3>',
      page.table([_skip_row(s) for s in swept['skips']], words=('gate',)),
      f'<h3>Left on the table, {kind}</h3>',
      page.table(
        [
          {
            'gate': gate_name(r['gate']),
            'skips with no token changed': percent(r['skip']),
            'left of the ceiling SAT': percent(r['regret']),
          }
          for r in swept['regrets']
        ]
      ),
    ]
  detection = [
    {
      'gate': gate_name(d['gate']),
      'AUROC': f'{d["auroc"]["value"]:.3f} ({bounds(d["auroc"])})',
      'average precision': f'{d["average_precision"]["value"]:.3f}',
      'positive cases': percent(d['prevalence']['value']),
    }
    for d in section['detection']
  ]
  return page.section(
    'What gates know',
    page.paragraph(
      'A token leaves at the first depth whose score reaches the threshold, '
      'one threshold for all depths. Skip is the share of blocks not run '
      'before a token is emitted; reading scores is not counted.'
    ),
    *parts,
    page.paragraph(
      'Held out: the threshold was chosen on every other row of text and '
      'measured on the rest, which is what to expect on new text.'
    ),
    '<h3>Is it deep enough? Each gate as a detector of the stable depth</h3>',
    page.table(detection),
  )


def _skip_row(skip: Values) -> dict[str, object]:
  held_out = '–'
  if skip['held_out_skip'] is not None:
    held_out = (
      f'{percent(skip["held_out_skip"])}, drop {percent(skip["held_out_drop"])}'
    )
  threshold = skip['threshold']
  return {
    'budget': f'{100 * skip["budget"]:g} % of {skip["quality"]}',
    'gate': gate_name(skip['gate']) if threshold is not None else 'none',
    'threshold': 'never' if threshold is None else f'{threshold:.4g}',
    'skips': percent_interval(skip['skip']),
    'drop': percent(skip['drop']),
    'heads a token': f'{skip["heads"]:.1f}',
    'held out': held_out,
  }


def _agreement_by_skip_chart(swept: Values) -> str:
  """Return what gates keep of the full model's tokens, by what they skip."""
  return _against_skip(swept, 'agreement', marks=())


def _accuracy_by_skip_chart(swept: Values) -> str:
  """Return what gates keep of right tokens, by what they skip."""
  full = Mark(swept['full_accuracy'], 'full model')
  return _against_skip(swept, 'accuracy', marks=(full,))


def _against_skip(swept: Values, figure: str, *, marks) -> str:
  return line_chart(
    [
      Series(
        gate_name(gate),
        [p['skip'] for p in points],
        [p[figure] for p in points],
      )
      for gate, points in _by_gate(swept).items()
    ],
    title=f'{figure} by skip',
    x=Axis('blocks skipped', Format.PERCENT),
    y=Axis(figure, Format.PERCENT),
    marks=marks,
  )


def _by_gate(swept: Values) -> dict[str, list[Values]]:
  gates: dict[str, list[Values]] = {}
  for point in swept['points']:
    gates.setdefault(point['gate'], []).append(point)
  return gates


def _exits_at_budget_chart(swept: Values) -> str:
  """Return where tokens leave at the best setting of each budget."""
  groups = []
  for skip in swept['skips']:
    point = next(
      (
        p
        for p in swept['points']
        if (p['gate'], p['threshold']) == (skip['gate'], skip['threshold'])
      ),
      None,
    )
    if skip['quality'] == 'agreement' and point is not None:
      name = f'{100 * skip["budget"]:g} % changed, {gate_name(skip["gate"])}'
      groups.append((name, point['exit_shares']))
  return bar_chart(
    groups,
    title='Share of tokens that leave at each depth',
    x=Axis('depth', names=tuple(f'{d:g}' for d in swept['depths'])),
    y=_SHARE,
  )


def speculation_section(sections: Values) -> str:
  """Return the predicted speed-up of self-speculation."""
  section = sections.get('speculation')
  if not section:
    return ''
  rows = [
    {
      'drafts from': f'depth {e["depth"]:g}'
      + (' (exit)' if group['readouts'] == 'exit' else ''),
      'drafts a round': e['length'],
      'agrees': percent(e['agreement']),
      'tokens a round': f'{e["yielded"]:.2f}',
      'predicted speed-up': f'{times(e["speedup"]["value"])} '
      f'({bounds(e["speedup"])})',
    }
    for group in section['by_readouts']
    for e in group['exits']
  ]
  rows.sort(key=lambda r: str(r['predicted speed-up']), reverse=True)
  return page.section(
    'Without changing a token: self-speculation',
    page.panels([('Predicted speed-up by exit', _speculation_chart(section))]),
    page.table(rows),
    page.paragraph(
      'An exit drafts, the full model verifies: the output is that of full '
      'decoding. Rounds are measured on the text, their cost is predicted: a '
      f'head takes {section["head"]:.2f} blocks, windows of drafts up to '
      f'{max(section["windows"].values()):.2f} times as long as a token, '
      + ('timed here. ' if sections.get('verdict') else 'by bytes read. ')
      + 'Below 1 it loses.'
    ),
  )


def _speculation_chart(section: Values) -> str:
  """Return the predicted speed-up by the depth that drafts."""
  series = []
  for group in section['by_readouts']:
    exits = sorted(group['exits'], key=lambda e: e['depth'])
    name = 'trained exits' if group['readouts'] == 'exit' else 'natural'
    series.append(
      interval_series(
        name, [e['depth'] for e in exits], [e['speedup'] for e in exits]
      )
    )
  return line_chart(
    series,
    title='Predicted speed-up of self-speculation by depth',
    x=Axis('depth that drafts'),
    y=Axis('speed-up', Format.TIMES),
    marks=[Mark(1.0, 'full decoding')],
  )
