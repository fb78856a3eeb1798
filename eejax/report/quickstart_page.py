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
"""The quickstart's report: one HTML file from one summary.

It reads the plain values that `summary.json` holds, so a report can be made
again from a summary alone.
"""

from collections.abc import Sequence

from eejax.report import page
from eejax.report.parts import (
  Values,
  against_full,
  before_and_after_rows,
  criterion_row,
  depth_chart,
  estimates,
  head_name,
  percent,
  percent_range,
  setting_row,
  threshold_text,
  times,
  trade_chart,
)
from eejax.report.svg import Axis, Format, Mark, Series, line_chart


def render(summary: Values) -> str:
  """Return the report of a quickstart's summary as HTML."""
  parts = [
    _opening(summary),
    _probe(summary),
    _tuning(summary),
    _thresholds(summary),
    _samples(summary),
    _method(summary),
  ]
  title = f'Early exit on {summary["model"]["name"]}'
  return page.page(title, '\n'.join(parts))


# MARK: Sections


def _opening(summary: Values) -> str:
  model, speed = summary['model'], summary['speed']['calibrated']
  point = summary['sweep']['calibrated']['held_out']
  layers = model['num_layers']
  facts = (
    f'{model["family"]}, {layers} blocks, {model["embed_dim"]} wide, '
    f'{model["vocab_size"]} tokens, {model["parameters"] / 1e6:.1f} million '
    f'parameters. Made by eejax {summary["version"]} on {summary["created"]}.'
  )
  ceiling = summary['probe']['natural_exits']['saved_if_stable']
  cards = [
    _speed_card(speed, summary['sweep']['calibrated']['target']),
    (
      percent(point['agreement']['value'], 1),
      'of tokens as in full decoding, on text not tuned on '
      f'({percent_range(point["agreement"])} %)',
    ),
    (
      f'{speed["mean_depth"]:.1f} of {layers}',
      'blocks before a token is emitted',
    ),
    (
      percent(ceiling['value'], 0),
      'of blocks an oracle could skip without any training',
    ),
  ]
  lossless = summary['speed'].get('lossless')
  if lossless:
    words = 'as fast as full decoding, losslessly, measured on this machine'
    cards.append((times(lossless['measured']['value']), words))
  meaning = ''.join(page.paragraph(line) for line in summary['meaning'])
  return (
    f'<h1>Early exit on {page.text(model["name"])}</h1>'
    f'<p class="soft">{page.text(facts)}</p>{page.cards(cards)}{meaning}'
  )


def _speed_card(calibrated: Values, target: float) -> tuple[str, str]:
  if all(t is None for t in calibrated['thresholds']):
    return (
      'no gain',
      f'no thresholds keep {percent(target, 0)} agreement and save time here',
    )
  value = calibrated['measured']['value']
  slower = ' (slower!)' if value < 1 else ''
  words = f'as fast as full decoding on this machine, measured{slower}'
  return times(value), words


def _probe(summary: Values) -> str:
  found = summary['probe']['natural_exits']
  depths = found['depths']
  places = [d['depth'] for d in depths]
  stable, total = [], 0.0
  for d in depths:
    total += d['stable']
    stable.append(total)
  agreement = line_chart(
    [
      Series('agrees with the last', places, estimates(depths, 'agreement')),
      Series('settled by then', places, stable),
    ],
    title='Agreement with the last depth, by depth',
    x=Axis('depth'),
    y=Axis('share of tokens', Format.PERCENT, low=0.0, high=1.0),
  )
  loss = line_chart(
    [Series('loss', places[1:], estimates(depths[1:], 'loss'))],
    title='Loss by depth',
    x=Axis('depth'),
    y=Axis('loss, nats a token'),
  )
  return page.section(
    'Before any training',
    *_verdict(summary['probe']),
    page.panels(
      [
        ('What every depth would say', agreement),
        ('Loss when a depth is read, from 1 on', loss),
      ]
    ),
    page.paragraph(
      "Every depth is read with the model's own final norm and head. A token "
      'is settled once no deeper block changes it.'
    ),
  )


def _verdict(probe: Values) -> list[str]:
  kind = {'yes': 'yes', 'no': 'no'}.get(probe['answer'], 'maybe')
  return [
    page.verdict(probe['headline'], kind=kind),
    page.bullets(probe['sentences']),
  ]


