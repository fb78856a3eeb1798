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
"""Tests of what stands in for keys and values of skipped blocks."""

import itertools

import numpy as np
import pytest

from eejax.decoding.generate import generate
from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError

NUM_TOKENS = 13
BATCHINGS = [Batching.REFERENCE, Batching.RIDE_ALONG, Batching.DEPTH_QUEUE]
STAND_INS = [
  KVStrategy.PROPAGATE,
  KVStrategy.COPY,
  KVStrategy.MASK,
  KVStrategy.MONOTONE,
]


def early(*thresholds, **fields):
  return Policy(Mode.EARLY_EXIT, 'max_prob', thresholds, **fields)


def run(model, prompts, policy, num_tokens=NUM_TOKENS):
  return generate(
    model[1],
    config=model[0],
    prompts=prompts,
    policy=policy,
    max_new_tokens=num_tokens,
  )


def texts(result):
  return [(r.tokens, r.exit_depths) for r in result.rows]


# MARK: Against the reference


@pytest.fixture(scope='module')
def exact_texts(case):
  found = []
  for seed in range(2):
    model, prompts, _ = case(seed)
    policy = early(0.3, 0.45, 0.4, window=8)
    found.append(texts(run(model, prompts, policy)))
  return found


@pytest.mark.parametrize(
  'strategy, batching', itertools.product(STAND_INS, BATCHINGS)
)
def test_random_cases_equal_the_reference(
  case, exact_texts, assert_is_reference, strategy, batching
):
  differ, seen = 0, set()
  for seed in range(2):
    model, prompts, _ = case(seed)
    policy = early(
      0.3, 0.45, 0.4, kv_strategy=strategy, batching=batching, window=4
    )
    result = run(model, prompts, policy)
    assert_is_reference(model, result)
    seen |= {d for r in result.rows for d in r.exit_depths}
    differ += exact_texts[seed] != texts(result)
  # Stand-ins show in the text, or the test would see little.
  assert differ and len(seen) >= 3


@pytest.mark.parametrize('strategy', STAND_INS)
def test_no_token_is_caught_up(case, strategy):
  model, prompts, _ = case(0)
  result = run(model, prompts, early(0.3, 0.45, 0.4, kv_strategy=strategy))
  for row in result.rows:
    # Skipped blocks are skipped for good.
    assert row.accounting.blocks_run == sum(row.exit_depths)
    assert row.accounting.catch_up_blocks == 0


def test_depths_never_rise_under_monotone(case):
  model, prompts, _ = case(2)
  policy = early(0.3, 0.4, 0.4, kv_strategy=KVStrategy.MONOTONE)
  rows = run(model, prompts, policy).rows
  assert all((np.diff(r.exit_depths) <= 0).all() for r in rows)
  assert any(len(set(r.exit_depths)) > 1 for r in rows)


# MARK: Recomputation


def test_recomputation_runs_the_pending_span_again(case, session):
  # EE-LLM's cost: a token that exits makes the next one start from it.
  window = 4
  model, prompts, _ = case(0)
  always = early(
    1e-30,
    None,
    None,
    window=window,
    kv_strategy=KVStrategy.RECOMPUTE,
  )
  batch = session(model, always, prompts)
  batch.run(3 * window)
  passes = np.asarray(batch.state.counts.passes)
  assert (passes[:, 0] == 3 * window * (window + 1) // 2).all()
  assert (passes[:, 1] == 3 * window).all()
  # The same text, without: each token once.
  kept = session(
    model,
    early(1e-30, None, None, window=window),
    prompts,
  )
  kept.run(3 * window)
  assert (np.asarray(kept.state.counts.passes) == 3 * window).all()
  assert (batch.state.tokens == kept.state.tokens).all()


# MARK: Bad input


def test_there_is_nothing_to_copy_before_the_first_block(lively):
  model = lively('0:norm,2:norm')
  policy = early(0.5, kv_strategy=KVStrategy.COPY)
  with pytest.raises(ArgumentError, match='none before the exit at depth 0'):
    run(model, [[3, 4]], policy)


def test_the_window_of_exact_strategies_alone_is_bounded(case):
  model, prompts, _ = case(0)
  with pytest.raises(ArgumentError, match='a window of 49 tokens'):
    run(model, prompts, early(0.5, window=49))
