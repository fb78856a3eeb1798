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
"""Test `eejax bench` as a person types it; see `tests/recipes`."""

import json

import pytest

from eejax.cli import main
from eejax.report import bench_page

SHORT = ('--prompt', 'alpha beta', '--max-new-tokens', '5', '--repeats', '1')
ONE = ('--batch-sizes', '1', '--modes', 'early_exit', '--thresholds', '0.5')


@pytest.fixture(scope='module')
def place(tmp_path_factory, save_tiny):
  """Return a folder with a checkpoint."""
  root = tmp_path_factory.mktemp('bench')
  save_tiny(root)
  return root


def run(capsys, place, out, *argv, expect=0):
  words = ['bench', place / 'model', *SHORT, '--out', out, *argv]
  code = main.main([str(w) for w in words])
  stdout, err = capsys.readouterr()
  assert code == expect, err
  return stdout, err


def test_results_page_and_json(place, capsys, tmp_path):
  out = tmp_path / 'new' / 'bench.json'
  result = json.loads(run(capsys, place, out, *ONE, '--json')[0])
  names = [bench_page.name_of(x['setting']) for x in result['lines']]
  assert names == ['full', 'early exit max_prob 0.5']
  kept = json.loads(out.read_text())
  assert kept['lines'] == result['lines']
  assert (kept['checkpoint'], kept['prompts']) == (
    str(place / 'model'),
    'the command line',
  )
  assert [t['blocks'] > 0 for t in kept['part_times']] == [True]
  assert 'early exit max_prob 0.5' in out.with_suffix('.html').read_text()
  # What the file holds is shown, not measured again.
  printed, err = run(capsys, place, out, *ONE)
  assert '2 of 2 strategies are in' in err
  assert 'early exit max_prob 0.5' in printed and f'wrote {out}' in printed
  assert json.loads(out.read_text())['lines'] == result['lines']


@pytest.mark.parametrize(
  'argv, message',
  [
    (('--modes', 'fast'), "--modes knows no 'fast'"),
    (('--kv-strategies', 'deferred,lost'), "no 'lost'"),
    (('--batchings', 'all'), "--batchings knows no 'all'"),
    (('--criteria', 'patience(2,3)'), 'patience takes 1 numbers'),
    (('--thresholds', '2'), 'must lie in'),
    (('--draft-thresholds', 'high'), 'is not a threshold'),
    (('--prompt-lookups', '0,-1'), '--prompt-lookups takes whole numbers'),
    (('--batch-sizes', '0'), 'positive whole numbers'),
    (('--repeats', '0'), 'repeats must be at least 1'),
    (('--exits', '1:norm'), 'already an exit'),
  ],
)
def test_wrong_arguments_leave_nothing(place, capsys, tmp_path, argv, message):
  out = tmp_path / 'never' / 'bench.json'
  printed, err = run(capsys, place, out, *argv, expect=2)
  assert message in err and printed == ''
  assert err.count('\n') == 1
  assert not out.parent.exists()


def test_what_is_beaten_is_not_on_the_front():
  lines = [
    {'speedup': {'value': s}, 'same_place': a}
    for s, a in ((1.0, 1.0), (2.0, 0.5), (1.5, 0.5), (0.9, 1.0), (1.5, 0.9))
  ]
  beaten = [bench_page.is_beaten(x, lines) for x in lines]
  assert beaten == [False, False, True, True, False]
