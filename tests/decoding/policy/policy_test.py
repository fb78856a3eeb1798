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
"""Tests of policies and their files."""

import json

import pytest

from eejax.decoding.policy import policy as policy_lib
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.testing import tiny

POLICY = Policy(
  Mode.EARLY_EXIT,
  'margin',
  (0.25, None, 1.0),
  minimum_depth=1,
  window=5,
  backbone_hash='ab' * 32,
)


def test_a_policy_survives_its_file(tmp_path):
  path = tmp_path / 'policy.json'
  policy_lib.save_policy(POLICY, path)
  assert policy_lib.load_policy(path) == POLICY
  written = json.loads(path.read_text())
  assert written['thresholds'] == [0.25, 'never', 1.0]
  assert written['mode'] == 'early_exit'


def test_thresholds_are_read_as_typed():
  assert policy_lib.parse_thresholds('0.9, 0,never') == (0.9, 0.0, None)
  for text in ('', 'x', '0.9,,0.8', '0.9;0.8'):
    with pytest.raises(ArgumentError, match='threshold'):
      policy_lib.parse_thresholds(text)


@pytest.mark.parametrize('threshold', [-0.01, 1.01, float('nan'), 1e9])
def test_thresholds_outside_the_unit_interval_are_refused(threshold):
  with pytest.raises(ArgumentError, match='must lie in'):
    Policy(thresholds=(0.5, threshold))


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'window': 0}, 'window'),
    ({'minimum_depth': -1}, 'minimum depth'),
    ({'criterion': 'luck'}, 'no criterion'),
    ({'thresholds': ()}, 'needs a threshold'),
  ],
)
def test_fields_out_of_range_are_refused(fields, message):
  with pytest.raises(ArgumentError, match=message):
    Policy(**fields)


@pytest.mark.parametrize(
  'content, message',
  [
    ('{', 'not JSON'),
    ('[1]', 'not a JSON object'),
    ('{"threshold": [1]}', "no field 'threshold'"),
    ('{"mode": "fast"}', 'broken'),
    ('{"thresholds": ["sometimes"]}', 'broken'),
    ('{"thresholds": [2]}', 'must lie in'),
    ('{"window": "8"}', 'broken'),
  ],
)
def test_broken_files_are_refused(tmp_path, content, message):
  path = tmp_path / 'policy.json'
  path.write_text(content)
  with pytest.raises(ArgumentError, match=message):
    policy_lib.load_policy(path)


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(ArgumentError, match='cannot be read'):
    policy_lib.load_policy(tmp_path / 'none.json')


def test_thresholds_are_one_for_all_or_one_an_exit():
  config = tiny.tiny_config()
  usable = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,)).usable_exits(config)
  assert [(e.depth, t) for e, t in usable] == [(1, 0.5), (2, 0.5), (3, 0.5)]
  with pytest.raises(ArgumentError, match='2 thresholds for 3 exits'):
    Policy(Mode.EARLY_EXIT, 'max_prob', (0.5, 0.6)).usable_exits(config)


def test_only_exits_in_use_need_a_gate():
  config = tiny.tiny_config('1:norm,3:norm:gate')
  policy = Policy(Mode.EARLY_EXIT, 'gate', (0.5,))
  with pytest.raises(ArgumentError, match='depth 1;'):
    policy.usable_exits(config)
  deep = Policy(Mode.EARLY_EXIT, 'gate', (0.5,), minimum_depth=2)
  assert len(deep.usable_exits(config)) == 1


def test_a_policy_belongs_to_its_model():
  policy_lib.check_policy_fits(POLICY, 'ab' * 32)
  policy_lib.check_policy_fits(POLICY, None)
  policy_lib.check_policy_fits(Policy(), 'cd' * 32)
  with pytest.raises(ArgumentError, match='another model'):
    policy_lib.check_policy_fits(POLICY, 'cd' * 32)
