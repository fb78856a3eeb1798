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
"""The sections of an analysis about texts: kinds of tokens, written, read."""

from collections.abc import Mapping
from typing import Any

from eejax.report import analysis_charts as charts
from eejax.report import page
from eejax.report.analysis_formats import (
  percent,
  percent_range,
  plain_range,
)

Values = Mapping[str, Any]


def sublayers_section(found: Values | None) -> str:
  """Return what reading inside blocks is worth; '' where nothing was."""
  if not found:
    return ''
  rows = [
    {
      'ceiling': name.replace('_', ' '),
      'after attention': percent(f['at_attention']['value']),
      'after a block': percent(f['at_mlp']['value']),
      'blocks saved': f'{f["saved"]["value"]:.2f} ({plain_range(f["saved"])})',
    }
    for name, f in found.items()
  ]
  return page.section(
    'Exits inside blocks',
    page.table(rows),
    page.paragraph(
      'Where answers first appear when the stream is read after attention, '
      'too, and what that saves against reading after whole blocks.'
    ),
  )


def words_section(found: Values | None) -> str:
  """Return which kinds of tokens settle early."""
  if not found:
    return ''
  rows = [
    {
      'token': group['name'].replace('_', ' '),
      'share': percent(group['share']),
      'skips at the stable depth': _skips(group['skip']['stable']),
      'right': percent(group['accuracy']['value']),
      'loss': None
      if group['loss'] is None
      else f'{group["loss"]["value"]:.2f}',
    }
    for kind in ('by_target', 'by_frequency')
    for group in found[kind]
  ]
  return page.section(
    'Which tokens settle early',
    page.panels(
      [('Agreement by what is predicted', charts.agreement_by_class(found))]
    ),
    page.table(rows),
    page.paragraph(
      'Classes are of the token that is predicted: the first of a word, one '
      'that goes on with a word, and so on; decile 1 holds the rarest tokens '
      'that make up a tenth of the text.'
    ),
  )


def own_text_section(sections: Values) -> str:
  """Return natural exits on text that the model wrote."""
  own, given = sections.get('free_running'), sections.get('natural')
  if not own or not given:
    return ''
  rows = [
    {
      'ceiling': a['ceiling'].replace('_', ' '),
      'given text': _skips(a['skip']),
      'its own text': _skips(b['skip']),
    }
    for a, b in zip(given['ceilings'], own['ceilings'], strict=True)
  ]
  return page.section(
    'On text that it writes itself',
    page.panels([('Agreement by depth', charts.own_against_given(own, given))]),
    page.table(rows),
    page.paragraph(
      f'The full model went on greedily from {own["rows"]} beginnings of the '
      f'text, {own["tokens"]} tokens in all. Decoding meets this text, not the '
      'given one.'
    ),
  )


def keys_section(found: Values | None) -> str:
  """Return what stand-ins for keys and values do to a text."""
  if not found:
    return ''
  title = 'What stand-ins for keys and values do to a text'
  if 'nothing' in found:
    return page.section(title, page.paragraph(found['nothing']))
  rows = [
    _damage_row('none: exact', found['wrong_tokens']),
    *(_damage_row(name, d) for name, d in found['by_strategy'].items()),
  ]
  depths = ', '.join(map(str, found['exit_depths']))
  return page.section(
    title,
    page.panels([('Agreement by generated length', charts.damage(found))]),
    page.table(rows),
    page.paragraph(
      f'{found["prompts"]} prompts, {found["new_tokens"]} tokens each, with '
      f'{found["exits"]} exits at {depths} and largest probability >= '
      f'{found["threshold"]:.3f}. A token agrees while no token up to it '
      "differs from the full model's text. With exact keys and values only "
      'wrong tokens do harm; below that, so do the stand-ins for keys and '
      'values of skipped blocks.'
    ),
  )


def _damage_row(strategy: str, damage: Values) -> dict[str, object]:
  return {
    'stand-in': strategy.replace('_', ' '),
    'unharmed texts': _skips(damage['unharmed']),
    'tokens before the first difference': f'{damage["divergence"]["value"]:.1f}'
    f' ({plain_range(damage["divergence"])})',
    'skips': percent(damage['skip']['value']),
  }


def grid_section(found: Values | None) -> str:
  """Return the map of a text, token by depth."""
  if not found:
    return ''
  readings = [
    [
      page.Reading(
        piece=cell['candidates'][0][0],
        sure=cell['candidates'][0][1],
        same=cell['same'],
        settled=column == found['settled'][n],
        hint=_hint(found, n, column),
      )
      for column, cell in enumerate(line)
    ]
    for n, line in enumerate(found['readings'])
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
      found['tokens'], [f'{d:g}' for d in found['depths']], readings
    ),
  )


def _hint(found: Values, n: int, column: int) -> str:
  cell = found['readings'][n][column]
  listed = '\n'.join(
    f'{100 * p:5.1f} %  {piece!r}' for piece, p in cell['candidates']
  )
  return (
    f'depth {found["depths"][column]:g} after {found["tokens"][n]!r}\n'
    f'{listed}\ntext: {found["targets"][n]!r}'
  )


def _skips(interval: Values) -> str:
  return f'{percent(interval["value"])} ({percent_range(interval)})'
