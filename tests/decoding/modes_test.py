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
"""Tests of early exit with exact keys and values against the reference."""

import dataclasses

import numpy as np
import pytest

from eejax.decoding.generate import generate
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.decoding.results import FinishReason
from eejax.errors import ArgumentError

EXITS = '1:norm,2:mlp,3:block'
NUM_TOKENS = 13


def early(criterion='max_prob', *thresholds, **fields):
  return Policy(Mode.EARLY_EXIT, criterion, thresholds or (None,), **fields)


def run(model, prompts, policy, num_tokens=NUM_TOKENS, **options):
  return generate(
    model[1],
    config=model[0],
    prompts=prompts,
    policy=policy,
    max_new_tokens=num_tokens,
    **options,
  )


def depths(result):
  return {d for row in result.rows for d in row.exit_depths}


# MARK: Modes and batch policies

EXACT = [
  (KVStrategy.DEFERRED, Batching.REFERENCE),
  (KVStrategy.DEFERRED, Batching.RIDE_ALONG),
  (KVStrategy.DEFERRED, Batching.DEPTH_QUEUE),
  (KVStrategy.RECOMPUTE, Batching.REFERENCE),
  (KVStrategy.RECOMPUTE, Batching.RIDE_ALONG),
]


@pytest.mark.parametrize('strategy, batching', EXACT)
def test_random_cases_equal_the_reference(
  case, assert_is_reference, strategy, batching
):
  seen = set()
  for seed in range(3):
    model, prompts, thresholds = case(seed)
    policy = early(
      'max_prob',
      *thresholds,
      window=4,
      kv_strategy=strategy,
      batching=batching,
    )
    result = run(model, prompts, policy)
    assert_is_reference(model, result)
    seen |= depths(result)
  assert seen >= {1, 2, 3, 4}


@pytest.mark.parametrize('batch_size', [1, 3])
def test_batches_of_other_sizes_equal_the_reference(
  case, assert_is_reference, batch_size
):
  for seed in range(4, 6):
    model, prompts, thresholds = case(seed, batch_size=batch_size)
    result = run(model, prompts, early('max_prob', *thresholds, window=4))
    assert_is_reference(model, result)


@pytest.mark.parametrize(
  'policy',
  [
    early(),
    early(kv_strategy=KVStrategy.RECOMPUTE),
    early(batching=Batching.DEPTH_QUEUE),
    Policy(Mode.SPECULATIVE, 'max_prob', (None,), draft_length=3),
  ],
  ids=['deferred', 'recompute', 'queue', 'speculative'],
)
def test_windows_of_one_width_alone_change_nothing(
  case, assert_is_reference, monkeypatch, policy
):
  monkeypatch.setattr(
    'eejax.decoding.loop.plan.window_widths', lambda window, **_: (window,)
  )
  model, prompts, thresholds = case(1)
  policy = dataclasses.replace(policy, thresholds=thresholds, window=4)
  assert_is_reference(model, run(model, prompts, policy))


def test_a_policy_of_mode_full_asks_no_exit(case, assert_is_reference):
  model, prompts, _ = case(0)
  result = run(model, prompts, Policy())
  assert_is_reference(model, result)
  assert depths(result) == {4}
  assert result.accounting.head_calls == 4 * NUM_TOKENS


# MARK: Ends of the range of thresholds


def test_thresholds_0_and_1_and_never(case, assert_is_reference):
  # Exit iff score >= threshold: 0 always does, 1 only where certain, never
  # not even there.
  model, prompts, _ = case(1)
  always = run(model, prompts, early('max_prob', None, 0.0, None))
  assert depths(always) == {2}
  certain = run(model, prompts, early('max_prob', 1.0, 1.0, 1.0, window=2))
  never = run(model, prompts, early('max_prob', None, window=2))
  assert depths(certain) == depths(never) == {4}
  for result in (always, certain, never):
    assert_is_reference(model, result)


def test_a_certain_exit_passes_threshold_1(case):
  # A head whose probabilities are 0 and 1, as a saturated gate has.
  (config, params), prompts, _ = case(1)
  scale = params['exits']['exit_1']['norm']['scale'] * 1e4
  certain = {**params['exits']['exit_1'], 'norm': {'scale': scale}}
  exits = {**params['exits'], 'exit_1': certain}
  model = config, {**params, 'exits': exits}
  result = run(model, prompts, early('max_prob', 1.0, 1.0, 1.0, window=2))
  assert depths(result) == {1, 4}
  scores = [s for r in result.rows for s in r.scores if s is not None]
  assert set(scores) == {1.0}
  never = run(model, prompts, early('max_prob', None, window=2))
  assert depths(never) == {4}


# MARK: Criteria that need more than one head


