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
"""Test the one verdict, from measurements that deserve each answer."""

import dataclasses

import pytest

from eejax.analysis.candidate import (
  Answer,
  Candidate,
  Forecast,
  Measured,
  Promise,
)
from eejax.analysis.verdict import Verdict
from eejax.decoding.policy.certificate import Certificate
from eejax.decoding.policy.policy import Mode, Policy
from eejax.stats.bootstrap import Interval

NONE = Interval(0.0, 0.0, 0.0)
FAST, SLOW = Interval(1.3, 1.2, 1.4), Interval(0.9, 0.85, 0.95)
UNSURE = Interval(1.1, 0.98, 1.22)
NOISE = Interval(1.0, 0.97, 1.02)
EARLY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.9,))
DRAFT = Policy(Mode.SPECULATIVE, 'max_prob', (0.0,), draft_length=2)
LOOKUP = Policy(Mode.SPECULATIVE, 'max_prob', (0.9,), prompt_lookup=2)


def candidate(speedup, loss=NONE, *, policy=EARLY, measured=True, **more):
  known = Measured(speedup, loss) if measured else None
  return Candidate(
    name='a way',
    source='trained',
    depths=(2,),
    policy=policy,
    promise=Promise.of(policy),
    forecast=Forecast(speedup, loss),
    measured=known,
    **more,
  )


def verdict(*candidates, noise=NOISE, **more):
  return Verdict(
    candidates=candidates,
    budget=0.05,
    noise=noise,
    prompts=8,
    new_tokens=48,
    machine='this machine',
    has_trained_exits=True,
    **more,
  )


def loss(low, value, high):
  return Interval(value, low, high)


@pytest.mark.parametrize(
  'speedup, lost, answer',
  [
    (FAST, NONE, Answer.YES),
    (FAST, loss(0.01, 0.02, 0.04), Answer.YES),
    # The promise does not hold.
    (FAST, loss(0.06, 0.08, 0.1), Answer.NO),
    (FAST, loss(0.03, 0.04, 0.06), Answer.UNDECIDED),
    # No faster than noise.
    (SLOW, NONE, Answer.NO),
    (Interval(1.01, 1.005, 1.018), NONE, Answer.NO),
    (UNSURE, NONE, Answer.UNDECIDED),
    (Interval(0.99, 0.9, 1.1), NONE, Answer.NO),
  ],
)
def test_the_promise_must_hold_and_the_speed_be_above_the_noise(
  speedup, lost, answer
):
  assert verdict(candidate(speedup, lost)).answer is answer


def test_more_noise_takes_more_speed():
  loud = Interval(1.0, 0.8, 1.25)
  assert verdict(candidate(FAST)).answer is Answer.YES
  assert verdict(candidate(FAST), noise=loud).answer is Answer.UNDECIDED


def test_an_exact_promise_breaks_with_one_token():
  assert verdict(candidate(FAST, policy=DRAFT)).answer is Answer.YES
  broken = loss(0.0, 0.001, 0.01)
  assert verdict(candidate(FAST, broken, policy=DRAFT)).answer is Answer.NO


def test_a_certificate_is_a_promise_of_its_own():
  certified = dataclasses.replace(EARLY, certificate=CERTIFICATE)
  found = verdict(candidate(FAST, loss(0.03, 0.04, 0.06), policy=certified))
  assert found.by_promise == {Promise.CERTIFIED: Answer.YES}
  assert 'risk 0.05, delta 0.1, n 384' in found.sentence()


CERTIFICATE = Certificate(
  method='learn_then_test',
  risk=0.05,
  delta=0.1,
  bound='hoeffding_bentkus',
  measure='local',
  sequences=384,
  mean_loss=0.01,
  p_value=0.01,
  prompt_tokens=32,
  max_new_tokens=32,
  dtype='float32',
  data={},
  versions={},
)


def test_one_answer_stands_for_all_candidates():
  slow, fast = candidate(SLOW), candidate(FAST, policy=DRAFT)
  found = verdict(slow, fast)
  assert found.answer is Answer.YES and found.best is fast
  assert found.by_promise == {
    Promise.EXACT: Answer.YES,
    Promise.EMPIRICAL: Answer.NO,
  }
  values = found.to_json()
  assert values['answer'] == 'yes'
  assert [c['answer'] for c in values['candidates']] == ['no', 'yes']
  assert values['headline'].startswith('Yes, early exit pays')
  assert [row['pays'] for row in found.rows()] == ['no', 'yes']


def test_drafts_from_the_text_alone_are_no_early_exit():
  alone = candidate(
    FAST, policy=dataclasses.replace(LOOKUP, thresholds=(None,))
  )
  both, slow = candidate(FAST, policy=LOOKUP), candidate(SLOW)
  found = verdict(slow, alone)
  assert found.answer is Answer.NO and found.best is slow
  assert found.without_exits is alone
  assert found.by_promise == {Promise.EMPIRICAL: Answer.NO}
  assert 'without any exit' in found.sentence()
  assert [row['pays'] for row in found.rows()] == ['no', 'yes']
  assert [row['exits'] is None for row in found.rows()] == [False, True]
  # What the text gives is not the exits' merit.
  assert verdict(both).answer is Answer.YES
  assert verdict(both, alone).answer is Answer.UNDECIDED
  faster = candidate(Interval(1.6, 1.5, 1.7), policy=LOOKUP)
  assert verdict(faster, alone).best is faster


def test_what_nothing_is_known_of_is_not_said_to_lose():
  unknown = dataclasses.replace(
    candidate(SLOW, policy=DRAFT), forecast=None, measured=None
  )
  assert [row['pays'] for row in verdict(unknown).rows()] == [None]


def test_undecided_says_how_many_prompts_it_takes():
  found = verdict(candidate(UNSURE))
  # The interval reaches 0.12 down, and 0.08 are to the noise.
  assert found.needs == 18
  assert 'undecided: about 18 prompts' in found.sentence().lower()
  assert found.to_json()['needs_prompts'] == 18
  near = verdict(candidate(Interval(1.0201, 0.9, 1.14)))
  assert near.answer is Answer.UNDECIDED and near.needs is None
  assert verdict(candidate(FAST)).needs is None


def test_what_was_not_measured_is_called_a_forecast():
  found = verdict(candidate(FAST, measured=False), noise=None)
  assert found.answer is Answer.YES and found.is_forecast
  assert found.sentence().startswith('Forecast (nothing was measured): yes')
  assert 'should be 1.30' in found.sentence()
  close = verdict(
    candidate(Interval(1.04, 1.03, 1.05), measured=False), noise=None
  )
  assert close.answer is Answer.NO


def test_a_model_without_trained_exits_is_forecast():
  found = dataclasses.replace(verdict(candidate(FAST)), has_trained_exits=False)
  assert found.is_forecast and found.to_json()['is_forecast']
  assert found.sentence().startswith('Forecast (the model has no trained')


def test_nothing_to_take_is_no():
  none = dataclasses.replace(
    candidate(Interval(1.0, 1.0, 1.0), measured=False), policy=None, depths=()
  )
  found = verdict(none)
  assert found.answer is Answer.NO and found.best is None
  assert 'nothing was found that saves time' in found.sentence()
