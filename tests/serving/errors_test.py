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
"""Test that each wrong request is answered as the protocol has it."""

import dataclasses
import socket
import time

import jax.numpy as jnp
import openai
import pytest

from eejax.decoding.policy.modes import Mode
from eejax.decoding.policy.policy import Policy

ASKED = {'model': 'tiny', 'prompt': 'alpha', 'max_tokens': 2}
OTHERS = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,), backbone_hash='0' * 64)


def refusal(http, body, *, route='/v1/completions', status=400):
  response = http.post(route, json=body)
  assert response.status_code == status, response.text
  error = response.json()['error']
  assert set(error) == {'message', 'type', 'param', 'code'}
  assert error['message'].endswith('.')
  return error


@pytest.mark.parametrize(
  'change, param, words',
  [
    ({'prompt': None}, 'prompt', 'missing'),
    ({'prompt': 5}, 'prompt', 'not a number'),
    ({'prompt': []}, 'prompt', 'empty'),
    ({'prompt': ['a', 5]}, 'prompt', 'prompt 1'),
    ({'prompt': [3, True]}, 'prompt', 'must be'),
    ({'prompt': [3, 300]}, 'prompt', 'token 300'),
    ({'prompt': [3, -1]}, 'prompt', 'token -1'),
    ({'messages': [{'role': 'user', 'content': 'a'}]}, 'messages', 'not both'),
    ({'model': 7}, 'model', 'a string'),
    ({'max_tokens': '2'}, 'max_tokens', 'whole number'),
    ({'max_tokens': 2.5}, 'max_tokens', 'whole number, not a decimal'),
    ({'max_tokens': True}, 'max_tokens', 'not a boolean'),
    ({'max_tokens': -1}, 'max_tokens', 'at least 0'),
    ({'max_tokens': 0}, 'max_tokens', 'echo'),
    ({'max_tokens': 64}, 'prompt', 'maximum context length is 64'),
    ({'prompt': [3] * 64}, 'prompt', 'maximum context length is 64'),
    ({'prompt': 'alpha ' * 200}, 'prompt', 'maximum context length is 64'),
    ({'temperature': -0.1}, 'temperature', 'at least 0'),
    ({'temperature': 'hot'}, 'temperature', 'a number'),
    ({'temperature': 10**400}, 'temperature', 'at most 100'),
    ({'min_tokens': 3}, 'min_tokens', 'at most max_tokens, which is 2'),
    ({'prompt': [[3]] * 65, 'n': 64}, 'prompt', 'at most 4096 texts'),
    ({'eejax': {'threshold': -(10**400)}}, 'eejax.threshold', 'threshold'),
    ({'top_p': 0}, 'top_p', 'top-p'),
    ({'top_p': 1.5}, 'top_p', 'at most 1'),
    ({'min_p': 2}, 'min_p', 'at most 1'),
    ({'top_k': -2}, 'top_k', 'at least -1'),
    ({'seed': 'x'}, 'seed', 'whole number'),
    ({'seed': 2**80}, 'seed', 'at most'),
    ({'n': 0}, 'n', 'at least 1'),
    ({'n': 65}, 'n', 'at most 64'),
    ({'best_of': 3}, 'best_of', 'not supported'),
    ({'logprobs': 21}, 'logprobs', 'at most 20'),
    ({'logprobs': True}, 'logprobs', 'whole number'),
    ({'prompt_logprobs': 21}, 'prompt_logprobs', 'at most 20'),
    ({'prompt_logprobs': 1, 'stream': True}, 'prompt_logprobs', 'stream'),
    ({'stop': 5}, 'stop', 'strings'),
    ({'stop': ['a', 5]}, 'stop', 'strings'),
    ({'stop': ['']}, 'stop', 'empty'),
    ({'stop': ['a'] * 17}, 'stop', 'at most 16'),
    ({'stop_token_ids': [300]}, 'stop_token_ids', 'token 300'),
    ({'stop_token_ids': [5] * 17}, 'stop_token_ids', 'at most 16'),
    ({'logit_bias': {'x': 1}}, 'logit_bias', 'token id'),
    ({'logit_bias': {'300': 1}}, 'logit_bias', 'token 300'),
    ({'logit_bias': {'3': 101}}, 'logit_bias.3', 'at most 100'),
    ({'stream': 1}, 'stream', 'a boolean'),
    ({'stream_options': {}}, 'stream_options', 'stream: true'),
    ({'presence_penalty': 0.5}, 'presence_penalty', 'not supported'),
    ({'suffix': 'x'}, 'suffix', 'not supported'),
    ({'eejax': 5}, 'eejax', 'an object'),
    ({'eejax': {'mood': 1}}, 'eejax', 'eejax.mood'),
    ({'eejax': {'mode': 'fast'}}, 'eejax.mode', 'one of full'),
    ({'eejax': {'threshold': 2}}, 'eejax.threshold', r'\[0, 1\]'),
    ({'eejax': {'threshold': 'low'}}, 'eejax.threshold', 'threshold'),
    ({'eejax': {'threshold': [0.1] * 3}}, 'eejax', '3 thresholds for 2'),
    ({'eejax': {'criterion': 'luck'}}, 'eejax', 'luck'),
    ({'eejax': {'mode': 'full', 'threshold': 0.5}}, 'eejax', 'no exits'),
    ({'eejax': {'max_depth': 2}}, 'eejax', 'no exit at depth 2'),
    ({'eejax': {'policy': {'mode': 'x'}}}, 'eejax.policy', 'mode'),
    ({'eejax': {'policy': OTHERS.to_json()}}, 'eejax', 'another model'),
  ],
)
def test_wrong_fields(http, change, param, words):
  error = refusal(http, {**ASKED, **change})
  assert error['type'] == 'invalid_request_error'
  assert error['param'] == param
  with pytest.raises(ValueError, match=words):
    raise ValueError(error['message'])