def _tuning(summary: Values) -> str:
  tuning, curve = summary['tuning'], summary['tuning']['curve']
  names = [h['name'] for h in summary['after']['heads']]
  series = [
    Series(
      head_name(name),
      [c['step'] for c in curve],
      [c.get(f'{name}/loss') for c in curve],
      dashed=name == 'final',
    )
    for name in names
  ]
  losses = line_chart(
    series,
    title='Held-out loss of every exit over tuning',
    x=Axis('step'),
    y=Axis('loss, nats a token'),
  )
  agreement = line_chart(
    [
      Series(
        head_name(name),
        [c['step'] for c in curve],
        [c.get(f'{name}/agreement') for c in curve],
      )
      for name in names[:-1]
    ],
    title='Agreement of every exit with the final head over tuning',
    x=Axis('step'),
    y=Axis('agreement with final', Format.PERCENT),
  )
  return page.section(
    'Tuning the exits',
    page.paragraph(
      f'{tuning["steps"]} steps of {tuning["tokens_per_step"]} tokens of '
      f'{summary["data"]["name"]}; the backbone is frozen, the exits imitate '
      'its final head, and each gate learns when its exit agrees.'
    ),
    page.panels(
      [
        ('Loss per exit over tuning, held out', losses),
        ('Agreement per exit over tuning, held out', agreement),
      ]
    ),
    '<h3>Every exit before and after</h3>',
    page.table(before_and_after_rows(summary), words=['kind']),
  )


def _thresholds(summary: Values) -> str:
  speed, sweep = summary['speed'], summary['sweep']
  target = percent(sweep['calibrated']['target'], 0)
  curve = [s for s in speed['settings'] if not s['calibrated']]
  return page.section(
    'When to exit',
    page.paragraph(summary['calibration']),
    page.panels(
      [
        ('Agreement by threshold', _agreement_chart(summary, curve)),
        ('Speed-up by threshold, wall clock', _speed_chart(curve)),
      ]
    ),
    page.panels(
      [
        ('Speed-up against agreement', trade_chart(curve, speed['calibrated'])),
        ('Where tokens leave, calibrated', depth_chart(summary)),
      ]
    ),
    page.table([setting_row(s) for s in speed['settings']]),
    '<h3>Which score to ask</h3>',
    page.table([criterion_row(c, sweep) for c in sweep['criteria']]),
    page.paragraph(
      'Each score with thresholds searched for the same agreement on other '
      'text. '
      'A gate is read before the head; the others cost a head at every exit '
      'that is asked. Safe at a depth: how many tokens the exit there could '
      f'take on its own with {target} of them right.'
    ),
  )


def _agreement_chart(summary: Values, curve: Sequence[Values]) -> str:
  target = summary['sweep']['calibrated']['target']
  places = list(range(len(curve)))
  return line_chart(
    [
      Series(
        'held-out text',
        places,
        [s['point']['agreement']['value'] for s in curve],
      ),
      Series(
        "the model's own continuations",
        places,
        [s['own_agreement']['value'] for s in curve],
      ),
    ],
    title='Agreement with full decoding by threshold',
    x=_threshold_axis(curve),
    y=Axis('agreement', Format.PERCENT),
    marks=[Mark(target, f'target {percent(target, 0)}')],
  )


def _speed_chart(curve: Sequence[Values]) -> str:
  places = list(range(len(curve)))
  return line_chart(
    [
      Series('measured', places, [s['measured']['value'] for s in curve]),
      Series(
        'predicted',
        places,
        [s['predicted'] for s in curve],
        colour=0,
        dashed=True,
      ),
    ],
    title='Speed-up over full decoding by threshold',
    x=_threshold_axis(curve),
    y=Axis('speed-up', Format.TIMES),
    marks=[Mark(1.0, 'full decoding')],
  )


def _threshold_axis(curve: Sequence[Values]) -> Axis:
  names = tuple(threshold_text(s['thresholds'][0]) for s in curve)
  return Axis('threshold of all exits', names=names)


def _samples(summary: Values) -> str:
  levels = [*summary['sweep']['exit_depths'], summary['model']['num_layers']]
  shown = [
    page.paragraph(summary['about_samples']),
    page.depth_legend(levels),
  ]
  for sample in summary['samples']['texts']:
    hints = [
      f'depth {d} of {levels[-1]}' + ('' if s is None else f', score {s:.3f}')
      for d, s in zip(sample['depths'], sample['scores'], strict=True)
    ]
    shown.append(
      page.coloured_tokens(
        sample['pieces'],
        sample['depths'],
        hints,
        levels=levels,
        prompt=sample['prompt'],
      )
    )
    shown.append(page.paragraph(against_full(sample)))
  return page.section('What it writes', *shown)


def _method(summary: Values) -> str:
  return page.section(
    'How this was measured, and what it does not say',
    page.bullets(summary['limits']),
    '<h3>The same with single commands</h3>',
    f'<pre>{page.text(chr(10).join(summary["commands"]))}</pre>',
    '<h3>Environment</h3>',
    page.facts(summary['environment']),
    '<h3>Time</h3>',
    page.table(
      [
        {'stage': s['name'], 'seconds': round(s['seconds'], 1)}
        for s in summary['stages']
      ]
    ),
  )
