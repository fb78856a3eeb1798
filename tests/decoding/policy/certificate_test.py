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
import dataclasses
import json

import jax
import pytest

from eejax.decoding.policy import certificate as certificate_lib
from eejax.decoding.policy import policy as policy_lib
from eejax.decoding.policy.certificate import Certificate
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.testing import tiny

CONFIG = tiny.tiny_config()
PARAMS = tiny.tiny_params(CONFIG)
POLICY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5, None, 0.9))


def certified(policy=POLICY):
  return dataclasses.replace(
    policy,
    certificate=Certificate(
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
      policy_hash=certificate_lib.policy_hash(policy_lib.to_json(policy)),
      exit_hashes=certificate_lib.exit_hashes(PARAMS, CONFIG),
      data={'name': 'text.txt'},
      versions={'eejax': '0'},
    ),
  )


def check(policy, params=PARAMS, config=CONFIG, dtype='float32'):
  policy_lib.check_certified_use(policy, params, config=config, dtype=dtype)


def test_it_survives_the_policy_file_and_leaves_others_as_they_were(tmp_path):
  path = tmp_path / 'policy.json'
  policy_lib.save_policy(certified(), path)
  assert policy_lib.load_policy(path) == certified()
  assert [p.name for p in tmp_path.iterdir()] == ['policy.json']
  policy_lib.save_policy(POLICY, path)
  assert 'certificate' not in json.loads(path.read_text())


def test_what_was_certified_may_be_used():
  check(certified())
  check(POLICY, dtype='bfloat16')  # There is nothing to check.
  other = policy_lib.with_mode(certified(), 'speculative')
  check(other, dtype='bfloat16')  # It is lossless.


def test_what_was_certified_before_texts_drafted_still_is():
  values = policy_lib.to_json(POLICY)
  before = {k: v for k, v in values.items() if k != 'draft_lookup'}
  assert before != values
  digest = certificate_lib.policy_hash(values)
  assert certificate_lib.policy_hash(before) == digest


def test_how_rows_are_batched_does_not_matter():
  check(
    dataclasses.replace(certified(), batching=policy_lib.Batching.ALL_AGREE)
  )


@pytest.mark.parametrize(
  'change',
  [
    {'thresholds': (0.5, None, 0.89)},
    {'criterion': 'margin'},
    {'window': 4},
    {'kv_strategy': policy_lib.KVStrategy.COPY},
    {'minimum_depth': 2},
  ],
)
def test_thresholds_may_not_change_afterwards(change):
  with pytest.raises(ArgumentError, match='was changed after it was certified'):
    check(dataclasses.replace(certified(), **change))


def test_other_exits_are_refused():
  other = jax.tree.map(lambda x: x, PARAMS)
  leaves = jax.tree.map(lambda x: x + 1e-6, other['exits']['exit_2'])
  other['exits']['exit_2'] = leaves
  with pytest.raises(ArgumentError, match='with another exit_2'):
    check(certified(), params=other)
  kinds = tiny.tiny_config('1:norm,2:norm,3:norm:gate')
  with pytest.raises(ArgumentError, match='with another exit_'):
    check(certified(), params=tiny.tiny_params(kinds), config=kinds)
  bare = CONFIG.with_exits(())
  with pytest.raises(ArgumentError, match='exits that this model lacks'):
    check(certified(), params={**PARAMS, 'exits': {}}, config=bare)


def test_a_model_read_up_to_where_it_ends_is_checked_by_what_is_there():
  first = CONFIG.with_exits(CONFIG.exits[:1])
  check(certified(), config=first)


@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
def test_other_numbers_are_refused(dtype):
  with pytest.raises(ArgumentError, match=f'float32, and this .* {dtype}'):
    check(certified(), dtype=dtype)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'risk': 'low'}, 'broken'),
    ({'risk': 2}, 'broken; calibrate'),
    ({'delta': float('nan')}, 'broken; calibrate'),
    ({'exit_hashes': []}, 'certificate is broken'),
    ({'luck': 1}, 'broken'),
  ],
)
def test_broken_certificates_are_refused(change, message):
  values = policy_lib.to_json(certified())
  values['certificate'].update(change)
  with pytest.raises(ArgumentError, match=message):
    policy_lib.from_json(values)


def test_it_says_what_it_covers():
  found = certified().certificate
  assert 'at most 0.05' in found.sentence() and '0.9 (200' in found.sentence()
  assert found.not_covered(temperature=0.0, max_new_tokens=16) is None
  assert 'sampled' in found.not_covered(temperature=0.5, max_new_tokens=8)
  assert 'up to 16' in found.not_covered(temperature=0.0, max_new_tokens=17)
  average = dataclasses.replace(found, delta=None, method='conformal')
  assert 'on average' in average.sentence()
