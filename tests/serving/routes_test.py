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
"""Test models, tokens, metrics, EE-LLM's route and the page."""

import html.parser
import re

import pytest

import eejax
from eejax.serving import page
from eejax.version import __version__

PROMPT = 'alpha beta'


def test_models_are_listed_with_their_exits(client):
  cards = list(client.models.list())
  assert [card.id for card in cards] == ['tiny', 'again']
  assert cards[0].max_model_len == 64
  assert cards[0].eejax['levels'] == [1, 3, 4]
  assert client.models.retrieve('again').id == 'again'


def test_tokens_there_and_back(http, model):
  body = {'model': 'tiny', 'prompt': PROMPT, 'return_token_strs': True}
  found = http.post('/tokenize', json=body).json()
  ids = model.tokenizer.encode(PROMPT, add_bos=True)
  assert found['tokens'] == ids and found['count'] == len(ids)
  assert len(found['token_strs']) == len(ids)
  assert found['max_model_len'] == 64
  body['add_special_tokens'] = False
  assert http.post('/tokenize', json=body).json()['tokens'] == ids[1:]
  answer = http.post('/detokenize', json={'model': 'tiny', 'tokens': ids})
  assert answer.json() == {'prompt': PROMPT}
  wrong = http.post('/detokenize', json={'model': 'tiny', 'tokens': [300]})
  assert wrong.status_code == 400


def test_health_and_version(http):
  assert http.get('/health').json() == {'status': 'ready'}
  assert http.get('/version').json() == {'version': __version__}


def test_metrics_count_what_was_done(running, client, model):
  labels = {'model_name': 'again'}
  names = {
    'prompt_tokens_total': 0,
    'generation_tokens_total': 0,
    'request_success_total': 0,
    'blocks_run_total': 0,
    'blocks_full_total': 0,
    'exit_depth_count': 0,
    'exit_depth_sum': 0,
    'time_to_first_token_seconds_count': 0,
    'e2e_request_latency_seconds_count': 0,
    'request_queue_time_seconds_count': 0,
    'request_prefill_time_seconds_count': 0,
    'request_decode_time_seconds_count': 0,
  }
  before = {name: running.metric(name, **labels) for name in names}
  settings = {'mode': 'early_exit', 'threshold': 0.3}
  found = client.completions.create(
    model='again',
    prompt=PROMPT,
    max_tokens=10,
    temperature=0,
    extra_body={'eejax': settings},
  )
  grown = {
    name: running.metric(name, **labels) - before[name] for name in names
  }
  row = eejax.generate(
    model, [PROMPT], mode='early_exit', thresholds=0.3, max_new_tokens=10
  ).rows[0]
  assert grown == {
    **dict.fromkeys(names, 1),
    'prompt_tokens_total': found.usage.prompt_tokens,
    'generation_tokens_total': 10,
    'blocks_run_total': row.accounting.blocks_run,
    'blocks_full_total': 40,
    'exit_depth_count': 10,
    'exit_depth_sum': sum(row.exit_depths),
  }
  assert found.choices[0].eejax['accounting']['blocks_full'] == 40


def test_metrics_tell_drafters_apart(running, client):
  def drafted(kind, drafter):
    return running.metric(
      f'spec_decode_num_{kind}_tokens_total', drafter=drafter
    )

  def windows():
    places = [
      running.metric(
        'spec_decode_num_accepted_tokens_per_pos_total', position=str(i)
      )
      for i in range(3)
    ]
    return [running.metric('spec_decode_num_drafts_total'), *places]

  before = drafted('draft', 'exit'), drafted('accepted', 'exit')
  windows_before = windows()
  found = client.completions.create(
    model='tiny',
    prompt=PROMPT,
    max_tokens=30,
    temperature=0,
    extra_body={
      'eejax': {
        'policy': {
          'mode': 'speculative',
          'thresholds': [0.0],
          'draft_length': 3,
          'draft_depth': 3,
        }
      }
    },
  )
  work = found.choices[0].eejax['accounting']
  assert work['drafted'] > 0
  assert drafted('draft', 'exit') - before[0] == work['drafted']
  assert drafted('accepted', 'exit') - before[1] == work['accepted']
  grown = [a - b for a, b in zip(windows(), windows_before, strict=True)]
  assert grown == [work['draft_windows'], *work['accepted_at'][:3]]
  assert sum(grown[1:]) == work['accepted'] and grown[0] >= grown[1]
  length = 1 + work['accepted'] / work['draft_windows']
  assert work['acceptance_length'] == length


# MARK: EE-LLM


