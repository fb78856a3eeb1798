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
"""The page of `eejax analyse`: whether early exit pays, and all it rests on.

It reads the plain values of the verb's `analysis.json`, so a page can be made
again from that file alone. Sections that are missing are left out; those that
failed are named at the top.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from eejax.report import analysis_charts as charts
from eejax.report import page
from eejax.report.analysis_formats import (
  gate_words,
  percent,
  percent_range,
  plain_range,
  times,
)
from eejax.report.analysis_models import comparison_section, dynamics_section
from eejax.report.analysis_texts import (
  grid_section,
  keys_section,
  own_text_section,
  sublayers_section,
  words_section,
)
from eejax.report.analysis_verdict import (
  best_skip,
  best_speculation,
)

Values = Mapping[str, Any]


def render(values: Values) -> str:
  """Return the page as HTML.

  Args:
    values: what `analysis.json` holds; `sections` has the sections by name.
  """
  sections = values['sections']
  parts = [
    _opening(values),
    _natural(sections.get('natural')),
    _suitability(sections.get('suitability')),
    _gates(sections.get('gates')),
    _confidence(sections.get('confidence')),
    _speculation(sections),
    sublayers_section(sections.get('sublayers')),
    words_section(sections.get('subwords')),
    own_text_section(sections),
    keys_section(sections.get('kv_damage')),
    grid_section(sections.get('token_grid')),
    comparison_section(sections.get('comparison')),
    dynamics_section(sections.get('dynamics')),
    _method(values),
  ]
  return page.page(_title(values), '\n'.join(p for p in parts if p))


def _title(values: Values) -> str:
  return f'Early exit on {values["name"]}'


# MARK: The answer


def _opening(values: Values) -> str:
  sections, about = values['sections'], values.get('about')
  parts = [f'<h1>{page.text(_title(values))}</h1>']
  if about is not None:
    natural = sections.get('natural') or {}
    facts = (
      f'{about["num_layers"]} blocks, {about["vocab_size"]} tokens; '
      f'{natural.get("tokens", "?")} tokens of {values["data"]} in '
      f'{natural.get("rows", "?")} rows. Made by eejax {values["version"]} on '
      f'{values["created"]}.'
    )
    parts += [
      f'<p class="soft">{page.text(facts)}</p>',
      *_verdict(sections.get('verdict')),
      page.cards(_cards(sections)),
    ]
  failures = values.get('failures') or {}
  if failures:
    parts += [
      '<h3>What could not be done</h3>',
      page.bullets([f'{name}: {why}' for name, why in failures.items()]),
    ]
  return '\n'.join(parts)


def _verdict(judged: Values | None) -> list[str]:
  """Return the verdict of `eejax probe` on the same text, if there is one."""
  if not judged:
    return []
  return [
    page.verdict(judged['headline'], kind=judged['kind']),
    page.bullets(judged['sentences']),
    page.table(judged['ways']),
  ]


def _cards(sections: Values) -> list[tuple[str, str]]:
  entries = []
  found = sections.get('suitability')
  if found:
    ceilings = found['headroom']
    entries.append(
      (
        percent(ceilings['stable']['value']),
        'of blocks an oracle could skip, stable depth '
        f'({percent_range(ceilings["stable"])})',
      )
    )
    chosen = found['scores'][0] if found['scores'] else None
    if chosen:
      entries.append(
        (
          f'{chosen["eas"]["value"]:.2f}',
          f'{chosen["name"]}: {chosen["settings"]} '
          f'({plain_range(chosen["eas"])})',
        )
      )
  skip = best_skip(sections, budget=0.01)
  if skip:
    kind = 'trained exits' if skip['readouts'] == 'exit' else 'natural exits'
    entries.append(
      (
        percent(skip['skip']['value']),
        f'skipped by the best gate, {gate_words(skip["gate"])} at {kind}, with '
        f'at most {100 * skip["budget"]:g} % of tokens changed',
      )
    )
  fastest = best_speculation(sections)
  if fastest:
    entries.append(
      (
        times(fastest['speedup']['value']),
        'predicted for lossless self-speculation from depth '
        f'{fastest["depth"]:g}, drafts a round: {fastest["length"]}',
      )
    )
  return entries


# MARK: Sections


def _natural(found: Values | None) -> str:
  if not found:
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
    for entry in found['readouts']
  ]
  ceilings = [
    {
      'ceiling': c['ceiling'].replace('_', ' '),
      'skips': f'{percent(c["skip"]["value"])} ({percent_range(c["skip"])})',
      'mean depth': f'{c["mean_depth"]["value"]:.2f}',
    }
    for c in found['ceilings']
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
        ('Agreement with the full model', charts.agreement(found)),
        ('Loss, from depth 1 on', charts.loss(found)),
        ('Where answers appear', charts.answer_depths(found)),
        ('Settled by a depth', charts.settled(found)),
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


def _suitability(found: Values | None) -> str:
  if not found:
    return ''
  rows = [
    {
      'similarity': s['settings'].split(',')[0].replace('_', ' '),
      'EAS': f'{s["eas"]["value"]:.3f} ({plain_range(s["eas"])})',
      'normalised': f'{s["normalised"]["value"]:.3f}',
      'settings': s['settings'],
    }
    for s in found['scores']
  ]
  ceilings = found['headroom']
  ranged = lambda name: (
    f'{percent(ceilings[name]["value"])} ({percent_range(ceilings[name])})'
  )
  return page.section(
    'How suited the model is',
    page.panels(
      [('Similarity to the full model, by depth', charts.similarity(found))]
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
    *(page.paragraph(f'Left out: {words}') for words in found['left_out']),
  )


def _gates(found: Values | None) -> str:
  if not found:
    return ''
  parts = []
  for swept in found['sweeps']:
    kind = 'trained exits' if swept['readouts'] == 'exit' else 'natural exits'
    parts += [
      page.panels(
        [
          (f'Agreement by skip, {kind}', charts.agreement_by_skip(swept)),
          (f'Accuracy by skip, {kind}', charts.accuracy_by_skip(swept)),
          (f'Where tokens leave, {kind}', charts.exits_at_budget(swept)),
        ]
      ),
      f'<h3>Largest skip at a budget, {kind}</h3>',
      page.table([_skip_row(s) for s in swept['skips']], words=('gate',)),
      f'<h3>Left on the table, {kind}</h3>',
      page.table(
        [
          {
            'gate': gate_words(r['gate']),
            'skips with no token changed': percent(r['skip']),
            'left of the ceiling SAT': percent(r['regret']),
          }
          for r in swept['regrets']
        ]
      ),
    ]
  detection = [
    {
      'gate': gate_words(d['gate']),
      'AUROC': f'{d["auroc"]["value"]:.3f} ({plain_range(d["auroc"])})',
      'average precision': f'{d["average_precision"]["value"]:.3f}',
      'positive cases': percent(d['prevalence']['value']),
    }
    for d in found['detection']
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
    'gate': gate_words(skip['gate']) if threshold is not None else 'none',
    'threshold': 'never' if threshold is None else f'{threshold:.4g}',
    'skips': f'{percent(skip["skip"]["value"])} '
    f'({percent_range(skip["skip"])})',
    'drop': percent(skip['drop']),
    'heads a token': f'{skip["heads"]:.1f}',
    'held out': held_out,
  }


def _confidence(found: Values | None) -> str:
  if not found:
    return ''
  rows = [
    {
      'read-out': r['readout']['name'].replace('_', ' '),
      'calibration error': f'{r["ece"]["value"]:.3f} ({plain_range(r["ece"])})',
      'safe from': 'never'
      if r['threshold'] is None
      else f'{r["threshold"]:.3f}',
      'JS to the one before': None
      if r['js_previous'] is None
      else f'{r["js_previous"]["value"]:.3f}',
    }
    for r in found['readouts'][:-1]
  ]
  return page.section(
    'Does confidence mean the same at every depth',
    page.panels(
      [
        ('Confidence against agreement', charts.reliability(found)),
        ('Calibration error by depth', charts.calibration_error(found)),
      ]
    ),
    page.table(rows),
    page.paragraph(
      f'Safe from: the least confidence from which on at least '
      f'{percent(found["agreement"])} agree with the full model. Between '
      f'depths it spreads by {found["threshold_spread"]:.2f}; the wider it '
      'spreads, the less one threshold serves all depths.'
    ),
  )


def _speculation(sections: Values) -> str:
  found = sections.get('speculation')
  if not found:
    return ''
  rows = [
    {
      'drafts from': f'depth {e["depth"]:g}'
      + (' (exit)' if group['readouts'] == 'exit' else ''),
      'drafts a round': e['length'],
      'agrees': percent(e['agreement']),
      'tokens a round': f'{e["yielded"]:.2f}',
      'predicted speed-up': f'{times(e["speedup"]["value"])} '
      f'({plain_range(e["speedup"])})',
    }
    for group in found['by_readouts']
    for e in group['exits']
  ]
  rows.sort(key=lambda r: str(r['predicted speed-up']), reverse=True)
  return page.section(
    'Without changing a token: self-speculation',
    page.panels([('Predicted speed-up by exit', charts.speculation(found))]),
    page.table(rows),
    page.paragraph(
      'An exit drafts, the full model verifies: the output is that of full '
      'decoding. Rounds are measured on the text, their cost is predicted: a '
      f'head takes {found["head"]:.2f} blocks, windows of drafts up to '
      f'{max(found["windows"].values()):.2f} times as long as a token, '
      + ('timed here. ' if sections.get('verdict') else 'by bytes read. ')
      + 'Below 1 it loses.'
    ),
  )


# MARK: Method


def _method(values: Values) -> str:
  parts = [page.bullets(_limits(values))]
  if values.get('commands'):
    commands = '\n'.join(values['commands'])
    parts += ['<h3>The command</h3>', f'<pre>{page.text(commands)}</pre>']
  if values.get('tables'):
    parts += [
      '<h3>Tables beside this page</h3>',
      page.paragraph(', '.join(f'tables/{t}.csv' for t in values['tables'])),
    ]
  facts = {k: str(v) for k, v in (values.get('environment') or {}).items()}
  about = values.get('about')
  if about:
    facts['backbone'] = about['backbone_hash'][:16] or 'unknown'
    facts['text, by hash'] = str(about['data'].get('hash', ''))[:16]
    facts['computed in'] = about['dtype']
  stages = values.get('stages') or ()
  parts += ['<h3>Environment</h3>', page.facts(facts)]
  if stages:
    parts += [
      '<h3>Time</h3>',
      page.table(
        [
          {'stage': s['name'], 'seconds': round(s['seconds'], 1)}
          for s in stages
        ]
      ),
    ]
  return page.section('How this was measured', *parts)


def _limits(values: Values) -> Sequence[str]:
  natural = values['sections'].get('natural') or {}
  limits = [
    'Texts are read teacher-forced, with exact keys and values: what an exit '
    'says is never fed back.',
    'Speed-ups here are predictions; eejax bench measures them.',
    'Every definition with its formula and source is in docs/analysis.md.',
  ]
  if natural:
    limits.insert(
      0,
      f'Intervals of {100 * natural["confidence"]:g} %: '
      f'{natural["intervals"]}.',
    )
  return limits


def _value(entry: Values, name: str, form: str) -> str | None:
  figure = entry['figures'].get(name)
  # A zero has no sign.
  return None if figure is None else form.format(round(figure['value'], 6) + 0)


def _share(entry: Values, name: str) -> str | None:
  figure = entry['figures'].get(name)
  if figure is None:
    return None
  return f'{100 * figure["value"]:.1f} ({percent_range(figure)})'
