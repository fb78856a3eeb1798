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

from collections.abc import Sequence

from eejax.report import page
from eejax.report.depth_sections import (
  confidence_section,
  natural_section,
  sublayers_section,
)
from eejax.report.formats import (
  Values,
  bounds,
  gate_name,
  percent,
  percent_bounds,
  times,
)
from eejax.report.gate_sections import (
  gates_section,
  speculation_section,
  suitability_section,
)
from eejax.report.model_sections import comparison_section, dynamics_section
from eejax.report.token_sections import (
  free_running_section,
  kv_damage_section,
  subwords_section,
  token_grid_section,
)


def render(values: Values) -> str:
  """Return the page as HTML.

  Args:
    values: what `analysis.json` holds; `sections` has the sections by name.
  """
  sections = values['sections']
  parts = [
    _opening(values),
    natural_section(sections.get('natural')),
    suitability_section(sections.get('suitability')),
    gates_section(sections.get('gates')),
    confidence_section(sections.get('confidence')),
    speculation_section(sections),
    sublayers_section(sections.get('sublayers')),
    subwords_section(sections.get('subwords')),
    free_running_section(sections),
    kv_damage_section(sections.get('kv_damage')),
    token_grid_section(sections.get('token_grid')),
    comparison_section(sections.get('comparison')),
    dynamics_section(sections.get('dynamics')),
    _method(values),
  ]
  return page.page(_title(values), '\n'.join(p for p in parts if p))


def _title(values: Values) -> str:
  return f'Early exit on {values["name"]}'


def _opening(values: Values) -> str:
  sections, about = values['sections'], values.get('about')
  parts = [f'<h1>{page.text(_title(values))}</h1>']
  if about is not None:
    facts = (
      f'{about["num_layers"]} blocks, vocabulary of {about["vocab_size"]}; '
      f'{_text_read(values)}. Made by eejax {values["version"]} on '
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


def _text_read(values: Values) -> str:
  natural = values['sections'].get('natural')
  if not natural:
    return f'text: {values["data"]}'
  tokens, rows = natural['tokens'], natural['rows']
  return f'{tokens} tokens of {values["data"]} in {rows} rows'


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
  suited = sections.get('suitability')
  if suited:
    ceilings = suited['headroom']
    entries.append(
      (
        percent(ceilings['stable']['value']),
        'of blocks an oracle could skip, stable depth '
        f'({percent_bounds(ceilings["stable"])})',
      )
    )
    chosen = suited['scores'][0] if suited['scores'] else None
    if chosen:
      entries.append(
        (
          f'{chosen["eas"]["value"]:.2f}',
          f'{chosen["name"]}: {chosen["settings"]} ({bounds(chosen["eas"])})',
        )
      )
  skip = best_skip(sections, budget=0.01)
  if skip:
    kind = 'trained exits' if skip['readouts'] == 'exit' else 'natural exits'
    entries.append(
      (
        percent(skip['skip']['value']),
        f'skipped by the best gate, {gate_name(skip["gate"])} at {kind}, with '
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


def best_skip(values: Values, *, budget: float) -> Values | None:
  """Return the largest SKIP@budget in agreement, natural or trained exits."""
  candidates = [
    {**skip, 'readouts': s['readouts']}
    for s in (values.get('gates') or {}).get('sweeps', ())
    for skip in s['skips']
    if skip['quality'] == 'agreement' and abs(skip['budget'] - budget) < 1e-9
  ]
  worth = lambda s: (gated_bound(values, s) or 1.0, _expected(s))
  return max(candidates, key=worth, default=None)


def gated_bound(values: Values, skip: Values) -> float | None:
  """Return the speed-up that exits could bring at most; None if unknown.

  Blocks and output matrices that are read count, by bytes; the keys and values
  of skipped blocks, which are due later, do not.
  """
  head = (values.get('speculation') or {}).get('head')
  about = (values.get('suitability') or {}).get('headroom')
  if head is None or not about:
    return None
  layers = about['depths'][-1]
  spent = layers * (1 - _expected(skip)) + head * skip['heads']
  return (layers + head) / spent


def best_speculation(values: Values) -> Values | None:
  """Return the fastest way to speculate."""
  candidates = [
    {**exit, 'readouts': group['readouts']}
    for group in (values.get('speculation') or {}).get('by_readouts', ())
    for exit in group['exits']
  ]
  return max(candidates, key=lambda s: s['speedup']['value'], default=None)


def _expected(skip: Values) -> float:
  held_out = skip['held_out_skip']
  return skip['skip']['value'] if held_out is None else held_out


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
