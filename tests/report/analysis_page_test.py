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
"""Test the sections, verdict, tables and page of an analysis."""

import copy
import csv
import html.parser
import io
import json
import re

import numpy as np
import pytest

from eejax import serialization
from eejax.analysis import sections as sections_lib
from eejax.analysis.comparison import compare
from eejax.analysis.dynamics import dynamics
from eejax.analysis.manifest import parse_manifest
from eejax.analysis.natural.kv_damage import Decider, compare_texts
from eejax.analysis.sections import SectionSettings
from eejax.analysis.suitability.speculation import SpeculationCost
from eejax.capture.capture import capture
from eejax.capture.captured import ReadoutKind
from eejax.capture.settings import CaptureConfig
from eejax.decoding.policy.policy import KVStrategy
from eejax.report import analysis_page
from eejax.report.analysis_page import render
from eejax.report.analysis_tables import _TABLES, as_csv, tables
from eejax.stats.bootstrap import Bootstrap
from eejax.testing.planted import PlantedPlan, planted_params, token_batch

FEW = SectionSettings(bootstrap=Bootstrap(draws=50))
PLAN = PlantedPlan.settling([1, 1, 1, 2, 2, 3, 3], num_layers=3, exits=(1, 2))


@pytest.fixture(scope='module')
def batches():
  random = np.random.default_rng(0)
  return [token_batch(*random.integers(0, 7, (2, 6, 8)))]


@pytest.fixture(scope='module')
def captured(batches):
  return capture(
    planted_params(PLAN),
    batches,
    config=PLAN.config,
    settings=CaptureConfig(kinds=tuple(ReadoutKind)),
  )


def damage(strategy):
  texts = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 9, 3, 4]]
  full = [[1, 2, 3, 4]] * 3
  return compare_texts(
    texts,
    full,
    depths=[np.full(4, 2)] * 3,
    num_layers=3,
    strategy=strategy,
    decider=Decider.GATE,
    stretch=2,
    bootstrap=FEW.bootstrap,
  )


@pytest.fixture(scope='module')
def sections(captured, batches):
  cost_of = lambda length: SpeculationCost(0.5, 1 + length / 10)
  manifest = parse_manifest(
    {
      'models': [
        {'name': 'a<b', 'checkpoint': 'x', 'release': '2024-07', 'kind': 'moe'},
        {'name': 'c', 'checkpoint': 'z', 'release': '2025', 'kind': 'dense'},
        {'name': 'broken', 'checkpoint': 'y', 'kind': 'dense'},
      ],
      'reference': 'a<b',
    }
  )

  def capture_of(entry, data):
    if entry.name == 'broken':
      raise OSError('no such disk')
    return captured

  steps = [(1, planted_params(PLAN)), (9, planted_params(PLAN))]
  grown = dynamics(steps, batches, config=PLAN.config, bootstrap=FEW.bootstrap)
  found = {
    'natural': sections_lib.natural(captured, FEW),
    'suitability': sections_lib.suitability(captured, FEW),
    'gates': sections_lib.gates(captured, FEW),
    'confidence': sections_lib.confidence(captured, FEW),
    'speculation': sections_lib.speculation(captured, FEW, cost_of=cost_of),
    'sublayers': sections_lib.sublayers(captured, FEW),
    'subwords': sections_lib.subwords(
      captured, FEW, texts=['', ' a', 'b', ' c', '1', '.', ' ']
    ),
    'free_running': sections_lib.free_running(captured, FEW),
    'kv_damage': {
      'wrong_tokens': damage(KVStrategy.DEFERRED),
      'by_strategy': {KVStrategy.COPY: damage(KVStrategy.COPY)},
      'new_tokens': 4,
      'exits': 'natural',
      'exit_depths': [1, 2],
      'threshold': 0.5,
      'prompts': 3,
    },
    'token_grid': sections_lib.token_grid(
      captured, piece_of=lambda t, before: f'<{t}">\n', most_tokens=5
    ),
    'comparison': compare(manifest, capture_of, bootstrap=FEW.bootstrap),
    'dynamics': {'steps': grown.steps, 'saved_change': grown.saved_change},
  }
  return json.loads(serialization.dumps(found))


@pytest.fixture
def values(sections, captured):
  return copy.deepcopy(
    {
      'name': 'planted & co',
      'data': 'seeds',
      'about': json.loads(serialization.dumps(sections_lib.describe(captured))),
      'sections': sections,
      'failures': {},
      'commands': ['eejax analyse x'],
      'tables': sorted(tables(sections)),
      'version': '0',
      'created': 'today',
      'environment': {'cores': 2},
      'stages': [{'name': 'capture', 'seconds': 1.0}],
    }
  )


class Page(html.parser.HTMLParser):
  """Read a page: its tags, attributes and text; complain of loose ends."""

  VOID = {'meta', 'br'}

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], [], [], ''
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


