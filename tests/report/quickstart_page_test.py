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
"""Test the report on a hand-made summary."""

import copy
import html.parser
import re

import pytest

from eejax.report import page, quickstart_page

EVIL = '<script>alert("x")</script>&'


def interval(value):
  return {'value': value, 'low': value - 0.01, 'high': value + 0.01}


def head(name, depth, *, loss, agreement):
  return {
    'name': name,
    'depth': depth,
    'loss': interval(loss),
    'perplexity': interval(2.0**loss),
    'accuracy': interval(0.5),
    'agreement': interval(agreement),
    'loss_gap': interval(loss - 1),
  }


def setting(thresholds, *, calibrated=False):
  shares = [0.25, 0.25, 0.5]
  return {
    'thresholds': thresholds,
    'calibrated': calibrated,
    'measured': {'value': 1.31, 'low': 1.2, 'high': 1.5},
    'predicted': 1.4,
    'tokens_per_s': 321.0,
    'mean_depth': 8.25,
    'exit_shares': shares,
    'own_agreement': interval(0.99),
    'point': {
      'agreement': interval(0.975),
      'exit_shares': shares,
      'mean_depth': 8.0,
      'predicted_speedup': 1.25,
    },
  }


def make_summary():
  """Return a summary with two exits, at 3 and 6 of 12."""
  calibrated = setting([0.9, 0.8], calibrated=True)
  return {
    'version': '9.9',
    'created': '2030-01-02',
    'model': {
      'name': 'tiny',
      'family': 'llama',
      'num_layers': 12,
      'embed_dim': 16,
      'vocab_size': 29,
      'parameters': 12_300_000,
    },
    'data': {'name': 'some text'},
    'exit_kinds': {'exit_3': 'mlp', 'exit_6': 'norm'},
    'meaning': ['It is faster.'],
    'calibration': 'Thresholds were searched.',
    'limits': ['Nothing is guaranteed.'],
    'commands': ['eejax probe x'],
    'environment': {'jax': '0.0', 'cores': 2},
    'stages': [{'name': 'tuning', 'seconds': 61.23}],
    'probe': {
      'answer': 'no',
      'headline': 'No: it will not pay.',
      'sentences': ['There is room.'],
      'natural_exits': {
        'saved_if_stable': interval(0.3),
        'depths': [
          {
            'depth': d,
            'loss': interval(12.0 - d),
            'agreement': interval(d / 12),
            'first_match': 1 / 13,
            'stable': 1 / 13,
          }
          for d in range(13)
        ],
      },
    },
    'before': {
      'heads': [
        head('exit_3', 3, loss=5.0, agreement=0.2),
        head('exit_6', 6, loss=4.0, agreement=0.4),
        head('final', 12, loss=1.0, agreement=1.0),
      ]
    },
    'after': {
      'heads': [
        head('exit_3', 3, loss=2.5, agreement=0.6),
        head('exit_6', 6, loss=2.0, agreement=0.8),
        head('final', 12, loss=1.0, agreement=1.0),
      ]
    },
    'tuning': {
      'steps': 20,
      'tokens_per_step': 64,
      'curve': [
        {
          'step': step,
          'exit_3/loss': 5.0 - step / 8,
          'exit_6/loss': 4.0 - step / 10,
          'final/loss': 1.0,
          'exit_3/agreement': 0.2,
          'exit_6/agreement': 0.4,
        }
        for step in (0, 10, 20)
      ],
    },
    'sweep': {
      'exit_depths': [3, 6],
      'criterion': 'gate',
      'calibrated': {'target': 0.97, 'held_out': calibrated['point']},
      'criteria': [
        {
          'criterion': name,
          'calibrated': {'held_out': calibrated['point']},
          'coverage': [0.11, 0.47],
        }
        for name in ('gate', 'entropy')
      ],
    },
    'speed': {
      'settings': [setting([0.5, 0.5]), setting([None, None]), calibrated],
      'calibrated': calibrated,
    },
    'about_samples': 'Greedy text.',
    'samples': {
      'texts': [
        {
          'prompt': 'def f',
          'pieces': ['(x)', ':\n', '  return'],
          'depths': [3, 6, 12],
          'scores': [0.95, 0.85, None],
          'full_text': '(x):\n  return',
          'same_tokens': 3,
        }
      ]
    },
  }


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