def test_too_many_tokens_have_a_code(http):
  error = refusal(http, {**ASKED, 'max_tokens': 64})
  assert error['code'] == 'context_length_exceeded'


@pytest.mark.parametrize(
  'body',
  [
    b'{"model": "tiny", "prompt": "\xff\xfe"}',
    b'{"model": ',
    b'[1, 2]',
    b'',
    b'"text"',
    b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
    b'{"model": "tiny", "prompt": "\\ud800"}',
    b'{"model": "\\uDFFF", "prompt": "a"}',
    b'{"a":' * 20_000,
    b'{"seed": ' + b'9' * 10_000 + b'}',
  ],
  ids=[
    'utf-8',
    'cut',
    'array',
    'empty',
    'string',
    'nan',
    'half a pair',
    'half a pair in a name',
    'nested',
    'digits',
  ],
)
def test_bodies_that_are_no_request(http, body):
  response = http.post('/v1/completions', content=body)
  assert response.status_code == 400
  assert response.json()['error']['type'] == 'invalid_request_error'


def test_the_client_raises_its_own_errors(client, running):
  with pytest.raises(openai.NotFoundError) as missing:
    client.completions.create(**{**ASKED, 'model': 'huge'})
  assert (missing.value.code, missing.value.param) == (
    'model_not_found',
    'model',
  )
  with pytest.raises(openai.BadRequestError) as wrong:
    client.completions.create(**ASKED, temperature=-1)
  assert wrong.value.param == 'temperature'
  for key in ('another key', 'a key of the test'):
    with running.client(api_key=key) as stranger:
      with pytest.raises(openai.AuthenticationError) as refused:
        stranger.completions.create(**ASKED)
    assert refused.value.code == 'invalid_api_key'


def test_every_route_but_three_and_the_page_asks_for_a_key(running):
  with running.http(headers={}) as stranger:
    for path in ('/', '/health', '/metrics', '/version'):
      assert stranger.get(path).status_code == 200
    for path in ('/v1/models', '/tokenizer_info', '/nowhere'):
      response = stranger.get(path)
      assert response.status_code == 401
      assert response.json()['error']['code'] is None
    for path in ('/v1/completions', '/v1/chat/completions', '/tokenize'):
      assert stranger.post(path, json=ASKED).status_code == 401
    assert stranger.put('/api', json={'prompts': 'a'}).status_code == 401