@pytest.mark.parametrize(
  'criterion, thresholds, batching',
  [
    ('patience(1)', (1.0, 1.0, 1.0), Batching.RIDE_ALONG),
    ('cosine', (0.5, 0.75, 0.7), Batching.RIDE_ALONG),
    ('js', (0.5, 0.6, 0.6), Batching.RIDE_ALONG),
    # A row that waits halfway has to remember what it saw.
    ('kl', (0.5, 0.2, 0.2), Batching.DEPTH_QUEUE),
  ],
)
def test_criteria_that_compare_exits(
  case, assert_is_reference, criterion, thresholds, batching
):
  seen = set()
  for seed in (2, 3):
    model, prompts, _ = case(seed)
    policy = early(criterion, *thresholds, window=2, batching=batching)
    result = run(model, prompts, policy)
    assert_is_reference(model, result)
    seen |= depths(result)
  # No exit was asked before the first, so it is not taken.
  assert 1 not in seen and len(seen) >= 2


# MARK: Endings


@pytest.mark.parametrize(
  'batching', [Batching.RIDE_ALONG, Batching.DEPTH_QUEUE]
)
def test_rows_end_one_by_one(case, batching):
  model, prompts, thresholds = case(0)
  policy = early('max_prob', *thresholds, window=2, batching=batching)
  whole = run(model, prompts, policy)
  eos = whole.rows[1].tokens[3]
  ended = run(model, prompts, policy, eos_ids=(eos,))
  for row, free in zip(ended.rows, whole.rows, strict=True):
    stops = eos in free.tokens
    end = free.tokens.index(eos) + 1 if stops else NUM_TOKENS
    assert row.tokens == free.tokens[:end]
    assert row.exit_depths == free.exit_depths[:end]
    reason = FinishReason.EOS if stops else FinishReason.LENGTH
    assert row.finish_reason is reason


@pytest.mark.parametrize(
  'batching', [Batching.RIDE_ALONG, Batching.DEPTH_QUEUE]
)
def test_logits_that_are_no_numbers_end_one_row_alone(case, batching):
  (config, params), prompts, thresholds = case(0)
  policy = early('max_prob', *thresholds, window=4, batching=batching)
  whole = run((config, params), prompts, policy)
  used = {t for r in whole.rows for t in r.tokens[:6]} | set(sum(prompts, []))
  unused = next(t for t in range(3, 29) if t not in used)
  # One row meets the token in its prompt, another where it emits it.
  at = whole.rows[2].tokens[4]
  for poison, row, kept in [(unused, 0, 0), (at, 2, None)]:
    broken = list(prompts)
    if kept is not None:
      broken[row] = [*prompts[row], poison]
    else:
      kept = whole.rows[2].tokens.index(at) + 1
    table = params['backbone']['embedding']['table'].at[poison].set(np.nan)
    backbone = {**params['backbone'], 'embedding': {'table': table}}
    model = config, {**params, 'backbone': backbone}
    result = run(model, broken, policy)
    assert result.rows[row].finish_reason is FinishReason.NON_FINITE
    assert len(result.rows[row].tokens) == kept
    assert np.isfinite(result.rows[row].logprobs).all()
    for number, (one, free) in enumerate(
      zip(result.rows, whole.rows, strict=True)
    ):
      if number == row:
        continue
      met = poison in free.tokens
      end = free.tokens.index(poison) + 1 if met else NUM_TOKENS
      assert one.tokens == free.tokens[:end]
      assert (one.finish_reason is FinishReason.NON_FINITE) == (
        met and end < NUM_TOKENS
      )


# MARK: Bad input


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'window': 49}, 'a window of 49 tokens is longer than the context'),
    ({'thresholds': (0.5, 0.5)}, '2 thresholds for 3 exits'),
    ({'minimum_depth': 4}, 'no exit is as deep as the minimum depth 4'),
  ],
)
def test_policies_that_do_not_fit_the_model(case, fields, message):
  model, prompts, _ = case(0)
  policy = Policy(**{'mode': Mode.EARLY_EXIT, 'thresholds': (0.5,), **fields})
  with pytest.raises(ArgumentError, match=message) as caught:
    run(model, prompts, policy)
  assert str(caught.value).count('\n') == 0


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'criterion': 'stable'}, 'is an oracle'),
    ({'criterion': 'no_such'}, 'no criterion'),
    (
      {
        'batching': Batching.DEPTH_QUEUE,
        'kv_strategy': KVStrategy.RECOMPUTE,
      },
      'another batching than depth_queue',
    ),
    (
      {'batching': Batching.DEPTH_QUEUE, 'threshold_rule': 'adaptive'},
      'another batching than depth_queue',
    ),
    ({'window': 0}, 'window must be at least 1'),
    ({'thresholds': ()}, 'needs a threshold'),
    # EE-LLM takes 40 for never, without a word.
    ({'thresholds': (40.0,)}, r'must lie in \[0, 1\] or be never'),
    ({'thresholds': (float('nan'),)}, r'must lie in \[0, 1\]'),
  ],
)
def test_policies_that_contradict_themselves(fields, message):
  with pytest.raises(ArgumentError, match=message):
    Policy(**{'mode': Mode.EARLY_EXIT, 'thresholds': (0.5,), **fields})
