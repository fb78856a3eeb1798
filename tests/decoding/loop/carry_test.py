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
"""Tests of the decode step's carry: decisions part rows, nothing is mutated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.loop.carry import begin_step, commit
from eejax.decoding.loop.exit_decision import ExitDecision, ExitRows, HeadOutput
from eejax.decoding.loop.exit_scoring import HeadInput
from eejax.decoding.policy.policy import Mode, Policy


@pytest.fixture(scope='module')
def batch(lively, session, prompts):
  """Return four rows before their first token, of a model with two exits."""
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,), window=4)
  return session(lively('1:norm,2:norm'), policy, prompts)


def test_rows_that_exit_are_done_and_the_others_go_on(batch):
  carry = begin_step(batch.params, batch.state, plan=batch.plan)
  before = [np.array(leaf) for leaf in jax.tree.leaves(carry)]
  came = jnp.array([True, True, True, False])
  exits = jnp.array([False, True, False, False])
  number = jnp.arange(4, dtype=jnp.float32)
  rows = ExitRows(came, HeadInput(carry.exit_input, None, carry.position))
  decision = ExitDecision(
    exits,
    HeadOutput(jnp.arange(4) + 10, -number, number / 4),
    logits_computed=came,
    memory=carry.memory,
  )
  after = commit(carry, rows, decision, 1, plan=batch.plan)
  done = len(batch.plan.segments)
  assert after.next_segment.tolist() == [2, done, 2, 0]
  assert after.exit_segment.tolist() == [0, 1, 0, 0]
  emission = after.emission
  assert emission.num.tolist() == [0, 1, 0, 0]
  assert int(emission.token[1, 0]) == 11 and int(emission.depth[1, 0]) == 2
  assert [e.logits_computed.tolist() for e in after.events] == [
    [0] * 4,
    [1, 1, 1, 0],
    [0] * 4,
  ]
  # The carry that went in says what it said.
  for leaf, value in zip(jax.tree.leaves(carry), before, strict=True):
    np.testing.assert_array_equal(leaf, value)


def test_a_step_feeds_the_rows_that_do_not_wait_halfway(batch):
  resume = jnp.array([0, 2, 0, 0])
  live = jnp.array([True, True, True, False])
  state = batch.state.replace(resume_segment=resume, live=live)
  carry = begin_step(batch.params, state, plan=batch.plan)
  assert carry.next_segment.tolist() == [0, 2, 0, 3]
  fed = np.asarray(carry.length - state.length)
  assert fed.tolist() == [1, 0, 1, 0] and int(carry.fed) == 2