class TestPage:
  def test_every_section_and_figure_is_there(self, values):
    page = Page(render(values))
    for words in (
      'Early exit on planted & co',
      'What every depth says',
      'How suited the model is',
      'EAS (eejax definition)',
      'logit_cosine, alpha 0.5, depths 1 to L-1, all positions',
      'What gates know',
      'Does confidence mean the same at every depth',
      'self-speculation',
      'Exits inside blocks',
      'Which tokens settle early',
      'On text that it writes itself',
      'What approximate keys and values do to a text',
      'A text, token by depth',
      'Models compared',
      'broken on stdlib: stopped by OSError (no such disk).',
      'Over the training',
      'tables/skip_at_budget.csv',
      'eejax analyse x',
    ):
      assert words in page.text, words
    titles = [v for k, v in page.attributes if k == 'aria-label']
    for words in (
      'Agreement with the full model by depth',
      'Similarity to the full model by depth',
      'accuracy by skip',
      'Share of tokens that leave at each depth',
      'Score by release date',
      'Similarity by depth and step',
    ):
      assert words in titles, words

  def test_the_verdict_comes_before_every_number(self, values):
    values['sections'] |= {
      'verdict': {
        'kind': 'no',
        'headline': 'No: slow.',
        'sentences': ['Why.'],
        'ways': [{'way': 'lossless', 'speed-up': 0.9}],
      }
    }
    page = Page(render(values))
    assert ('class', 'verdict no') in page.attributes
    end = page.text.index('What every depth says')
    for words in ('No: slow.', 'Why.', 'lossless'):
      assert page.text.index(words) < end

  def test_without_a_verdict_there_is_no_answer(self, values):
    kinds = [v for k, v in Page(render(values)).attributes if k == 'class']
    assert not [kind for kind in kinds if kind.startswith('verdict')]

  def test_nothing_is_fetched_and_nothing_runs(self, values):
    text = render(values)
    page = Page(text)
    assert not re.search(r'https?:|//|url\(|@import', text)
    assert not {'script', 'link', 'img', 'iframe'} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {'src', 'href', 'srcset'} & names
    assert not [n for n in names if n.startswith('on')]

  def test_the_map_of_tokens_tells_candidates_at_every_depth(self, values):
    page = Page(render(values))
    hints = [v for k, v in page.attributes if k == 'data-hint']
    assert len(hints) == 5 * 4
    grid = values['sections']['token_grid']
    token = grid['tokens'][0]
    assert hints[0].startswith(f'depth 0 after {token!r}\n')
    assert '90.0 %' in hints[3] and f'text: {grid["targets"][0]!r}' in hints[3]
    # A token settles once in its line, where the plan says.
    kinds = [v for k, v in page.attributes if k == 'class' and 'reading' in v]
    settled = [i % 4 for i, kind in enumerate(kinds) if 'settled' in kind]
    assert settled == grid['settled']

  def test_texts_are_escaped(self, values):
    values['name'] = '<script>'
    values['failures'] = {'<b>': '<i>'}
    page = Page(render(values))
    assert not {'script', 'i'} & set(page.tags)
    assert '<i>' in page.text

  @pytest.mark.parametrize(
    'missing',
    [
      'natural',
      'suitability',
      'gates',
      'speculation',
      'comparison',
      'token_grid',
    ],
  )
  def test_a_missing_section_leaves_the_rest(self, values, missing):
    del values['sections'][missing]
    values['failures'] = {missing: 'it broke.'}
    page = Page(render(values))
    assert f'{missing}: it broke.' in page.text
    assert 'Does confidence mean the same' in page.text

  def test_where_nothing_leaves_early_there_is_no_damage(self, values):
    values['sections']['kv_damage'] = {'nothing': 'No threshold <does>.'}
    assert 'No threshold <does>.' in Page(render(values)).text
    assert 'kv_damage' not in tables(values['sections'])

  def test_without_a_model_what_was_compared_is_shown(self, values):
    kept = values['sections']
    values['sections'] = {'comparison': kept['comparison']}
    values['about'] = None
    text = Page(render(values)).text
    assert 'Models compared' in text
    assert 'should pay' not in text


class TestSections:
  def test_sections_follow_the_plan(self, sections, captured):
    tokens = captured.token
    settles = np.array([1, 1, 1, 2, 2, 3, 3])[tokens]
    ceiling = sections['suitability']['headroom']['stable']['value']
    assert ceiling == pytest.approx((1 - settles / 3).mean())
    natural, trained = sections['gates']['sweeps']
    assert (natural['readouts'], trained['readouts']) == ('natural', 'exit')
    assert natural['skips'][0]['skip']['value'] == pytest.approx(ceiling)
    # Planted exits are those of nature at the same depths.
    assert trained['skips'][0]['skip']['value'] == pytest.approx(ceiling)
    assert sections['sublayers']['stable']['saved']['value'] == 0

  def test_a_deep_model_s_map_shows_some_depths(self):
    assert sections_lib.spread(13, most=16) == list(range(13))
    shown = sections_lib.spread(81, most=16)
    assert len(shown) == 16 and shown[0] == 0 and shown[-1] == 80

  def test_attention_that_was_not_read_is_no_section(self, captured):
    natural = captured.only(ReadoutKind.NATURAL)
    assert sections_lib.sublayers(natural, FEW) is None


class TestCards:
  def test_the_bound_counts_blocks_and_heads(self, sections):
    skip = {'skip': {'value': 0.5}, 'held_out_skip': None, 'heads': 2.0}
    # 3 blocks and half a block's head, of which half the blocks are run.
    assert analysis_page.gated_bound(sections, skip) == pytest.approx(
      3.5 / (1.5 + 1.0)
    )
    assert analysis_page.gated_bound({}, skip) is None


class TestTables:
  def test_csv_files_hold_the_numbers(self, sections):
    found = tables(sections)
    rows = list(csv.DictReader(io.StringIO(as_csv(found['scores']))))
    scores = sections['suitability']['scores']
    assert [float(r['eas']) for r in rows] == [
      s['eas']['value'] for s in scores
    ]
    assert {'eas_low', 'eas_high', 'settings'} <= set(rows[0])
    points = sections['gates']['sweeps'][0]['points']
    assert len(found['gate_sweeps']) >= len(points)
    assert found['models'][2]['failures'].startswith('broken on')
    for rows in found.values():
      assert as_csv(rows).count('\n') == len(rows) + 1

  def test_every_table_comes_from_a_section(self, sections):
    assert tables({}) == {}
    assert set(tables(sections)) == set(_TABLES)
