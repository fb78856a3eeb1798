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

from eejax.decoding.engine import Engine, EngineLimits
from eejax.decoding.generate import FULL_DEPTH, generate
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError
from eejax.evaluation.kv_error import kv_error
from eejax.testing import tiny

EXITS = '1:norm,2:block'
KINDS = tiny.KINDS_OF_RECURRENT_BLOCK
NUM_TOKENS = 11
DRAFTS = Policy(
  Mode.SPECULATIVE, 'max_prob', (0.0,), draft_depth=1, draft_length=3
)


@pytest.fixture
def model(kind, lively):
  return lively(EXITS, num_layers=3, **KINDS[kind])


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
  return Policy(Mode.EARLY_EXIT, 'max_prob', (0.4, 0.3), window=4, **fields)


@pytest.mark.parametrize(
  'kind, strategy',
  [
    ('mamba', KVStrategy.DEFERRED),
    ('mamba', KVStrategy.MASK),
    ('hybrid', KVStrategy.PROPAGATE),
    ('mamba2', KVStrategy.RECOMPUTE),
  ],
)
def test_early_exits_equal_the_reference(
  model, prompts, assert_is_reference, strategy
):
  result = run(model, prompts, early_exit(kv_strategy=strategy))
  assert_is_reference(model, result)
  assert len({d for row in result.rows for d in row.exit_depths}) >= 2


@pytest.mark.parametrize('kind', ['mamba', 'hybrid'])
def test_speculative_equals_full_with_drafts_that_fail(model, prompts):
  full = run(model, prompts)
  found = run(model, prompts, DRAFTS)
  assert [r.tokens for r in found.rows] == [r.tokens for r in full.rows]
  assert found.accounting.drafted > NUM_TOKENS
  assert found.accounting.accepted < found.accounting.drafted


@pytest.mark.parametrize('kind', ['mamba'])
def test_states_after_catch_up_are_those_of_a_full_pass(model, prompts):
  config, params = model
  error = kv_error(
    params, config=config, prompts=prompts, policy=early_exit(), steps=9
  )
  assert error < 1e-5


@pytest.mark.parametrize('kind', ['mamba'])
def test_a_state_cannot_be_copied_from_another_block(model, prompts):
  with pytest.raises(ArgumentError, match='means nothing to another'):
    run(model, prompts, early_exit(kv_strategy=KVStrategy.COPY))


@pytest.mark.parametrize('kind', ['mamba'])
def test_an_engine_starts_every_text_anew(model, prompts):
  config, params = model
  limits = EngineLimits(slots=2, max_length=40, min_prefix=1)
  engine = Engine(params, config=config, policy=FULL_DEPTH, limits=limits)
  again = prompts[2] + [5]
  ids = [engine.submit(p, max_new_tokens=NUM_TOKENS) for p in [*prompts, again]]
  while not engine.is_idle:
    engine.step()
  found = [engine.result(i).tokens for i in ids]
  wanted = [row.tokens for row in run(model, prompts).rows]
  assert found[:-1] == wanted
  assert found[-1] == run(model, [again]).rows[0].tokens
  assert engine.stats().reused_tokens == 0
