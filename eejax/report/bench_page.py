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
"""The page of a benchmark: speed against agreement, and every strategy.

It reads the plain values of the file that `eejax.bench` writes, so a page can
be made again from the file alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eejax.report import page
from eejax.report.svg import Axis, Format, Mark, Series, line_chart

Values = Mapping[str, Any]


def render(values: Values) -> str:
  """Return the page of measurements as HTML."""
  lines = values['lines']
  parts = [
    '<h1>Strategies of decoding</h1>',
    page.paragraph(
      f'{values["checkpoint"]}: {values["model"]["num_layers"]} blocks, exits '
      f'at {", ".join(map(str, values["model"]["exit_depths"]))}; '
      f'{values["run"]["prompts"]} prompts of {values["prompts"]}, '
      f'{values["run"]["max_new_tokens"]} new tokens each, '
      f'{values["run"]["dtype"]}.'
    ),
    page.cards(_cards(lines)),
    page.section('Speed against agreement', *_charts(lines)),
    page.section('Every strategy', page.table(rows(lines), words=('K/V',))),
    _peers(values),
    page.section('How it was measured', page.bullets(_METHOD)),
    page.facts(_facts(values)),
  ]
  return page.page('Strategies of decoding', '\n'.join(parts))


_METHOD = (
  'Each strategy is timed in turns with full decoding of the same batch. '
  'Tokens/s and speed-ups are of medians, without prefill; the range of a '
  'speed-up is that of the batches.',
  'Texts are generated freely. "Same place" is the share of places that hold '
  "full decoding's token; after one different token texts go their own ways, "
  'so it falls with their length. "Same start" is the share of the text before '
  'its first difference. Neither is a quality of the text.',
  'The prediction is the cost model: block and head reads and passes that the '
  'decode loop counted, times what a block and a head take on this machine.',
  'Full decoding is timed against itself as well. How far its speed-up is from '
  '1 is what noise does here.',
)


def _cards(lines: Sequence[Values]) -> list[tuple[str, str]]:
  entries = []
  for size in _batch_sizes(lines):
    of_size = [x for x in lines if x['setting']['batch_size'] == size]
    exact = [x for x in of_size if x['same_place'] == 1 and not _is_full(x)]
    if exact:
      best = max(exact, key=_speed)
      words = f'batch {size}, same tokens here: {name_of(best["setting"])}'
      entries.append((_times(_speed(best)), words))
  return entries


def _charts(lines: Sequence[Values]) -> list[str]:
  """Return a chart for every batch size."""
  panels = [
    (
      f'Batch {size}',
      _chart([x for x in lines if x['setting']['batch_size'] == size]),
    )
    for size in _batch_sizes(lines)
  ]
  return [page.panels(panels)]


def _chart(lines: Sequence[Values]) -> str:
  """Return measured speed-up against agreement, and what nothing beats."""
  groups: dict[str, list[Values]] = {}
  for line in lines:
    groups.setdefault(_group_of(line['setting']), []).append(line)
  ordered = {
    name: sorted(group, key=lambda x: x['same_place'])
    for name, group in groups.items()
  }
  best = sorted(
    (x for x in lines if not is_beaten(x, lines)),
    key=lambda x: x['same_place'],
  )
  curve = lambda name, group, **look: Series(
    name, [x['same_place'] for x in group], [_speed(x) for x in group], **look
  )
  return line_chart(
    [
      *(curve(name, group) for name, group in ordered.items()),
      curve('not beaten in both', best, dashed=True),
    ],
    title='Speed-up against agreement with full decoding',
    x=Axis('same place, same token', Format.PERCENT),
    y=Axis('speed-up, measured', Format.TIMES),
    marks=[Mark(1.0, 'full decoding')],
  )


def is_beaten(line: Values, lines: Sequence[Values]) -> bool:
  """Return whether another line is as good in both values and better in one."""
  here = (_speed(line), line['same_place'])
  return any(
    there != here and there[0] >= here[0] and there[1] >= here[1]
    for there in ((_speed(x), x['same_place']) for x in lines)
  )


def rows(lines: Sequence[Values]) -> list[dict[str, Any]]:
  """Return the lines of a table of strategies."""
  return [
    {
      'strategy': name_of(line['setting']),
      'batch': line['setting']['batch_size'],
      'tokens/s': round(line['tokens_per_s']),
      'speed-up': _speed_text(line),
      'predicted': _times(line['predicted_speedup']),
      'same place': _percent(line['same_place'], 1),
      'same start': _percent(line['same_start'], 1),
      'blocks/token': round(line['blocks_per_token'], 2),
      'heads/token': round(line['head_calls_per_token'], 2),
      'kept drafts': None
      if line['acceptance'] is None
      else _percent(line['acceptance'], 0),
    }
    for line in lines
  ]


def peer_rows(values: Values) -> list[dict[str, Any]]:
  """Return the lines of a table of other decoders, on the same weights."""
  full = {
    x['setting']['batch_size']: x['tokens_per_s_with_prefill']
    for x in values['lines']
    if _is_full(x)
  }
  rows = []
  for peer in values['peers']:
    speed = peer['tokens_per_s_with_prefill']
    ours = full.get(peer['batch_size'])
    rows.append(
      {
        'decoder': peer['decoder'],
        'batch': peer['batch_size'],
        'tokens/s, prefill included': round(speed, 1),
        'eejax, full depth': None if ours is None else round(ours, 1),
        'eejax is': None if ours is None else _times(ours / speed),
      }
    )
  return rows


def _peers(values: Values) -> str:
  rows = peer_rows(values)
  if not rows:
    return ''
  return page.section('Other decoders, same weights', page.table(rows))


def _facts(values: Values) -> dict[str, object]:
  facts = {k: str(v) for k, v in values['environment'].items()}
  model = values['model']
  return {**facts, 'backbone': model['backbone_hash'][:16]}


def name_of(setting: Values) -> str:
  """Return a strategy in words."""
  if setting['mode'] == 'full':
    return 'full'
  thresholds = ','.join(
    'never' if t == 'never' else f'{t:g}' for t in setting['thresholds']
  )
  return f'{_group_of(setting)} {thresholds}'


def _group_of(setting: Values) -> str:
  """Return what strategies that differ in thresholds alone share."""
  if setting['mode'] == 'full':
    return 'full'
  words = [setting['mode'].replace('_', ' '), setting['criterion']]
  if setting['kv_strategy'] != 'deferred':
    words.append(setting['kv_strategy'])
  if setting['batching'] != 'ride_along':
    words.append(setting['batching'].replace('_', ' '))
  if setting.get('prompt_lookup') is not None:
    words.append(f'lookup {setting["prompt_lookup"]}')
  return ' '.join(words)


def _batch_sizes(lines: Sequence[Values]) -> list[int]:
  return sorted({x['setting']['batch_size'] for x in lines})


def _is_full(line: Values) -> bool:
  return line['setting']['mode'] == 'full'


def _speed(line: Values) -> float:
  return line['speedup']['value']


def _speed_text(line: Values) -> str:
  """Return the speed-up and its range, as in `1.31 (1.28 to 1.35)`."""
  speedup = line['speedup']
  low, high = (f'{speedup[name]:.2f}' for name in ('low', 'high'))
  return f'{_times(_speed(line))} ({low} to {high})'


def _percent(value: float, digits: int) -> str:
  return f'{100 * value:.{digits}f} %'


def _times(value: float) -> str:
  return f'{value:.2f}x'