def test_it_is_whole_and_says_what_there_is():
  page = Page(quickstart_page.render(make_summary()))
  for words in (
    '1.31x',
    'gate (used)',
    'entropy',
    'safe at 6',
    '47 %',
    '97.5 %',
    '8.2 of 12',
    'It is faster.',
    'There is room.',
    'No: it will not pay.',
    '5.000 \u2192 2.500',
    'Nothing is guaranteed.',
    'eejax probe x',
    'never',
    'tuning',
  ):
    assert words in page.text


def test_every_plot_is_there():
  page = Page(quickstart_page.render(make_summary()))
  titles = [v for k, v in page.attributes if k == 'aria-label']
  for words in (
    'Held-out loss of every exit over tuning',
    'Agreement with full decoding by threshold',
    'Speed-up over full decoding by threshold',
    'Agreement with the last depth, by depth',
    'Share of tokens emitted at each depth',
  ):
    assert words in titles


def test_nothing_is_fetched_and_nothing_runs():
  text = quickstart_page.render(make_summary())
  page = Page(text)
  assert not re.search(r'https?:|//|url\(|@import', text)
  assert not {'script', 'link', 'img', 'iframe'} & set(page.tags)
  names = {name for name, _ in page.attributes}
  assert not {'src', 'href', 'srcset'} & names
  assert not [n for n in names if n.startswith('on')]


def test_tokens_are_coloured_by_depth_and_tell_it():
  page = Page(quickstart_page.render(make_summary()))
  hints = [v for k, v in page.attributes if k == 'data-hint']
  assert hints == [
    'depth 3 of 12, score 0.950',
    'depth 6 of 12, score 0.850',
    'depth 12 of 12',
  ]
  hues = [v for k, v in page.attributes if k == 'style' and '--hue' in v]
  # Two exits, in the legend and in the text; full depth has no colour.
  assert len(hues) == 4 and len(set(hues)) == 2
  assert 'All 3 tokens are those of full decoding.' in page.text


def test_a_text_that_goes_its_own_way_says_so():
  summary = make_summary()
  summary['samples']['texts'][0]['same_tokens'] = 1
  page = Page(quickstart_page.render(summary))
  assert 'The first 1 of 3 tokens' in page.text


def poisoned(value):
  """Return a summary in which every text is markup; keys stay."""
  if isinstance(value, dict):
    return {k: v if k == 'name' else poisoned(v) for k, v in value.items()}
  if isinstance(value, list):
    return [poisoned(v) for v in value]
  return EVIL if isinstance(value, str) else value


def test_texts_are_escaped_wherever_they_come_from():
  summary = poisoned(copy.deepcopy(make_summary()))
  summary['model']['name'] = summary['data']['name'] = EVIL
  text = quickstart_page.render(summary)
  page = Page(text)
  assert 'script' not in page.tags
  assert EVIL in page.text


@pytest.mark.parametrize('exits', [1, 5, 9])
def test_any_number_of_exits(exits):
  levels = [*range(1, exits + 1), 12]
  text = page.coloured_tokens(
    ['a'] * len(levels), levels, ['hint'] * len(levels), levels=levels
  )
  hues = re.findall(r'--hue:(\d+)', text)
  assert len(set(hues)) == exits


def test_a_model_that_is_slower_is_called_slower():
  summary = make_summary()
  summary['speed']['calibrated']['measured']['value'] = 0.8
  assert 'slower' in Page(quickstart_page.render(summary)).text


def test_lossless_decoding_has_its_card_where_it_was_measured():
  summary = make_summary()
  words = 'as fast as full decoding, losslessly'
  assert words not in Page(quickstart_page.render(summary)).text
  summary['speed']['lossless'] = {'measured': {'value': 1.84}}
  text = Page(quickstart_page.render(summary)).text
  assert words in text and '1.84x' in text


def test_a_model_on_which_no_exit_pays_says_so():
  summary = make_summary()
  summary['speed']['calibrated']['thresholds'] = [None, None]
  text = Page(quickstart_page.render(summary)).text
  assert 'no thresholds keep 97 % agreement and save time' in text
