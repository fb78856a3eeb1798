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
"""Test that nothing is lost, wrong or leaked among many mixed requests."""

import asyncio
import importlib
import pathlib

import pytest

import eejax

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks'


@pytest.fixture
def load(monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)
  return importlib.import_module('serving_load')


def known_cases(load, model):
  """Return requests in every mode with the tokens of single runs."""
  cases = []
  for settings in (
    {'mode': 'full'},
    {'mode': 'early_exit', 'threshold': 0.3},
    {'mode': 'speculative', 'threshold': 0.2},
  ):
    options = {**settings, 'thresholds': settings.get('threshold')}
    options.pop('threshold', None)
    for prompt, count in (([3, 17, 8], 12), ([40, 5], 5), ([9] * 20, 30)):
      row = eejax.generate(
        model, [prompt], max_new_tokens=count, **options
      ).rows[0]
      body = {
        'model': 'tiny',
        'prompt': prompt,
        'max_tokens': count,
        'temperature': 0,
        'eejax': settings,
      }
      cases.append(load.Case(body, row.tokens))
  return cases


def soak(load, model, running, *, count, change=None):
  cases = known_cases(load, model)
  if change is not None:
    cases = [load.Case(case.body, change(case.tokens)) for case in cases]
  return asyncio.run(
    load.soak(running.url, cases, count=count, at_once=12, too_long=65)
  )


@pytest.mark.parametrize(
  'count', [40, pytest.param(300, marks=pytest.mark.slow)]
)
def test_mixed_requests(load, model, start, count):
  with start({'tiny': model}, keys=(), max_waiting=6) as running:
    found = soak(load, model, running, count=count)
    assert (found.lost, found.wrong) == (0, 0), found
    assert set(found.kinds) >= {'whole', 'stream', 'leave'}
    with running.http(headers={}) as http:
      assert http.get('/health').status_code == 200
    for _ in range(200):
      if not running.num_under_way():
        break
      asyncio.run(asyncio.sleep(0.02))
    assert running.num_under_way() == 0
    # A wrong text would be seen.
    wrong = soak(load, model, running, count=20, change=lambda t: t[::-1])
    assert wrong.wrong > 0
