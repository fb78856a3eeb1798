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
"""Test `eejax plan` as a person types it; see `tests/recipes/plan_test.py`."""

import json

import pytest

from eejax.cli import main

TUNE_7B = ('llama_2_7b', '--exits', '8:mlp:untied', '--regime', 'tune')


def run(capsys, *argv, expect=0):
  code = main.main(['plan', *map(str, argv)])
  out, err = capsys.readouterr()
  assert code == expect, err
  return out, err


def test_json(capsys):
  argv = (*TUNE_7B, '--devices', '2', '--batch', '8', '--best', '2', '--json')
  found = json.loads(run(capsys, *argv)[0])
  assert found['hardware'] == 'H100 80GB SXM'
  assert len(found['plans']) == 2


def test_tables(capsys):
  out, _ = run(capsys, *TUNE_7B, '--devices', '4', '--batch', '8', '--price', 2)
  assert 'tokens/s' in out and 'cost/G tokens' in out
  assert 'GiB of each device' in out and 'optimizer' in out
  assert 'Assumed: products at 0.5 of the peak' in out


def test_what_does_not_fit_is_said_and_fails(capsys):
  argv = ('llama_2_70b', '--devices', '2', '--batch', '8')
  out, err = run(capsys, *argv, expect=1)
  assert 'meshes do not fit' in out and 'optimizer' in out
  # Where it takes long, progress stands before.
  assert err.splitlines()[-1].startswith('eejax plan: nothing fits; the clos')


@pytest.mark.parametrize(
  ('argv', 'expect', 'words'),
  [
    (('llama_9',), 2, 'there is no configuration'),
    ((*TUNE_7B, '--hardware', 'abacus'), 2, 'there is no hardware'),
    ((*TUNE_7B, '--devices', '0'), 2, 'devices must be at least 1'),
    ((*TUNE_7B, '--mesh', 'data=3'), 1, 'needs 3 devices and there are 8'),
  ],
)
def test_bad_input(capsys, argv, expect, words):
  out, err = run(capsys, *argv, expect=expect)
  assert words in err and not out
  assert err.count('\n') == 1
