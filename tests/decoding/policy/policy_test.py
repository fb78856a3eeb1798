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

import numpy as np
import pytest

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
  POLICY.save(path)
  assert Policy.load(path) == POLICY
  written = json.loads(path.read_text())
  assert written['thresholds'] == [0.25, 'never', 1.0]
  assert written['mode'] == 'early_exit'


def test_a_file_with_a_former_name_of_a_field_opens():
  values = {'mode': 'speculative', 'draft_lookup': 3}
  assert Policy.from_json(values).prompt_lookup == 3


@pytest.mark.parametrize('threshold', [-0.01, 1.01, float('nan'), 1e9])
def test_thresholds_outside_the_unit_interval_are_refused(threshold):
  with pytest.raises(ArgumentError, match='must lie in'):
    Policy(thresholds=(0.5, threshold))


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'window': 0}, 'window'),
    ({'minimum_depth': -1}, 'minimum depth'),
    ({'prompt_lookup': 0}, 'prompt lookup must be from 1 to 64'),
    ({'prompt_lookup': 2**40}, 'prompt lookup must be from 1 to 64'),
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
    ('{"mode": "fast"}', "mode 'fast', which this version"),
    ('{"batching": "all_agree"}', 'calibrate again, or take one of'),
    ('{"thresholds": ["sometimes"]}', 'is not a threshold'),
    ('{"thresholds": [2]}', 'must lie in'),
    ('{"window": "8"}', 'broken'),
  ],
)
def test_broken_files_are_refused(tmp_path, content, message):
  path = tmp_path / 'policy.json'
  path.write_text(content)
  with pytest.raises(ArgumentError, match=message):
    Policy.load(path)


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(ArgumentError, match='cannot be read'):
    Policy.load(tmp_path / 'none.json')


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


def test_it_resolves_to_a_number_for_every_exit():
  config = tiny.tiny_config()
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5, None, 0.0))
  assert policy.resolve(config).tolist() == [0.5, np.inf, 0.0]
  for_all = Policy(Mode.EARLY_EXIT, 'max_prob', (0.25,), minimum_depth=2)
  assert for_all.resolve(config).tolist() == [np.inf, 0.25, 0.25]
  with pytest.raises(ArgumentError, match='4 thresholds for 3 exits'):
    Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,) * 4).resolve(config)


def test_another_mode_is_one_that_there_is():
  assert POLICY.with_mode(None) is POLICY.with_mode('early_exit') is POLICY
  assert POLICY.with_mode('full').mode is Mode.FULL
  with pytest.raises(ArgumentError, match='mode must be one of full'):
    POLICY.with_mode('fast')
