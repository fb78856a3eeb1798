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
"""Tests of certificates and their place in policy files."""

import dataclasses

import pytest

from eejax.decoding.policy import certificate as certificate_lib
from eejax.decoding.policy.certificate import Certificate
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError

POLICY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5, None, 0.9))
CERTIFICATE = Certificate(
  method=certificate_lib.LEARN_THEN_TEST,
  risk=0.05,
  delta=0.1,
  bound='hoeffding_bentkus',
  measure='rouge_l',
  sequences=200,
  mean_loss=0.01,
  p_value=0.03,
  prompt_tokens=8,
  max_new_tokens=16,
  dtype='float32',
  data={'name': 'text.txt'},
  versions={'eejax': '0'},
)
CERTIFIED = dataclasses.replace(POLICY, certificate=CERTIFICATE)


def test_it_survives_the_policy_file_and_leaves_others_as_they_were(tmp_path):
  path = tmp_path / 'policy.json'
  CERTIFIED.save(path)
  assert Policy.load(path) == CERTIFIED
  assert Policy.load(path, certified=False) == POLICY
  assert [p.name for p in tmp_path.iterdir()] == ['policy.json']
  assert 'certificate' not in POLICY.to_json()


@pytest.mark.parametrize(
  'change, message',
  [
    ({'risk': 'low'}, 'broken'),
    ({'risk': 2}, 'broken; calibrate'),
    ({'delta': float('nan')}, 'broken; calibrate'),
    ({'bindings': []}, 'broken.*calibrate'),
    ({'max_new_tokens': 'many'}, 'broken.*calibrate'),
    ({'luck': 1}, 'broken'),
    ({'exit_hashes': {}}, 'earlier version of eejax'),
  ],
)
def test_broken_certificates_are_refused(change, message):
  values = CERTIFIED.to_json()
  values['certificate'].update(change)
  with pytest.raises(ArgumentError, match=f'(?s){message}'):
    Policy.from_json(values)
  assert Policy.from_json(values, certified=False) == POLICY


def test_a_certificate_is_an_object():
  values = {**CERTIFIED.to_json(), 'certificate': 'yes'}
  with pytest.raises(ArgumentError, match='broken'):
    Policy.from_json(values)


def test_another_mode_leaves_it_out():
  assert CERTIFIED.with_mode('early_exit').certificate is CERTIFICATE
  assert CERTIFIED.with_mode('speculative').certificate is None
  assert CERTIFIED.without_certificate() == POLICY


def test_it_says_what_it_covers():
  sentence = CERTIFICATE.sentence()
  assert 'at most 0.05' in sentence and '0.9 (200' in sentence
  average = dataclasses.replace(CERTIFICATE, delta=None, method='conformal')
  assert 'on average' in average.sentence()
