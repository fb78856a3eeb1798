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
"""Sections of an analysis about what each depth predicts."""

from eejax.report import page
from eejax.report.formats import (
  Values,
  bounds,
  percent,
  percent_bounds,
  percent_interval,
)
from eejax.report.svg import (
  Axis,
  Format,
  Series,
  bar_chart,
  interval_series,
  line_chart,
)

_SHARE = Axis('share of tokens', Format.PERCENT, low=0.0)
# Depths whose reliability curves are drawn; more cannot be told apart.
_CURVES = 5


def natural_section(section: Values | None) -> str:
  """Return the figures of every depth and the ceilings."""
  if not section:
    return ''
  rows = [
    {
      'read-out': entry['readout']['name'].replace('_', ' '),
      'loss': _value(entry, 'loss', '{:.3f}'),
      'right %': _share(entry, 'accuracy'),
      'agrees %': _share(entry, 'agreement'),
      'kappa': _value(entry, 'kappa', '{:.2f}'),
      'top-K overlap %': _share(entry, 'overlap'),
      'KL to final': _value(entry, 'kl_final', '{:.3f}'),
    }
    for entry in section['readouts']
  ]
  ceilings = [
    {
      'ceiling': c['ceiling'].replace('_', ' '),
      'skips': percent_interval(c['skip']),
      'mean depth': f'{c["mean_depth"]["value"]:.2f}',
    }
    for c in section['ceilings']
  ]
  return page.section(
    'What every depth says',
    page.paragraph(
      "Every depth is read with the model's own final norm and head; a trained "
      'exit with its own. Agreement is with the full model; kappa is agreement '
      'beyond chance.'
    ),
    page.panels(
      [
        ('Agreement with the full model', _agreement_chart(section)),
        ('Loss, from depth 1 on', _loss_chart(section)),
        ('Where answers appear', _answer_depths_chart(section)),
        ('Settled by a depth', _settled_chart(section)),
      ]
    ),
    page.table(rows),
    '<h3>Three ceilings</h3>',
    page.table(ceilings),
    page.paragraph(
      'First match: the first depth that says the final token, perhaps in '
      'passing. Stable: the first from which on all do. Label: the first that '
      'says the token of the text, which the full model may miss. Nobody knows '
      'them before the last block has run.'
    ),
  )


def _value(entry: Values, name: str, form: str) -> str | None:
  figure = entry['figures'].get(name)
  # A zero has no sign.
  return None if figure is None else form.format(round(figure['value'], 6) + 0)


def _share(entry: Values, name: str) -> str | None:
  figure = entry['figures'].get(name)
  if figure is None:
    return None
  return f'{100 * figure["value"]:.1f} ({percent_bounds(figure)})'


def _agreement_chart(section: Values) -> str:
  """Return agreement and its part beyond chance, by depth."""
  beyond = [
    r for r in readouts_of_kind(section, 'natural') if 'kappa' in r['figures']
  ]
  series = _by_depth(section, 'agreement')
  if beyond:
    series.append(
      Series(
        'natural, beyond chance (kappa)',
        [r['readout']['depth'] for r in beyond],
        [r['figures']['kappa']['value'] for r in beyond],
        dashed=True,
        colour=0,
      )
    )
  return line_chart(
    series,
    title='Agreement with the full model by depth',
    x=Axis('depth'),
    y=Axis('agreement', Format.PERCENT, high=1.0),
  )


def _loss_chart(section: Values) -> str:
  """Return loss by depth, without depth 0, which dwarfs the rest."""
  return line_chart(
    _by_depth(section, 'loss', first=1),
    title='Loss by depth',
    x=Axis('depth'),
    y=Axis('nats a token'),
  )


def _by_depth(
  section: Values, figure: str, *, first: float = 0
) -> list[Series]:
  series = []
  for kind, name in (('natural', 'natural'), ('exit', 'trained exits')):
    entries = [
      r
      for r in readouts_of_kind(section, kind)
      if figure in r['figures'] and r['readout']['depth'] >= first
    ]
    if entries:
      depths = [r['readout']['depth'] for r in entries]
      series.append(
        interval_series(name, depths, [r['figures'][figure] for r in entries])
      )
  return series


