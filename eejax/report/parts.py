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
"""Tables, charts and words that the sections of the report are made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from eejax.report.svg import (
  Axis,
  Format,
  Mark,
  Series,
  bar_chart,
  line_chart,
)

Values = Mapping[str, Any]
NEVER = 'never'


def before_and_after_rows(summary: Values) -> list[dict[str, object]]:
  """Return the lines of a table of every head before and after tuning."""
  before = {h['name']: h for h in summary['before']['heads']}
  rows = []
  for after in summary['after']['heads']:
    old = before[after['name']]
    rows.append(
      {
        'head': head_name(after['name']),
        'loss': change(old, after, 'loss', '{:.3f}'),
        'perplexity': change(old, after, 'perplexity', '{:.3g}'),
        'top-1 %': change(old, after, 'accuracy', '{:.1f}', scale=100),
        'agreement with final %': change(
          old, after, 'agreement', '{:.1f}', scale=100
        ),
        'kind': summary['exit_kinds'].get(after['name'], 'the backbone'),
      }
    )
  return rows


def change(
  old: Values, new: Values, name: str, form: str, *, scale: float = 1
) -> str:
  """Return a figure before and after, or once where it is the same."""
  before, after = (
    form.format(scale * head[name]['value']) for head in (old, new)
  )
  return before if before == after else f'{before} \u2192 {after}'


def setting_row(setting: Values) -> dict[str, object]:
  """Return the line of a table about one setting of the thresholds."""
  point = setting['point']
  thresholds = [threshold_text(t) for t in setting['thresholds']]
  name = ', '.join(thresholds)
  if len(set(thresholds)) == 1:
    name = thresholds[0]
  return {
    'threshold': f'{name} (calibrated)' if setting['calibrated'] else name,
    'agreement': f'{percent(point["agreement"]["value"], 1)} '
    f'({percent_range(point["agreement"])})',
    'on own text': percent(setting['own_agreement']['value'], 1),
    'measured': times(setting['measured']['value']),
    'over prompts': f'{setting["measured"]["low"]:.2f} to '
    f'{setting["measured"]["high"]:.2f}',
    'predicted': times(setting['predicted']),
    'mean depth': f'{setting["mean_depth"]:.1f}',
    'tokens/s': f'{setting["tokens_per_s"]:.0f}',
  }


def criterion_row(entry: Values, sweep: Values) -> dict[str, object]:
  """Return the line of a table about one score."""
  point = entry['calibrated']['held_out']
  name = entry['criterion']
  return {
    'score': f'{name} (used)' if name == sweep['criterion'] else name,
    'agreement': f'{percent(point["agreement"]["value"], 1)} '
    f'({percent_range(point["agreement"])})',
    'mean depth': f'{point["mean_depth"]:.1f}',
    **{
      f'safe at {depth}': percent(share, 0)
      for depth, share in zip(
        sweep['exit_depths'], entry['coverage'], strict=True
      )
    },
    'predicted speed-up': times(point['predicted_speedup']),
  }


def trade_chart(curve: Sequence[Values], calibrated: Values) -> str:
  """Return speed against agreement, for every setting."""
  agreement = lambda s: s['point']['agreement']['value']
  speed = lambda s: s['measured']['value']
  ordered = sorted(curve, key=agreement)
  return line_chart(
    [
      Series(
        'one threshold for all exits',
        [agreement(s) for s in ordered],
        [speed(s) for s in ordered],
      ),
      Series(
        'a threshold for each exit, calibrated',
        [agreement(calibrated)],
        [speed(calibrated)],
      ),
    ],
    title='Speed-up against agreement with full decoding',
    x=Axis('agreement', Format.PERCENT),
    y=Axis('speed-up, measured', Format.TIMES),
    marks=[Mark(1.0, 'full decoding')],
  )


def depth_chart(summary: Values) -> str:
  """Return where tokens leave at the calibrated setting."""
  sweep, calibrated = summary['sweep'], summary['speed']['calibrated']
  levels = [*sweep['exit_depths'], summary['model']['num_layers']]
  return bar_chart(
    [
      ('held-out text', sweep['calibrated']['held_out']['exit_shares']),
      ('own continuations', calibrated['exit_shares']),
    ],
    title='Share of tokens emitted at each depth',
    x=Axis('depth', names=tuple(str(d) for d in levels)),
    y=Axis('share of tokens', Format.PERCENT, low=0.0),
  )


def against_full(sample: Values) -> str:
  """Return how far a sample is the text of full decoding."""
  same, total = sample['same_tokens'], len(sample['pieces'])
  if same == total:
    return f'All {total} tokens are those of full decoding.'
  return (
    f'The first {same} of {total} tokens are those of full decoding; after a '
    'different token the two texts go their own ways.'
  )


def head_name(name: str) -> str:
  """Return what a head is called."""
  return 'final head' if name == 'final' else f'depth {name.split("_")[-1]}'


def threshold_text(value: float | None) -> str:
  """Return a threshold as people write it."""
  return NEVER if value is None else f'{value:.4g}'


def estimates(rows: Sequence[Values], name: str) -> list[float]:
  """Return the estimates of a list of intervals."""
  return [row[name]['value'] for row in rows]


def percent(value: float, digits: int) -> str:
  """Return a share as a percentage."""
  return f'{100 * value:.{digits}f} %'


def times(value: float) -> str:
  """Return a factor with two digits."""
  return f'{value:.2f}x'


def percent_range(interval: Values) -> str:
  """Return the ends of an interval of shares, in percent."""
  return f'{100 * interval["low"]:.1f} to {100 * interval["high"]:.1f}'
