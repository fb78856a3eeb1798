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
"""A stand-in notes what is asked of Weights & Biases.

What it notes was compared with wandb 0.31.0 offline.
"""

import sys
import types

import pytest

from eejax.errors import EejaxError
from eejax.training.metrics import MetricsRecord, MetricWriter


class Error(Exception):
  """What wandb raises."""


@pytest.fixture
def calls(monkeypatch):
  """Put a stand-in in wandb's place; return what was asked of it."""
  asked = []

  class Run:
    def __getattr__(self, name):
      return lambda *args, **fields: asked.append((name, args, fields))

  def init(**fields):
    asked.append(('init', (), fields))
    if fields['project'] == 'refused':
      raise Error('permission denied')
    return Run()

  module = types.SimpleNamespace(
    init=init, errors=types.SimpleNamespace(Error=Error)
  )
  monkeypatch.setitem(sys.modules, 'wandb', module)
  return asked


def test_a_run_is_one_run_there_whoever_goes_on_with_it(tmp_path, calls):
  for resume_step in (None, 2):
    with MetricWriter(
      tmp_path, resume_step=resume_step, wandb='exits'
    ) as writer:
      writer.write([MetricsRecord(3, 'train', {'loss': 1.5})])
  first, second = [fields for name, _, fields in calls if name == 'init']
  assert first == second
  assert first['project'] == 'exits' and first['resume'] == 'allow'
  assert [name for name, *_ in calls[:4]] == [
    'init',
    'define_metric',
    'log',
    'finish',
  ]
  # Steps may be told again, so they are values and not wandb's own count.
  assert calls[2][1:] == (({'step': 3, 'train/loss': 1.5},), {})


def test_what_it_refuses_is_one_sentence(tmp_path, calls):
  with pytest.raises(EejaxError, match='does not begin: permission denied'):
    MetricWriter(tmp_path, resume_step=None, wandb='refused')


def test_without_it_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(EejaxError, match=r'eejax\[wandb\]'):
    MetricWriter(tmp_path, resume_step=None, wandb='exits')
