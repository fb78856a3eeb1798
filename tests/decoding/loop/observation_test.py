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
"""Tests of thresholds that change while a row is decoded."""

import numpy as np
import pytest

from eejax.decoding.generate import generate
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError

WINDOW = 4


def early(criterion, *thresholds, **fields):
  return Policy(
    Mode.EARLY_EXIT, criterion, thresholds, **{'window': WINDOW, **fields}
  )


def run(model, prompts, policy, num_tokens=13):
  return generate(
    model[1],
    config=model[0],
    prompts=prompts,
    policy=policy,
    max_new_tokens=num_tokens,
  )


def texts(result):
  return [(r.tokens, r.exit_depths) for r in result.rows]


# MARK: Decaying


@pytest.mark.parametrize(
  'strategy, batching',
  [
    (KVStrategy.DEFERRED, Batching.DEPTH_QUEUE),
    (KVStrategy.PROPAGATE, Batching.RIDE_ALONG),
  ],
)
def test_decaying_thresholds_equal_the_reference(
  case, assert_is_reference, strategy, batching
):
  # CALM's code never passes the position, so its thresholds stay at the
  # first; prompts of many lengths would show a position of the batch, too.
  fields = {'kv_strategy': strategy, 'batching': batching}
  differ = 0
  for seed in range(2):
    model, prompts, _ = case(seed)
    thresholds = (0.3, 0.4, 0.45)
    policy = early(
      'max_prob', *thresholds, threshold_rule='decaying(4)', **fields
    )
    result = run(model, prompts, policy)
    assert_is_reference(model, result)
    constant = run(model, prompts, early('max_prob', *thresholds, **fields))
    differ += texts(constant) != texts(result)
  assert differ


# MARK: Adaptive


@pytest.mark.parametrize('criterion', ['max_prob', 'js'])
def test_adaptive_thresholds_equal_the_reference(
  case, assert_is_reference, criterion
):
  # Two scores of each class suffice, so that something is learnt.
  rule = 'adaptive(0.4,0.1,0.9,10,2)'
  differ = 0
  for seed in range(2):
    model, prompts, _ = case(seed)
    policy = early(criterion, 0.4, 0.5, 0.5, threshold_rule=rule)
    result = run(model, prompts, policy, 30)
    assert_is_reference(model, result)
    constant = run(model, prompts, early(criterion, 0.4, 0.5, 0.5), 30)
    differ += texts(constant) != texts(result)
  assert differ


def test_observed_tokens_go_to_the_end_by_position_alone(case):
  model, prompts, _ = case(0)
  rule = 'adaptive(0.4,0.1,0.9,10,2)'
  always = early('max_prob', 1e-30, 1.0, 1.0, threshold_rule=rule)
  for row in run(model, prompts, always, 30).rows:
    # A token is fed at the position before the one it is emitted for.
    start = len(row.prompt_tokens) - 1
    observed = [d for n, d in enumerate(row.exit_depths, start) if not n % 4]
    assert set(observed) == {4}


@pytest.mark.parametrize('rule', ['decaying(4)', 'adaptive'])
def test_rules_leave_always_and_never_alone(case, rule):
  model, prompts, _ = case(1)
  never = run(model, prompts, early('max_prob', None, threshold_rule=rule))
  assert {d for r in never.rows for d in r.exit_depths} == {4}


# MARK: Inside a batch


def test_nothing_is_donated_twice(case, session):
  # What a rule remembers of the policy belongs to the caller as well.
  model, prompts, _ = case(0)
  policy = early('max_prob', 0.4, 0.5, 0.5, threshold_rule='decaying(4)')
  batch = session(model, policy, prompts)
  before = np.array(batch.request.thresholds)
  batch.run(2)
  batch.run(2)
  assert (np.asarray(batch.request.thresholds) == before).all()


# MARK: Bad input


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'threshold_rule': 'rising(3)'}, "no threshold rule 'rising'"),
    ({'kv_strategy': KVStrategy.MONOTONE}, 'monotone does not force'),
    ({'kv_strategy': KVStrategy.PROPAGATE}, 'propagate does not force'),
  ],
)
def test_rules_that_cannot_be_followed(fields, message):
  with pytest.raises(ArgumentError, match=message):
    Policy(
      **{
        'mode': Mode.EARLY_EXIT,
        'thresholds': (0.5,),
        'threshold_rule': 'adaptive',
        **fields,
      }
    )
