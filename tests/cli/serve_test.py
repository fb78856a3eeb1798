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
"""Test eejax serve as a process, and what it refuses."""

import json
import os
import signal
import subprocess
import sys

import httpx
import openai
import pytest

from eejax.cli import main

START_SECONDS = 120


@pytest.fixture(scope='module')
def checkpoint(save_tiny, tmp_path_factory):
  root = tmp_path_factory.mktemp('served')
  save_tiny(root)
  return root / 'model'


def wait_for_address(process):
  for line in process.stderr:
    if line.startswith('serving '):
      return line.split(' at ')[1].split()[0]
  raise AssertionError('the server ended')


def test_a_process_serves_and_drains_at_sigterm(checkpoint, tmp_path):
  keys = tmp_path / 'keys'
  keys.write_text('first\nsecond\n')
  words = [
    *('serve', str(checkpoint), '--model', f'other={checkpoint}'),
    *('--port', '0', '--api-key-file', str(keys), '--mode', 'early_exit'),
    *('--threshold', '0.3', '--slots', '2', '--max-length', '32'),
    *('--log-requests', '--json'),
  ]
  process = subprocess.Popen(
    [sys.executable, '-m', 'eejax', *words],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, 'EEJAX_API_KEY': 'third'},
  )
  try:
    address = wait_for_address(process)
    assert httpx.get(f'{address}/health').status_code == 200
    for key in ('first', 'second', 'third'):
      with openai.OpenAI(base_url=f'{address}/v1', api_key=key) as client:
        names = [card.id for card in client.models.list()]
    assert names == ['model', 'other']
    with openai.OpenAI(base_url=f'{address}/v1', api_key='first') as client:
      stream = client.completions.create(
        model='model', prompt='alpha', max_tokens=20, temperature=0, stream=True
      )
      first = next(stream)
      process.send_signal(signal.SIGTERM)
      chunks = [first, *stream]
    assert sum(len(c.choices[0].eejax['tokens']) for c in chunks) == 20
    assert chunks[0].eejax['mode'] == 'early_exit'
    out, err = process.communicate(timeout=60)
  finally:
    process.kill()
    process.wait()
  assert process.returncode == 0, err
  result = json.loads(out)
  assert result['models'] == ['model', 'other']
  assert result['requests'] == 4
  assert 'POST /v1/completions 200' in err
  assert 'Traceback' not in err


def test_compile_only_ends_by_itself(checkpoint, capsys):
  words = ['serve', str(checkpoint), '--compile-only', '--port', '0']
  assert main.main([*words, '--max-length', '16', '--slots', '1']) == 0
  assert 'served 0 requests' in capsys.readouterr().out


@pytest.mark.parametrize(
  'flags, words',
  [
    ([], 'no model to serve'),
    (['absent'], 'no folder absent'),
    (['CKPT', 'CKPT'], "two models are called 'model'"),
    (['--model', 'CKPT'], 'NAME=CKPT'),
    (['CKPT', '--mesh', 'stage=2'], 'without pipeline stages'),
    (['CKPT', '--slots', '0'], 'slots must be above 0'),
    (['CKPT', '--mode', 'full', '--threshold', '0.5'], '--mode full'),
    (['CKPT', '--api-key-file', 'absent'], 'cannot be read'),
    (['CKPT', '--port', '99999'], 'cannot listen'),
    (['CKPT', '--policy', 'absent.json'], 'cannot be read'),
  ],
)
def test_wrong_arguments(checkpoint, capsys, flags, words):
  argv = ['serve', *(str(checkpoint) if f == 'CKPT' else f for f in flags)]
  argv += [] if '--port' in flags else ['--port', '0']
  if flags == ['--model', 'CKPT']:
    argv = ['serve', '--model', str(checkpoint)]
  assert main.main(argv) in (1, 2)
  assert words in capsys.readouterr().err


def test_a_taken_port_is_named(checkpoint, capsys):
  import socket

  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = str(taken.getsockname()[1])
    assert main.main(['serve', str(checkpoint), '--port', port]) == 1
  assert f'127.0.0.1:{port}' in capsys.readouterr().err
