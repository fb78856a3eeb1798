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
"""Sections of an analysis about several models, or training steps."""

from eejax.report import page
from eejax.report.formats import (
  Values,
  bounds,
  gate_name,
  percent,
  percent_bounds,
  percent_interval,
)
from eejax.report.svg import (
  Axis,
  Format,
  Mark,
  Series,
  heat_map,
  interval_series,
  line_chart,
)


def comparison_section(section: Values | None) -> str:
  """Return what the models of a manifest came to; '' without one."""
  if not section:
    return ''
  measured = [m for m in section['models'] if m['eas'] is not None]
  failures = [f for m in section['models'] for f in m['failures']]
  parts = [
    page.paragraph(
      f'Settings of every score: {section["settings"]}. A score says something '
      'of a model only beside its ceiling; an interval holds other text of the '
      'kind, not other models.'
    )
  ]
  if failures:
    parts += [
      '<h3>Models that could not be measured</h3>',
      page.bullets(failures),
    ]
  if measured:
    panels = [('Similarity by depth', _similarity(measured))]
    dated = [m for m in measured if m['entry'].get('release')]
    if dated:
      panels.append(('Score by release date', _by_date(dated)))
    parts += [
      page.panels(panels),
      page.table([_model_row(m) for m in section['models']]),
      '<h3>Largest skip at a budget</h3>',
      page.table(
        [row for m in measured for row in _skip_rows(m)],
        words=('text', 'budget'),
      ),
    ]
  if section['groups']:
    parts += ['<h3>Groups</h3>', page.table(_group_rows(section))]
  return page.section('Models compared', *parts)


def _similarity(models) -> str:
  series = []
  for m in models:
    first = m['texts'][0]['score']
    depths, layers = first['depths'], first['depths'][-1] or 1
    # Depths of models differ, so they are shown as shares of their blocks.
    mean = [
      sum(t['score']['similarity'][i]['value'] for t in m['texts'])
      / len(m['texts'])
      for i in range(len(depths))
    ]
    texts = [
      [t['score']['similarity'][i]['value'] for t in m['texts']]
      for i in range(len(depths))
    ]
    ends = [(min(t), max(t)) for t in texts] if len(m['texts']) > 1 else ()
    series.append(
      Series(m['entry']['name'], [d / layers for d in depths], mean, ends=ends)
    )
  return line_chart(
    series,
    title='Similarity to the full model by depth, mean and range over texts',
    x=Axis('share of blocks run', Format.PERCENT),
    y=Axis('similarity', low=0.0, high=1.0),
  )


def _by_date(models) -> str:
  relative = all(m['relative'] is not None for m in models)
  figure = 'relative' if relative else 'eas'
  ordered = sorted(models, key=lambda m: m['entry']['release'])
  return line_chart(
    [
      Series(
        f'{m["entry"]["name"]}, {m["entry"]["release"]}',
        [_year(m['entry']['release'])],
        [m[figure]['value']],
      )
      for m in ordered
    ],
    title='Score by release date',
    x=Axis('released'),
    y=Axis('score over the reference' if relative else 'EAS'),
    marks=[Mark(1.0, 'reference')] if relative else (),
  )


def _year(release: str) -> float:
  year, month = [*map(int, release.split('-')), 1][:2]
  return year + (month - 1) / 12


def _model_row(model: Values) -> dict[str, object]:
  entry, eas, ratio = model['entry'], model['eas'], model['relative']
  return {
    'model': entry['name'],
    'released': entry['release'] or None,
    'kind': entry['kind'],
    'tuning': entry['tuning'],
    'parameters': entry['parameters'],
    'EAS': None if eas is None else f'{eas["value"]:.3f} ({bounds(eas)})',
    'over reference': None
    if ratio is None
    else f'{ratio["value"]:.3f} ({bounds(ratio)})',
    'SAT': None if model['stable'] is None else percent(model['stable']),
  }


def _skip_rows(model: Values):
  for text in model['texts']:
    for skip in text['skips']:
      held = skip['held_out_skip']
      yield {
        'model': model['entry']['name'],
        'text': text['data'],
        'budget': f'{100 * skip["budget"]:g} % of {skip["quality"]}',
        'gate': gate_name(skip['gate'])
        if skip['threshold'] is not None
        else 'none',
        'skips': percent_interval(skip['skip']),
        'held out': None if held is None else percent(held),
      }


def _group_rows(section: Values) -> list[dict[str, object]]:
  return [
    {
      'fact': g['fact'],
      'value': g['value'],
      'models': len(g['models']),
      'mean EAS': f'{g["eas"]["value"]:.3f} ({bounds(g["eas"])})',
    }
    for g in section['groups']
  ]


def dynamics_section(section: Values | None) -> str:
  """Return how a model changed over its training; '' without a run."""
  if not section:
    return ''
  steps = section['steps']
  names = tuple(str(s['step']) for s in steps)
  depths = tuple(f'{d:g}' for d in steps[0]['score']['depths'])
  grid = [
    [s['score']['similarity'][i]['value'] for s in steps]
    for i in range(len(depths))
  ]
  settings = steps[0]['score']['settings']
  parts = [
    page.panels(
      [
        (
          'Similarity to the full model',
          heat_map(
            grid,
            title='Similarity by depth and step',
            x=Axis('step', names=names),
            y=Axis('depth', names=depths),
          ),
        ),
        ('Ceiling and score', _over_steps(steps)),
      ]
    ),
    page.table([_step_row(s) for s in steps]),
    page.paragraph(f'Settings of the score: {settings}.'),
  ]
  change = section.get('saved_change')
  if change:
    parts.append(
      page.paragraph(
        'From the first to the last step, the share of blocks an oracle could '
        f'skip changed by {100 * change["value"]:.1f} points '
        f'({percent_bounds(change)}), paired by token.'
      )
    )
  return page.section('Over the training', *parts)


def _over_steps(steps) -> str:
  places = list(range(len(steps)))
  curve = lambda name, values: interval_series(name, places, values)
  return line_chart(
    [
      curve('EAS', [s['score']['eas'] for s in steps]),
      curve('SAT, stable depth', [s['headroom']['stable'] for s in steps]),
      curve('AGREE', [s['headroom']['agree'] for s in steps]),
    ],
    title='Score and ceilings over the training',
    x=Axis('step', names=tuple(str(s['step']) for s in steps)),
    y=Axis('0 to 1'),
  )


def _step_row(step: Values) -> dict[str, object]:
  stable = step['headroom']['stable']
  eas = step['score']['eas']
  return {
    'step': step['step'],
    'loss': f'{step["loss"]:.3f}',
    'EAS': f'{eas["value"]:.3f} ({bounds(eas)})',
    'SAT': f'{percent_interval(stable)}',
    'AGREE': percent(step['headroom']['agree']['value']),
  }
