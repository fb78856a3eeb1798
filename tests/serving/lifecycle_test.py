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
"""Test clients that leave, engines that fail, and a server told to stop."""

import asyncio
import json
import logging
import socket
import threading
import time

import httpx
import openai
import pytest

import eejax
from eejax.decoding.engine import Engine

LONG = {
  'model': 'tiny',
  'prompt': 'alpha',
  'max_tokens': 55,
  'temperature': 0,
}


@pytest.fixture
def slow_engine(monkeypatch):
  """Return what makes engines wait for a semaphore before each step."""
  may_step = threading.Semaphore(0)
  step = Engine.step

  def one_step(engine):
    may_step.acquire()
    return step(engine)

  def install():
    monkeypatch.setattr(Engine, 'step', one_step)
    return may_step

  yield install
  may_step.release(10_000)


def wait_for(condition):
  end = time.monotonic() + 30
  while not condition():
    assert time.monotonic() < end, 'it did not happen in time'
    time.sleep(0.005)


def send(running, body):
  """Send a request; return the socket, which is there to be closed."""
  host, port = running.address.split(':')
  content = json.dumps(body).encode()
  head = (
    f'POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer '
    f'a key of the tests\r\nContent-Length: {len(content)}\r\n\r\n'
  )
  connection = socket.create_connection((host, int(port)), timeout=30)
  connection.sendall(head.encode() + content)
  return connection


@pytest.mark.parametrize('is_streamed', [False, True])
def test_a_client_that_leaves_frees_its_slot_at_the_next_step(
  model, start, slow_engine, is_streamed
):
  with start({'tiny': model}, slots=1, ticks_per_step=1) as running:
    (scheduler,) = running.service.models['tiny'].schedulers
    steps = slow_engine()
    steps.release()
    with send(running, {**LONG, 'stream': is_streamed}) as connection:
      wait_for(lambda: scheduler.num_running == 1)
      if is_streamed:
        assert connection.recv(1000).startswith(b'HTTP/1.1 200')
    wait_for(lambda: running.num_under_way() == 0)
    assert running.metric('request_aborted_total') == 1
    # The step that was begun already, and the slot is another text's.
    steps.release(2)
    with running.client() as client:
      found = client.completions.create(**{**LONG, 'max_tokens': 1})
    assert found.choices[0].finish_reason == 'length'
    assert running.metric('generation_tokens_total') == 2


def test_after_many_that_time_out_one_is_answered_soon(model, start):
  with start({'tiny': model}, slots=4, max_waiting=300) as running:

    async def ask():
      async with running.async_client() as client:
        late = [
          client.completions.create(**LONG, timeout=0.001) for _ in range(200)
        ]
        found = await asyncio.gather(*late, return_exceptions=True)
        assert all(isinstance(f, openai.APITimeoutError) for f in found)
        return await client.completions.create(**LONG, timeout=5)

    assert asyncio.run(ask()).usage.completion_tokens == 55
    wait_for(lambda: running.num_under_way() == 0)


def test_draining_finishes_what_is_under_way(model, start, slow_engine):
  with start({'tiny': model}, ticks_per_step=4) as running:
    steps = slow_engine()
    with running.client() as client, running.http() as http:
      steps.release()
      stream = client.completions.create(**LONG, stream=True)
      chunks = [next(stream)]
      assert http.get('/health').json() == {'status': 'ready'}
      running.server.stop()
      response = http.post('/v1/completions', json=LONG)
      assert response.status_code == 503
      assert int(response.headers['retry-after']) >= 1
      assert response.json()['error']['type'] == 'server_error'
      assert http.get('/health').status_code == 503
      assert http.get('/health').json() == {'status': 'draining'}
      steps.release(1000)
      chunks += list(stream)
    running.thread.join(timeout=20)
    assert not running.thread.is_alive()
  text = ''.join(chunk.choices[0].text for chunk in chunks)
  expected = eejax.generate(model, ['alpha'], max_new_tokens=55).rows[0]
  assert text == expected.text
  with pytest.raises(httpx.ConnectError):
    httpx.get(f'{running.url}/health')