def test_routes_and_methods_that_are_not_there(http):
  for response, status in (
    (http.get('/v1/nothing'), 404),
    (http.get('/v1/completions'), 405),
    (http.get('/v1/models/huge'), 404),
  ):
    assert response.status_code == status
    assert response.json()['error']['type'] == 'invalid_request_error'


def test_a_body_that_is_too_large(model, start):
  with start({'tiny': model}, max_body_bytes=2000) as running:
    with running.http() as http:
      response = http.post(
        '/v1/completions', json={**ASKED, 'prompt': 'a' * 3000}
      )
      assert response.status_code == 413
      assert response.json()['error']['code'] == 'request_too_large'

      def parts():
        for _ in range(5):
          yield b'a' * 1000

      assert http.post('/v1/completions', content=parts()).status_code == 413
      assert http.post('/v1/completions', json=ASKED).status_code == 200


def test_slow_senders_are_cut_off(model, start):
  with start(
    {'tiny': model}, body_timeout_s=0.3, header_timeout_s=0.3
  ) as running:
    host, port = running.address.split(':')
    with socket.create_connection((host, int(port)), timeout=20) as silent:
      assert silent.recv(100) == b''
    with socket.create_connection((host, int(port)), timeout=20) as slow:
      slow.sendall(
        b'POST /v1/completions HTTP/1.1\r\nHost: a\r\n'
        b'Authorization: Bearer a key of the tests\r\n'
        b'Content-Length: 100\r\n\r\n{"model"'
      )
      answer = slow.recv(4000)
    assert answer.startswith(b'HTTP/1.1 408')


def test_too_many_texts_get_429(model, start):
  limits = {'slots': 1, 'max_waiting': 2, 'ticks_per_step': 1}
  with start({'tiny': model}, **limits) as running:
    with running.client() as client:
      with pytest.raises(openai.RateLimitError) as refused:
        client.completions.create(**ASKED, n=4)
      assert refused.value.response.headers['retry-after'] == '1'
      assert refused.value.code == 'rate_limit_exceeded'
      assert len(client.completions.create(**ASKED, n=3).choices) == 3


def test_too_many_requests_get_429(model, start):
  with start({'tiny': model}, max_in_flight=1) as running:
    host, port = running.address.split(':')
    # A request is under way for as long as its body is.
    with socket.create_connection((host, int(port)), timeout=20) as slow:
      slow.sendall(
        b'POST /v1/completions HTTP/1.1\r\nHost: a\r\n'
        b'Authorization: Bearer a key of the tests\r\n'
        b'Content-Length: 100\r\n\r\n{'
      )
      end = time.monotonic() + 10
      with running.http() as http:
        response = http.get('/v1/models')
        while response.status_code == 200 and time.monotonic() < end:
          response = http.get('/v1/models')
    assert response.status_code == 429
    assert int(response.headers['retry-after']) >= 1


def test_an_answer_that_takes_too_long(model, start):
  with start({'tiny': model}, request_timeout_s=0.001) as running:
    with running.client() as client:
      with pytest.raises(openai.InternalServerError) as late:
        client.completions.create(**{**ASKED, 'max_tokens': 50})
      assert late.value.status_code == 504
    # Its slot is free again.
    end = time.monotonic() + 10
    while running.num_under_way() and time.monotonic() < end:
      time.sleep(0.01)
    assert running.num_under_way() == 0


def test_logits_that_are_no_numbers(model, start):
  backbone = model.params['backbone']
  table = backbone['embedding']['table'].at[13].set(jnp.nan)
  params = {
    **model.params,
    'backbone': {**backbone, 'embedding': {'table': table}},
  }
  broken = dataclasses.replace(model, params=params)
  with start({'tiny': broken}) as running, running.client() as client:
    with pytest.raises(openai.InternalServerError) as failed:
      client.completions.create(**{**ASKED, 'prompt': [3, 13]})
    assert failed.value.code == 'non_finite_logits'
    stream = client.completions.create(
      **{**ASKED, 'prompt': [3, 13]}, stream=True
    )
    with pytest.raises(openai.APIError, match='no finite numbers'):
      list(stream)
