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
"""The charts of the page of an analysis."""

from collections.abc import Mapping, Sequence
from typing import Any

from eejax.report.analysis_formats import gate_words
from eejax.report.svg import (
  Axis,
  Format,
  Mark,
  Series,
  bar_chart,
  line_chart,
)

Values = Mapping[str, Any]
_SHARE = Axis('share of tokens', Format.PERCENT, low=0.0)
# Depths whose reliability curves are drawn; more cannot be told apart.
_CURVES = 5


def _curve(name: str, depths, intervals: Sequence[Values], **look) -> Series:
  return Series(
    name,
    depths,
    [i['value'] for i in intervals],
    ends=[(i['low'], i['high']) for i in intervals],
    **look,
  )


def _of_kind(found: Values, kind: str) -> list[Values]:
  return [r for r in found['readouts'] if r['readout']['kind'] == kind]


def _by_depth(found: Values, figure: str, *, first: float = 0) -> list[Series]:
  series = []
  for kind, name in (('natural', 'natural'), ('exit', 'trained exits')):
    entries = [
      r
      for r in _of_kind(found, kind)
      if figure in r['figures'] and r['readout']['depth'] >= first
    ]
    if entries:
      depths = [r['readout']['depth'] for r in entries]
      series.append(
        _curve(name, depths, [r['figures'][figure] for r in entries])
      )
  return series


def agreement(found: Values) -> str:
  """Return agreement and its part beyond chance, by depth."""
  beyond = [r for r in _of_kind(found, 'natural') if 'kappa' in r['figures']]
  series = _by_depth(found, 'agreement')
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


def agreement_by_class(found: Values) -> str:
  """Return agreement by depth, for classes that are not rare."""
  classes = [c for c in found['by_target'] if c['share'] >= 0.02]
  return line_chart(
    [
      _curve(c['name'].replace('_', ' '), found['depths'], c['agreement'])
      for c in classes
    ],
    title='Agreement by depth and kind of token',
    x=Axis('depth'),
    y=Axis('agreement', Format.PERCENT, high=1.0),
  )


def own_against_given(own: Values, given: Values) -> str:
  """Return agreement by depth on two texts."""
  series = []
  for name, found in (('given text', given), ('its own text', own)):
    entries = _of_kind(found, 'natural')
    series.append(
      _curve(
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


def damage(found: Values) -> str:
  """Return agreement by generated length, for each stand-in."""
  kinds = {'exact keys and values': found['wrong_tokens']}
  kinds |= found['by_strategy']
  series = [
    Series(
      name.replace('_', ' '),
      [s['end'] for s in entry['stretches']],
      [s['agreement']['value'] for s in entry['stretches']],
      ends=[
        (s['agreement']['low'], s['agreement']['high'])
        for s in entry['stretches']
      ],
    )
    for name, entry in kinds.items()
  ]
  return line_chart(
    series,
    title='Agreement with the full model by generated length',
    x=Axis('tokens generated'),
    y=Axis('agreement', Format.PERCENT, low=0.0, high=1.0),
  )


def loss(found: Values) -> str:
  """Return loss by depth, without depth 0, which dwarfs the rest."""
  return line_chart(
    _by_depth(found, 'loss', first=1),
    title='Loss by depth',
    x=Axis('depth'),
    y=Axis('nats a token'),
  )


def answer_depths(found: Values) -> str:
  """Return at which depths answers appear."""
  ceilings = found['ceilings']
  names = tuple(f'{d:g}' for d in ceilings[0]['depths'])
  return bar_chart(
    [(c['ceiling'].replace('_', ' '), c['shares']) for c in ceilings],
    title='Share of tokens whose answer appears at each depth',
    x=Axis('depth', names=names),
    y=_SHARE,
  )


def settled(found: Values) -> str:
  """Return how many answers are there by each depth."""
  return line_chart(
    [
      Series(c['ceiling'].replace('_', ' '), c['depths'], c['by_then'])
      for c in found['ceilings']
    ],
    title='Share of tokens whose answer is there by each depth',
    x=Axis('depth'),
    y=Axis('share of tokens', Format.PERCENT, low=0.0, high=1.0),
  )


def similarity(found: Values) -> str:
  """Return every similarity to the full model by depth."""
  return line_chart(
    [
      _curve(
        s['settings'].split(',')[0].replace('_', ' '),
        s['depths'],
        s['similarity'],
      )
      for s in found['scores']
    ],
    title='Similarity to the full model by depth',
    x=Axis('depth'),
    y=Axis('similarity', low=0.0, high=1.0),
  )


def _by_gate(swept: Values) -> dict[str, list[Values]]:
  gates: dict[str, list[Values]] = {}
  for point in swept['points']:
    gates.setdefault(point['gate'], []).append(point)
  return gates


def agreement_by_skip(swept: Values) -> str:
  """Return what gates keep of the full model's tokens, by what they skip."""
  return _against_skip(swept, 'agreement', marks=())


def accuracy_by_skip(swept: Values) -> str:
  """Return what gates keep of right tokens, by what they skip."""
  full = Mark(swept['full_accuracy'], 'full model')
  return _against_skip(swept, 'accuracy', marks=(full,))


def _against_skip(swept: Values, figure: str, *, marks) -> str:
  return line_chart(
    [
      Series(
        gate_words(gate),
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


def exits_at_budget(swept: Values) -> str:
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
      name = f'{100 * skip["budget"]:g} % changed, {gate_words(skip["gate"])}'
      groups.append((name, point['exit_shares']))
  return bar_chart(
    groups,
    title='Share of tokens that leave at each depth',
    x=Axis('depth', names=tuple(f'{d:g}' for d in swept['depths'])),
    y=_SHARE,
  )


def reliability(found: Values) -> str:
  """Return agreement by confidence, for some depths."""
  readouts = found['readouts'][:-1]
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


def calibration_error(found: Values) -> str:
  """Return the calibration error of confidence by depth."""
  readouts = found['readouts'][:-1]
  return line_chart(
    [
      _curve(
        'calibration error',
        [r['readout']['depth'] for r in readouts],
        [r['ece'] for r in readouts],
      )
    ],
    title='Expected calibration error by depth',
    x=Axis('depth'),
    y=Axis('error', low=0.0),
  )


def speculation(found: Values) -> str:
  """Return the predicted speed-up by the depth that drafts."""
  series = []
  for group in found['by_readouts']:
    exits = sorted(group['exits'], key=lambda e: e['depth'])
    name = 'trained exits' if group['readouts'] == 'exit' else 'natural'
    series.append(
      _curve(name, [e['depth'] for e in exits], [e['speedup'] for e in exits])
    )
  return line_chart(
    series,
    title='Predicted speed-up of self-speculation by depth',
    x=Axis('depth that drafts'),
    y=Axis('speed-up', Format.TIMES),
    marks=[Mark(1.0, 'full decoding')],
  )
