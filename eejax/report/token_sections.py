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
"""Sections of an analysis about tokens: their kinds, generated ones, a map."""

from eejax.report import page
from eejax.report.depth_sections import readouts_of_kind
from eejax.report.formats import (
  Values,
  bounds,
  percent,
  percent_interval,
)
from eejax.report.svg import (
  Axis,
  Format,
  interval_series,
  line_chart,
)


def subwords_section(section: Values | None) -> str:
  """Return which kinds of tokens settle early."""
  if not section:
    return ''
  rows = [
    {
      'token': group['name'].replace('_', ' '),
      'share': percent(group['share']),
      'skips at the stable depth': percent_interval(group['skip']['stable']),
      'right': percent(group['accuracy']['value']),
      'loss': None
      if group['loss'] is None
      else f'{group["loss"]["value"]:.2f}',
    }
    for kind in ('by_target', 'by_frequency')
    for group in section[kind]
  ]
  return page.section(
    'Which tokens settle early',
    page.panels(
      [('Agreement by what is predicted', _agreement_by_class_chart(section))]
    ),
    page.table(rows),
    page.paragraph(
      'Classes are of the token that is predicted: the first of a word, one '
      'that goes on with a word, and so on; decile 1 holds the rarest tokens '
      'that make up a tenth of the text.'
    ),
  )


def _agreement_by_class_chart(section: Values) -> str:
  """Return agreement by depth, for classes that are not rare."""
  classes = [c for c in section['by_target'] if c['share'] >= 0.02]
  return line_chart(
    [
      interval_series(
        c['name'].replace('_', ' '), section['depths'], c['agreement']
      )
      for c in classes
    ],
    title='Agreement by depth and kind of token',
    x=Axis('depth'),
    y=Axis('agreement', Format.PERCENT, high=1.0),
  )


def free_running_section(sections: Values) -> str:
  """Return natural exits on text that the model wrote."""
  own, given = sections.get('free_running'), sections.get('natural')
  if not own or not given:
    return ''
  rows = [
    {
      'ceiling': a['ceiling'].replace('_', ' '),
      'given text': percent_interval(a['skip']),
      'its own text': percent_interval(b['skip']),
    }
    for a, b in zip(given['ceilings'], own['ceilings'], strict=True)
  ]
  return page.section(
    'On text that it writes itself',
    page.panels([('Agreement by depth', _own_against_given_chart(own, given))]),
    page.table(rows),
    page.paragraph(
      f'The full model went on greedily from {own["rows"]} beginnings of the '
      f'text, {own["tokens"]} tokens in all. Decoding meets this text, not the '
      'given one.'
    ),
  )


def _own_against_given_chart(own: Values, given: Values) -> str:
  """Return agreement by depth on two texts."""
  series = []
  for name, section in (('given text', given), ('its own text', own)):
    entries = readouts_of_kind(section, 'natural')
    series.append(
      interval_series(
        name,
        [r['readout']['depth'] for r in entries],
        [r['figures']['agreement'] for r in entries],
      )
    )
  return line_chart(
    series,
    title='Agreement by depth on given text and on its own',
    x=Axis('depth'),
    y=Axis('agreement', Format.PERCENT, high=1.0),
  )


def kv_damage_section(section: Values | None) -> str:
  """Return the damage of approximate keys and values."""
  if not section:
    return ''
  title = 'What approximate keys and values do to a text'
  if 'nothing' in section:
    return page.section(title, page.paragraph(section['nothing']))
  rows = [
    _damage_row('exact', section['wrong_tokens']),
    *(_damage_row(name, d) for name, d in section['by_strategy'].items()),
  ]
  depths = ', '.join(map(str, section['exit_depths']))
  return page.section(
    title,
    page.panels([('Agreement by generated length', _damage_chart(section))]),
    page.table(rows),
    page.paragraph(
      f'{section["prompts"]} prompts, {section["new_tokens"]} tokens each, '
      f'with {section["exits"]} exits at {depths} and largest probability >= '
      f'{section["threshold"]:.3f}. A token agrees while no token up to it '
      "differs from the full model's text. With exact keys and values only "
      'wrong tokens do harm; below that, so does what is written for the keys '
      'and values of skipped blocks.'
    ),
  )


def _damage_row(strategy: str, damage: Values) -> dict[str, object]:
  return {
    'keys and values': strategy.replace('_', ' '),
    'unharmed texts': percent_interval(damage['unharmed']),
    'tokens before the first difference': f'{damage["divergence"]["value"]:.1f}'
    f' ({bounds(damage["divergence"])})',
    'skips': percent(damage['skip']['value']),
  }


def _damage_chart(section: Values) -> str:
  """Return agreement by generated length, for each strategy."""
  kinds = {'exact keys and values': section['wrong_tokens']}
  kinds |= section['by_strategy']
  series = [
    interval_series(
      name.replace('_', ' '),
      [s['end'] for s in entry['stretches']],
      [s['agreement'] for s in entry['stretches']],
    )
    for name, entry in kinds.items()
  ]
  return line_chart(
    series,
    title='Agreement with the full model by generated length',
    x=Axis('tokens generated'),
    y=Axis('agreement', Format.PERCENT, low=0.0, high=1.0),
  )


def token_grid_section(section: Values | None) -> str:
  """Return the map of a text, token by depth."""
  if not section:
    return ''
  readings = [
    [
      page.TokenCell(
        piece=cell['candidates'][0][0],
        sure=cell['candidates'][0][1],
        same=cell['same'],
        settled=column == section['settled'][n],
        hint=_hint(section, n, column),
      )
      for column, cell in enumerate(line)
    ]
    for n, line in enumerate(section['readings'])
  ]
  return page.section(
    'A text, token by depth',
    page.paragraph(
      'What each depth says comes next after each token. Green: what the full '
      'model says; orange: something else; the deeper the colour, the surer. '
      'The bar marks the stable depth. Point at a cell, or touch it, for the '
      'likeliest tokens there.'
    ),
    page.token_grid(
      section['tokens'], [f'{d:g}' for d in section['depths']], readings
    ),
  )


def _hint(section: Values, n: int, column: int) -> str:
  cell = section['readings'][n][column]
  listed = '\n'.join(
    f'{100 * p:5.1f} %  {piece!r}' for piece, p in cell['candidates']
  )
  return (
    f'depth {section["depths"][column]:g} after {section["tokens"][n]!r}\n'
    f'{listed}\ntext: {section["targets"][n]!r}'
  )
