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
"""Tests of decoding with blocks that keep a state."""

import pytest

from eejax.decoding.generate import FULL_DEPTH, generate
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.testing import tiny

EXITS = '1:norm,2:bottleneck_mlp(3),3:block'
KINDS = tiny.KINDS_OF_RECURRENT_BLOCK
NUM_TOKENS = 13
EXACT = (KVStrategy.DEFERRED, KVStrategy.RECOMPUTE)


@pytest.fixture
def model(kind, lively):
  return lively(EXITS, **KINDS[kind])


def run(model, prompts, policy=FULL_DEPTH):
  config, params = model
  return generate(
    params,
    config=config,
    prompts=prompts,
    policy=policy,
    max_new_tokens=NUM_TOKENS,
  )


def early_exit(**fields):
  return Policy(
    Mode.EARLY_EXIT, 'max_prob', (0.3, 0.45, 0.4), window=4, **fields
  )


@pytest.mark.parametrize(
  'kind, strategy',
  [
    *((kind, KVStrategy.DEFERRED) for kind in KINDS),
    ('mamba', KVStrategy.RECOMPUTE),
  ],
)
def test_early_exits_equal_the_reference(
  model, prompts, assert_is_reference, strategy
):
  result = run(model, prompts, early_exit(kv_strategy=strategy))
  assert_is_reference(model, result)
  assert len({d for row in result.rows for d in row.exit_depths}) >= 2


@pytest.mark.parametrize('kind', KINDS)
def test_speculative_equals_full_with_drafts_that_fail(
  model, prompts, assert_is_reference
):
  full = run(model, prompts)
  assert_is_reference(model, full)
  policy = Policy(
    Mode.SPECULATIVE, 'max_prob', (0.0,), draft_depth=2, draft_length=3
  )
  for batch in (prompts, prompts[:1]):
    found = run(model, batch, policy)
    for ours, theirs in zip(found.rows, full.rows, strict=False):
      assert ours.tokens == theirs.tokens
    assert found.accounting.drafted > NUM_TOKENS
    assert found.accounting.accepted < found.accounting.drafted
