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
"""The tables of an analysis, with numbers as they are: for CSV files.

A column that has an interval has `_low` and `_high` beside it.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Values = Mapping[str, Any]
Row = dict[str, Any]


def tables(values: Values) -> dict[str, list[Row]]:
  """Return every table that the sections of an analysis can fill, by name.

  Args:
    values: plain values of the sections by name.
  """
  result = {name: list(make(values)) for name, make in _TABLES.items()}
  return {name: rows for name, rows in result.items() if rows}


def as_csv(rows: Sequence[Row]) -> str:
  """Return a table as CSV text; None is an empty field."""
  columns = list(dict.fromkeys(key for row in rows for key in row))
  file = io.StringIO()
  writer = csv.DictWriter(file, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return file.getvalue()


def _interval(name: str, interval: Values | None) -> Row:
  if interval is None:
    return {name: None, f'{name}_low': None, f'{name}_high': None}
  return {
    name: interval['value'],
    f'{name}_low': interval['low'],
    f'{name}_high': interval['high'],
  }


def _of(values: Values, section: str) -> Values:
  return values.get(section) or {}


def _readouts(values: Values) -> Iterator[Row]:
  for entry in _of(values, 'natural').get('readouts', ()):
    row = dict(entry['readout'])
    for name, interval in entry['figures'].items():
      row |= _interval(name, interval)
    yield row


def _answer_depths(values: Values) -> Iterator[Row]:
  for result in _of(values, 'natural').get('ceilings', ()):
    for depth, share, by_then in zip(
      result['depths'], result['shares'], result['by_then'], strict=True
    ):
      yield {
        'ceiling': result['ceiling'],
        'depth': depth,
        'share': share,
        'by_then': by_then,
      }


def _ceilings(values: Values) -> Iterator[Row]:
  for result in _of(values, 'natural').get('ceilings', ()):
    yield {
      'ceiling': result['ceiling'],
      **_interval('skip', result['skip']),
      **_interval('mean_depth', result['mean_depth']),
    }


def _scores(values: Values) -> Iterator[Row]:
  for result in _of(values, 'suitability').get('scores', ()):
    yield {
      'name': result['name'],
      'settings': result['settings'],
      **_interval('eas', result['eas']),
      **_interval('normalised', result['normalised']),
      'tokens': result['tokens'],
      'rows': result['rows'],
    }


def _similarity(values: Values) -> Iterator[Row]:
  for result in _of(values, 'suitability').get('scores', ()):
    for depth, interval in zip(
      result['depths'], result['similarity'], strict=True
    ):
      yield {
        'settings': result['settings'],
        'depth': depth,
        **_interval('similarity', interval),
      }


def _sweeps(values: Values) -> Iterator[Row]:
  for swept in _of(values, 'gates').get('sweeps', ()):
    for point in swept['points']:
      shares = zip(swept['depths'], point['exit_shares'], strict=True)
      yield {
        'readouts': swept['readouts'],
        **{k: v for k, v in point.items() if k != 'exit_shares'},
        **{f'share_at_{depth:g}': share for depth, share in shares},
      }


def _skips(values: Values) -> Iterator[Row]:
  for swept in _of(values, 'gates').get('sweeps', ()):
    for skip in swept['skips']:
      rest = {k: v for k, v in skip.items() if k != 'skip'}
      yield {
        'readouts': swept['readouts'],
        **rest,
        **_interval('skip', skip['skip']),
      }


def _regrets(values: Values) -> Iterator[Row]:
  for swept in _of(values, 'gates').get('sweeps', ()):
    for regret in swept['regrets']:
      yield {
        'readouts': swept['readouts'],
        **regret,
        'gate': regret['gate'] or 'best of all',
      }


def _detection(values: Values) -> Iterator[Row]:
  for result in _of(values, 'gates').get('detection', ()):
    yield {
      'gate': result['gate'],
      **_interval('auroc', result['auroc']),
      **_interval('average_precision', result['average_precision']),
      **_interval('prevalence', result['prevalence']),
    }


def _confidence(values: Values) -> Iterator[Row]:
  for result in _of(values, 'confidence').get('readouts', ()):
    yield {
      **result['readout'],
      **_interval('ece', result['ece']),
      **_interval('kl_final', result['kl_final']),
      **_interval('js_previous', result['js_previous']),
      'safe_threshold': result['threshold'],
    }


def _reliability(values: Values) -> Iterator[Row]:
  for result in _of(values, 'confidence').get('readouts', ()):
    for entry in result['reliability']:
      yield {'readout': result['readout']['name'], **entry}


def _own_text(values: Values) -> Iterator[Row]:
  yield from _readouts({'natural': _of(values, 'free_running')})


def _keys(values: Values) -> Iterator[Row]:
  damage = _of(values, 'kv_damage')
  if 'wrong_tokens' not in damage:
    return
  result = [damage['wrong_tokens'], *damage['by_strategy'].values()]
  for entry in result:
    for stretch in entry['stretches']:
      yield {
        'strategy': entry['strategy'],
        'decider': entry['decider'],
        **_interval('skip', entry['skip']),
        **_interval('unharmed', entry['unharmed']),
        **_interval('divergence', entry['divergence']),
        'begin': stretch['begin'],
        'end': stretch['end'],
        **_interval('agreement', stretch['agreement']),
        **_interval('same', stretch['same']),
      }


def _words(values: Values) -> Iterator[Row]:
  result = _of(values, 'subwords')
  for kind in ('by_target', 'by_input', 'by_frequency'):
    for group in result.get(kind, ()):
      row = {
        'classed_by': kind.removeprefix('by_'),
        'name': group['name'],
        'positions': group['positions'],
        'share': group['share'],
        **_interval('loss', group['loss']),
        **_interval('accuracy', group['accuracy']),
      }
      for ceiling, interval in group['skip'].items():
        row |= _interval(f'skip_{ceiling}', interval)
      for depth, interval in zip(
        result['depths'], group['agreement'], strict=True
      ):
        row[f'agreement_at_{depth:g}'] = interval['value']
      yield row


def _sublayers(values: Values) -> Iterator[Row]:
  for ceiling, result in _of(values, 'sublayers').items():
    yield {
      'ceiling': ceiling,
      **_interval('at_attention', result['at_attention']),
      **_interval('at_mlp', result['at_mlp']),
      **_interval('at_embedding', result['at_embedding']),
      **_interval('saved_blocks', result['saved']),
      **_interval('skip_gain', result['skip_gain']),
    }


def _speculation(values: Values) -> Iterator[Row]:
  for group in _of(values, 'speculation').get('by_readouts', ()):
    for result in group['exits']:
      rest = {k: v for k, v in result.items() if k != 'speedup'}
      yield {
        'readouts': group['readouts'],
        **rest,
        **_interval('speedup', result['speedup']),
      }


def _models(values: Values) -> Iterator[Row]:
  for model in _of(values, 'comparison').get('models', ()):
    yield {
      **model['entry'],
      **_interval('eas', model['eas']),
      **_interval('relative', model['relative']),
      'stable': model['stable'],
      'failures': ' '.join(model['failures']),
    }


def _models_by_text(values: Values) -> Iterator[Row]:
  for model in _of(values, 'comparison').get('models', ()):
    for result in model['texts']:
      row = {
        'model': model['entry']['name'],
        'text': result['data'],
        **_interval('eas', result['score']['eas']),
        **_interval('stable', result['stable']),
        **_interval('agree', result['agree']),
      }
      for skip in result['skips']:
        name = f'skip_at_{100 * skip["budget"]:g}_percent_{skip["quality"]}'
        row[name] = skip['skip']['value']
        row[f'{name}_held_out'] = skip['held_out_skip']
      yield row


def _groups(values: Values) -> Iterator[Row]:
  for group in _of(values, 'comparison').get('groups', ()):
    yield {
      'fact': group['fact'],
      'value': group['value'],
      'models': ' '.join(group['models']),
      **_interval('eas', group['eas']),
    }


def _steps(values: Values) -> Iterator[Row]:
  for step in _of(values, 'dynamics').get('steps', ()):
    yield {
      'step': step['step'],
      'loss': step['loss'],
      **_interval('eas', step['score']['eas']),
      **_interval('stable', step['headroom']['stable']),
      **_interval('agree', step['headroom']['agree']),
    }


def _step_similarity(values: Values) -> Iterator[Row]:
  for step in _of(values, 'dynamics').get('steps', ()):
    for depth, interval in zip(
      step['score']['depths'], step['score']['similarity'], strict=True
    ):
      yield {
        'step': step['step'],
        'depth': depth,
        **_interval('similarity', interval),
      }


_TABLES = {
  'readouts': _readouts,
  'answer_depths': _answer_depths,
  'ceilings': _ceilings,
  'scores': _scores,
  'similarity': _similarity,
  'gate_sweeps': _sweeps,
  'skip_at_budget': _skips,
  'regret': _regrets,
  'gate_detection': _detection,
  'confidence': _confidence,
  'reliability': _reliability,
  'sublayers': _sublayers,
  'subwords': _words,
  'free_running': _own_text,
  'kv_damage': _keys,
  'speculation': _speculation,
  'models': _models,
  'models_by_text': _models_by_text,
  'groups': _groups,
  'training_steps': _steps,
  'training_similarity': _step_similarity,
}
