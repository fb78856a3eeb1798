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
"""Test `eejax verify` as a person types it; see `tests/recipes`."""

import dataclasses
import json

import pytest

from eejax.checkpoint import folder
from eejax.cli import main, prompted_model
from eejax.decoding.policy.policy import Mode, Policy

DRAFTS = ('--threshold', '0', '--draft-depth', '3', '--draft-length', '1')
SHORT = ('--max-new-tokens', '6', '--batch-size', '1,2')
TWO = ('--prompt', 'alpha beta', '--prompt', 'gamma')


@pytest.fixture(scope='module')
def place(tmp_path_factory, save_tiny):
  """Return a folder with a checkpoint, one without exits, and a policy."""
  root = tmp_path_factory.mktemp('verify')
  model = save_tiny(root)
  bare = dataclasses.replace(
    model,
    config=model.config.with_exits(()),
    params={**model.params, 'exits': {}},
  )
  folder.save(root / 'bare', bare)
  other = Policy(Mode.SPECULATIVE, backbone_hash='0' * 64)
  other.save(root / 'other.json')
  return root


def run(capsys, place, *argv, model='model', expect=0):
  code = main.main(['verify', str(place / model), *map(str, argv)])
  out, err = capsys.readouterr()
  assert code == expect, err
  return out, err


def test_it_says_lossless_and_counts(place, capsys):
  out, _ = run(capsys, place, *TWO, *SHORT, *DRAFTS, '--json')
  found = json.loads(out)
  assert found['is_lossless'] and found['differences'] == []
  # Two batches of one row and one of two, six tokens each.
  assert (found['rows'], found['tokens']) == (4, 24)
  assert found['near_ties'] == found['real_differences'] == 0
  assert found['acceptance'] == found['accepted'] / found['drafted']
  assert found['policy']['mode'] == 'speculative'
  out, _ = run(capsys, place, *TWO, *SHORT, *DRAFTS)
  assert "Lossless here: all 4 rows are the whole model's" in out


def test_a_negative_answer_is_exit_code_1_with_json(place, capsys):
  argv = (*TWO, *SHORT, '--threshold', 'never', '--draft-lookup', '0')
  out, err = run(capsys, place, *argv, '--json', expect=1)
  assert json.loads(out)['is_lossless'] is False
  assert 'eejax verify: nothing was tested' in err


def test_exits_may_be_added_in_memory(place, capsys):
  argv = (*TWO, *SHORT, '--threshold', '0', '--draft-length', '1')
  run(capsys, place, *argv, '--exits', '2:norm', model='bare')
  _, err = run(capsys, place, *argv, model='bare', expect=2)
  assert 'has no exits' in err and '--exits' in err


def test_without_prompts_the_standard_library_is_continued(place, capsys):
  argv = ('--max-new-tokens', '4', '--batch-size', '8', *DRAFTS, '--json')
  found = json.loads(run(capsys, place, *argv)[0])
  assert found['rows'] == 8 and 'standard library' in found['prompts']


@pytest.mark.parametrize(
  'argv, message',
  [
    ((*TWO, '--batch-size', '0'), 'positive whole numbers'),
    ((*TWO, '--batch-size', 'x'), 'positive whole numbers'),
    ((*TWO, '--seeds', '2'), 'knows no seeds'),
    ((*TWO, '--seeds', '0', '--temperature', '1'), 'at least 1'),
    ((*TWO, '--temperature', '-1'), 'temperature'),
    ((*TWO, '--max-new-tokens', '64'), 'leave room'),
    ((*TWO, '--max-new-tokens', '62'), 'context of the model, 64'),
    ((*TWO, '--prompts', 'absent.txt'), 'cannot be read'),
    ((*TWO, '--draft-depth', '2'), 'no exit at depth 2'),
    ((*TWO, '--batching', 'reference'), 'ride_along'),
    ((*TWO, '--policy', 'p', '--threshold', '0.5'), 'give one of them'),
    ((*TWO, '--exits', '1:norm'), 'already an exit at depth 1'),
    ((*TWO, '--mode', 'full'), 'unrecognized arguments'),
  ],
)
def test_wrong_arguments_are_one_sentence(place, capsys, argv, message):
  out, err = run(capsys, place, *argv, expect=2)
  assert message in err and out == ''
  assert err.count('\n') == 1


def test_a_policy_of_another_model_is_refused(place, capsys):
  argv = (*TWO, '--policy', place / 'other.json')
  assert 'fitted for another' in run(capsys, place, *argv, expect=2)[1]


def test_whole_numbers_are_read_once():
  assert prompted_model.whole_numbers('1, 8,1') == (1, 8)