def readouts_of_kind(section: Values, kind: str) -> list[Values]:
  """Return the read-outs of a kind: natural, exit or attention."""
  return [r for r in section['readouts'] if r['readout']['kind'] == kind]


def _answer_depths_chart(section: Values) -> str:
  """Return at which depths answers appear."""
  ceilings = section['ceilings']
  names = tuple(f'{d:g}' for d in ceilings[0]['depths'])
  return bar_chart(
    [(c['ceiling'].replace('_', ' '), c['shares']) for c in ceilings],
    title='Share of tokens whose answer appears at each depth',
    x=Axis('depth', names=names),
    y=_SHARE,
  )


def _settled_chart(section: Values) -> str:
  """Return how many answers are there by each depth."""
  return line_chart(
    [
      Series(c['ceiling'].replace('_', ' '), c['depths'], c['by_then'])
      for c in section['ceilings']
    ],
    title='Share of tokens whose answer is there by each depth',
    x=Axis('depth'),
    y=Axis('share of tokens', Format.PERCENT, low=0.0, high=1.0),
  )


def confidence_section(section: Values | None) -> str:
  """Return the calibration of confidence by depth."""
  if not section:
    return ''
  rows = [
    {
      'read-out': r['readout']['name'].replace('_', ' '),
      'calibration error': f'{r["ece"]["value"]:.3f} ({bounds(r["ece"])})',
      'safe from': 'never'
      if r['threshold'] is None
      else f'{r["threshold"]:.3f}',
      'JS to the one before': None
      if r['js_previous'] is None
      else f'{r["js_previous"]["value"]:.3f}',
    }
    for r in section['readouts'][:-1]
  ]
  return page.section(
    'Does confidence mean the same at every depth',
    page.panels(
      [
        ('Confidence against agreement', _reliability_chart(section)),
        ('Calibration error by depth', _calibration_error_chart(section)),
      ]
    ),
    page.table(rows),
    page.paragraph(
      f'Safe from: the least confidence from which on at least '
      f'{percent(section["agreement"])} agree with the full model. Between '
      f'depths it spreads by {section["threshold_spread"]:.2f}; the wider it '
      'spreads, the less one threshold serves all depths.'
    ),
  )


def _reliability_chart(section: Values) -> str:
  """Return agreement by confidence, for some depths."""
  readouts = section['readouts'][:-1]
  every = max(-(-len(readouts) // _CURVES), 1)
  chosen = readouts[every - 1 :: every]
  series = [
    Series('as it should be', [0.0, 1.0], [0.0, 1.0], dashed=True, colour=5)
  ]
  for i, r in enumerate(chosen):
    bins = [b for b in r['reliability'] if b['share'] and b['confidence']]
    series.append(
      Series(
        f'depth {r["readout"]["depth"]:g}',
        [b['confidence'] for b in bins],
        [b['agreement'] for b in bins],
        colour=i,
      )
    )
  return line_chart(
    series,
    title='Agreement by confidence',
    x=Axis('confidence', Format.PERCENT, low=0.0, high=1.0),
    y=Axis('agreement', Format.PERCENT, low=0.0, high=1.0),
  )


def _calibration_error_chart(section: Values) -> str:
  """Return the calibration error of confidence by depth."""
  readouts = section['readouts'][:-1]
  return line_chart(
    [
      interval_series(
        'calibration error',
        [r['readout']['depth'] for r in readouts],
        [r['ece'] for r in readouts],
      )
    ],
    title='Expected calibration error by depth',
    x=Axis('depth'),
    y=Axis('error', low=0.0),
  )


def sublayers_section(section: Values | None) -> str:
  """Return what reading inside blocks is worth; '' where nothing was."""
  if not section:
    return ''
  rows = [
    {
      'ceiling': name.replace('_', ' '),
      'after attention': percent(f['at_attention']['value']),
      'after a block': percent(f['at_mlp']['value']),
      'blocks saved': f'{f["saved"]["value"]:.2f} ({bounds(f["saved"])})',
    }
    for name, f in section.items()
  ]
  return page.section(
    'Exits inside blocks',
    page.table(rows),
    page.paragraph(
      'Where answers first appear when the stream is read after attention, '
      'too, and what that saves against reading after whole blocks.'
    ),
  )
