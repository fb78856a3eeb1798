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
"""A tiny model behind a real server, and the real client of the protocol."""

import asyncio
import contextlib
import dataclasses
import threading
import time

import httpx
import jax
import numpy as np
import openai
import pytest

from eejax.checkpoint.model import Model
from eejax.data.tokenizer import train_bpe
from eejax.decoding.policy.modes import Mode
from eejax.decoding.policy.policy import Policy
from eejax.serving.api_keys import ApiKeys
from eejax.serving.generation_request import ExitSettings
from eejax.serving.served_model import Numbers
from eejax.serving.server import Server, listening_socket, make_service
from eejax.serving.server_settings import ServerLimits
from eejax.serving.service import Health
from eejax.testing import tiny

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon']
FULL_DEPTH = Policy()
TEMPLATE = """{{ bos_token }}{% for m in messages %}
{% if m.role == 'tool' %}
{{ raise_exception('tools are not for me') }}{% endif %}
{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""
KEY = 'a key of the tests'


@pytest.fixture(scope='session')
def tokenizer_folder(tmp_path_factory):
  """Return the folder of a tokenizer of a few words, with a chat template."""
  folder = tmp_path_factory.mktemp('tokenizer')
  random = np.random.default_rng(0)
  text = ' '.join(random.choice(WORDS, 400))
  train_bpe([text], vocab_size=300).save(folder)
  (folder / 'chat_template.jinja').write_text(TEMPLATE)
  return folder


@pytest.fixture(scope='session')
def model(tokenizer_folder):
  """Return a tiny model whose texts vary, and never end by themselves."""
  config = tiny.tiny_config(
    '1:norm,3:mlp', vocab_size=300, eos_ids=(), max_length=64
  )
  params = jax.tree.map(lambda x: 4 * x, tiny.tiny_params(config))
  return Model(config, params, tokenizer_folder=tokenizer_folder)


@dataclasses.dataclass
class Running:
  """A server that runs in a thread."""

  server: Server
  service: object
  address: str
  thread: threading.Thread
  loop: asyncio.AbstractEventLoop | None = None

  @property
  def url(self):
    return f'http://{self.address}'

  def client(self, **options):
    """Return the real client."""
    return openai.OpenAI(
      base_url=f'{self.url}/v1',
      **{'api_key': KEY, 'max_retries': 0, 'timeout': 300, **options},
    )

  def async_client(self, **options):
    """Return the real client for many requests at once."""
    return openai.AsyncOpenAI(
      base_url=f'{self.url}/v1',
      **{'api_key': KEY, 'max_retries': 0, 'timeout': 300, **options},
    )

  def http(self, **options):
    """Return a client that knows nothing of the protocol."""
    headers = {'Authorization': f'Bearer {KEY}'}
    return httpx.Client(
      base_url=self.url,
      verify=False,
      timeout=30,
      **{'headers': headers, **options},
    )

  def metric(self, name, **labels):
    """Return the sum of a metric over what has the labels."""
    with self.http() as http:
      lines = http.get('/metrics').text.splitlines()
    wanted = [f'{k}="{v}"' for k, v in labels.items()]
    return sum(
      float(line.rpartition(' ')[2])
      for line in lines
      if line.startswith((f'eejax:{name}{{', f'eejax:{name} '))
      and all(w in line for w in wanted)
    )

  def num_under_way(self):
    """Return how many texts engines have."""
    return sum(
      s.num_running + s.num_waiting
      for served in self.service.models.values()
      for s in served.schedulers
    )


def wait_for(condition, *, seconds=20):
  """Wait until a condition holds; fail where it does not."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'it did not happen in time'
    time.sleep(0.005)


@contextlib.contextmanager
def serve(models, *, policy=FULL_DEPTH, also=(), keys=(KEY,), **limits):
  """Serve models from a thread of this process."""
  chosen = {'slots': 4, 'ticks_per_step': 4, 'drain_timeout_s': 10.0, **limits}
  service = make_service(
    models,
    policies=dict.fromkeys(models, policy),
    limits=ServerLimits(**chosen),
    numbers=Numbers(),
  )
  compiled = {
    name: [
      served.policy,
      *(served.policy_of(ExitSettings(mode=mode)) for mode in also),
    ]
    for name, served in service.models.items()
  }
  server = Server(service, keys=ApiKeys(keys), compiled=compiled)
  listening = listening_socket('127.0.0.1', 0)
  host, port = listening.getsockname()
  thread = threading.Thread(target=server.run, args=([listening],))
  thread.start()
  try:
    wait_for(lambda: service.health is not Health.STARTING, seconds=500)
    yield Running(server, service, f'{host}:{port}', thread)
  finally:
    server.stop()
    server.should_exit = True
    thread.join(timeout=30)
    assert not thread.is_alive()


@pytest.fixture(scope='session')
def start():
  """Return what serves models while a block runs."""
  return serve


@pytest.fixture(scope='session')
def running(model):
  """Return a server of the tiny model, all modes compiled."""
  with serve(
    {'tiny': model, 'again': model},
    also=(Mode.EARLY_EXIT, Mode.SPECULATIVE),
  ) as running:
    yield running


@pytest.fixture
def client(running):
  """Return the real client of the shared server."""
  with running.client() as client:
    yield client


@pytest.fixture
def http(running):
  """Return a plain HTTP client of the shared server."""
  with running.http() as http:
    yield http