def test_ee_llm_clients_are_answered(http, model):
  body = {
    'prompts': [PROMPT, 'gamma'],
    'tokens_to_generate': 6,
    'use_early_exit': True,
    'early_exit_thres': 0.4,
    'logprobs': True,
  }
  found = http.put('/api', json=body).json()
  rows = eejax.generate(
    model,
    [PROMPT, 'gamma'],
    mode='early_exit',
    criterion='max_prob',
    thresholds=0.4,
    max_new_tokens=6,
  ).rows
  assert found['text'] == [row.text for row in rows]
  assert found['exit_depths'] == [list(row.exit_depths) for row in rows]
  assert [len(s) for s in found['segments']] == [6, 6]
  for logprobs, row in zip(found['logprobs'], rows, strict=True):
    assert logprobs == pytest.approx(list(row.logprobs), abs=1e-4)
  assert found['requst_time'] > 0


def test_ee_llm_defaults_are_full_depth_and_greedy(http, model):
  body = {'prompts': PROMPT, 'tokens_to_generate': 5, 'echo_prompts': True}
  expected = eejax.generate(model, [PROMPT], max_new_tokens=5).rows[0]
  for more in ({}, {'use_early_exit': True}, {'early_exit_thres': 0.1}):
    found = http.put('/api', json={**body, **more}).json()
    assert found['text'] == [PROMPT + expected.text]
    assert found['exit_depths'] == [[4] * 5]


@pytest.mark.parametrize(
  'body, words',
  [
    ({}, 'prompts'),
    ({'prompts': []}, 'empty'),
    ({'prompts': ['a'] * 129}, 'at most 128'),
    ({'prompts': 'a', 'tokens_to_generate': -1}, 'at least 0'),
    ({'prompts': 'a', 'temperature': 101}, 'at most 100'),
    ({'prompts': 'a', 'top_k': 3, 'top_p': 0.5}, 'both'),
    ({'prompts': 'a', 'exit_layers': [2]}, '1, 3'),
    ({'prompts': 'a', 'exit_layers': [[1]]}, '1, 3'),
    ({'prompts': 'a', 'stop_sequences': ['']}, 'empty'),
  ],
)
def test_ee_llm_wrong_fields(http, body, words):
  response = http.put('/api', json=body)
  assert response.status_code == 400
  assert words in response.json()['error']['message']


# MARK: The page


class Reader(html.parser.HTMLParser):
  """Collects what a page is made of."""

  def __init__(self):
    super().__init__()
    self.elements = []

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))


@pytest.fixture(scope='module')
def elements():
  reader = Reader()
  reader.feed(page.HTML)
  return reader.elements


def test_the_page_is_served_with_a_policy_for_its_content(running):
  with running.http(headers={}) as http:
    response = http.get('/')
  assert response.text == page.HTML
  policy = response.headers['content-security-policy']
  assert "default-src 'none'" in policy and "connect-src 'self'" in policy
  assert policy.count('sha256-') == 3


def test_the_page_fetches_nothing_from_elsewhere(elements):
  for tag, attributes in elements:
    assert tag not in ('link', 'img', 'iframe', 'base')
    assert 'src' not in attributes and 'href' not in attributes
    assert not any(name.startswith('on') for name in attributes)
    assert 'style' not in attributes
  assert 'http://' not in page.HTML and 'https://' not in page.HTML


def test_every_control_of_the_page_has_a_name(elements):
  labelled = {a['for'] for tag, a in elements if tag == 'label'}
  ids = [a['id'] for _, a in elements if 'id' in a]
  assert len(ids) == len(set(ids))
  controls = [
    a for tag, a in elements if tag in ('input', 'select', 'textarea')
  ]
  assert len(controls) >= 6
  assert {control['id'] for control in controls} <= labelled
  live = [a for _, a in elements if a.get('aria-live') or a.get('role')]
  assert {a.get('role') for a in live} == {'alert', 'status'}
  assert ('html', {'lang': 'en'}) in elements
  viewport = [a for tag, a in elements if a.get('name') == 'viewport']
  assert viewport[0]['content'] == 'width=device-width,initial-scale=1'


def test_the_script_uses_elements_that_are_there(elements):
  ids = {a['id'] for _, a in elements if 'id' in a}
  used = set(re.findall(r"\$\('(\w+)'\)", page.HTML))
  assert used and used <= ids


def test_what_the_page_asks_is_answered(running, http):
  """Send what the script sends, to the routes that it names."""
  routes = set(re.findall(r"'(v1/[\w/]+)'", page.HTML))
  assert routes == {'v1/models', 'v1/completions', 'v1/chat/completions'}
  own = http.get('/v1/models').json()['data'][0]
  assert own['eejax']['policy']['mode'] == 'full'
  body = {
    'model': own['id'],
    'prompt': PROMPT,
    'stream': True,
    'max_tokens': 6,
    'temperature': 0,
    'eejax': {'mode': 'early_exit', 'threshold': [0.3, 'never']},
  }
  with http.stream('POST', '/v1/completions', json=body) as response:
    assert response.headers['content-type'].startswith('text/event-stream')
    text = response.read().decode()
  assert '"pieces"' in text and '"exit_depths"' in text
  assert '"blocks_run"' in text