def test_an_engine_that_fails_is_told_everywhere(
  model, start, monkeypatch, caplog
):
  with start({'tiny': model}) as running:
    with running.client() as client, running.http() as http:
      client.completions.create(**{**LONG, 'max_tokens': 1})

      def fail(engine):
        raise RuntimeError('it read: secret words')

      monkeypatch.setattr(Engine, 'step', fail)
      for _ in range(2):
        with pytest.raises(openai.InternalServerError) as failed:
          client.completions.create(**LONG)
        assert failed.value.status_code == 503
        assert 'engine has failed' in failed.value.message
      assert http.get('/health').status_code == 503
      assert http.get('/health').json() == {'status': 'failed'}
  assert 'RuntimeError' in caplog.text
  assert 'secret words' not in caplog.text


def test_an_engine_that_cannot_be_made_refuses_its_own_request_alone(
  model, start, monkeypatch
):
  with start({'tiny': model}) as running:
    with running.client() as client, running.http() as http:
      asked = {**LONG, 'max_tokens': 1}
      more = {'extra_body': {'eejax': {'max_depth': 1}}}
      warm_up = Engine.warm_up

      def fail(engine):
        raise MemoryError('no room')

      monkeypatch.setattr(Engine, 'warm_up', fail)
      with pytest.raises(openai.InternalServerError) as failed:
        client.completions.create(**asked, **more)
      assert failed.value.code == 'engine_not_made'
      assert http.get('/health').json() == {'status': 'ready'}
      client.completions.create(**asked)
      # It is made once it can be.
      monkeypatch.setattr(Engine, 'warm_up', warm_up)
      found = client.completions.create(**asked, **more)
      assert found.choices[0].eejax['exit_depths'] == [1]


def test_a_server_whose_engine_cannot_be_made_is_not_well(
  model, start, monkeypatch
):
  def fail(engine):
    raise MemoryError('no room')

  monkeypatch.setattr(Engine, 'warm_up', fail)
  with start({'tiny': model}) as running, running.http() as http:
    assert http.get('/health').json() == {'status': 'failed'}
    assert http.post('/v1/completions', json=LONG).status_code == 503


def test_logs_have_no_words_of_requests(model, start, caplog):
  caplog.set_level(logging.INFO)
  with start({'tiny': model}) as running:
    with running.http() as http:
      http.post(
        '/v1/completions', json={**LONG, 'prompt': 'topsecret', 'max_tokens': 5}
      )
      http.post('/v1/completions', json={**LONG, 'stop': 'topsecret', 'n': -1})
      http.get('/topsecret?topsecret=1')
      http.get('/v1/models', headers={'Authorization': 'Bearer topsecret'})
  # The client of the test logs the address itself.
  logged = '\n'.join(
    record.getMessage()
    for record in caplog.records
    if record.name.startswith(('eejax', 'uvicorn'))
  )
  assert 'POST /v1/completions 200' in logged
  assert 'topsecret' not in logged
  assert 'a key of the tests' not in logged


def test_engines_are_made_for_what_requests_ask_and_given_up(model, start):
  with start({'tiny': model}, max_engines=2) as running:
    served = running.service.models['tiny']
    with running.client() as client:
      texts = []
      for depth in (1, 3, 1):
        asked = {**LONG, 'max_tokens': 3}
        found = client.completions.create(
          **asked, extra_body={'eejax': {'max_depth': depth}}
        )
        assert found.choices[0].eejax['exit_depths'] == [depth] * 3
        texts.append(found.choices[0].text)
        assert len(served.schedulers) == 2
    assert texts[0] == texts[2] != texts[1]


def test_requests_that_differ_in_thresholds_share_an_engine(running, client):
  served = running.service.models['tiny']
  before = len(served.schedulers)
  for threshold in (0.2, 0.7, [0.4, 'never']):
    client.completions.create(
      **{**LONG, 'max_tokens': 1},
      extra_body={'eejax': {'mode': 'early_exit', 'threshold': threshold}},
    )
  assert len(served.schedulers) == before


def test_a_server_without_keys_asks_for_none(model, start):
  with start({'tiny': model}, keys=()) as running:
    with running.http(headers={}) as http:
      assert http.get('/v1/models').status_code == 200
