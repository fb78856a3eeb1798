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
"""Tests of counting, by hand."""

import jax.numpy as jnp

from eejax.decoding.loop import accounting
from eejax.decoding.loop.accounting import (
  Accounting,
  BatchAccounting,
  SegmentEvent,
)
from eejax.decoding.loop.plan import make_plan
from eejax.decoding.policy.policy import Mode, Policy
from eejax.ops.sampling import SamplingMethod
from eejax.testing import tiny


def event(ran, width, active, asked):
  asked = jnp.array(asked).astype(jnp.int32)
  return SegmentEvent(
    jnp.array(ran), jnp.array(width), jnp.array(active), asked
  )


def test_one_step_by_hand():
  # Row 0 leaves at the first exit, row 1 goes on, row 2 has ended. The second
  # segment takes 3 tokens of each row, the third runs for nobody.
  events = (
    event(True, [1, 1, 0], [True, True, False], [True, True, False]),
    event(True, [3, 3, 0], [False, True, False], [False, True, False]),
    event(False, [4, 4, 0], [False, False, False], [False, False, False]),
  )
  counts = accounting.no_counts(batch_size=3, num_segments=3)
  counts = accounting.count_step(counts, events)
  assert counts.segment_runs.tolist() == [1, 1, 0]
  assert counts.head_runs.tolist() == [1, 1, 0]
  assert counts.passes.tolist() == [[1, 3, 0], [1, 3, 0], [0, 0, 0]]
  assert counts.catch_up.tolist() == [[0, 3, 0], [0, 2, 0], [0, 0, 0]]
  assert counts.head_calls.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
  again = accounting.count_step(counts, events)
  assert again.passes.tolist() == [[2, 6, 0], [2, 6, 0], [0, 0, 0]]


def test_block_counts_follow_from_the_sizes_of_segments():
  config = tiny.tiny_config('1:block,3:norm')
  plan, _ = make_plan(
    config,
    policy=Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,)),
    method=SamplingMethod.GREEDY,
  )
  counts = accounting.Counts(
    segment_runs=jnp.array([10, 4, 2]),
    head_runs=jnp.array([10, 3, 2]),
    passes=jnp.array([[10, 9, 8]]),
    catch_up=jnp.array([[0, 5, 6]]),
    head_calls=jnp.array([[10, 4, 2]]),
    drafted=jnp.array([[5, 3, 0]]),
    accepted=jnp.array([[4, 1, 0]]),
    accepted_at=jnp.array([[4, 3, 2, 0]]),
  )
  found = accounting.row_accounting(counts, plan=plan, row=0, num_tokens=10)
  assert found == Accounting(
    blocks_run=10 * 1 + 9 * 2 + 8 * 1,
    blocks_full=40,
    catch_up_blocks=5 * 2 + 6 * 1,
    exit_blocks_run=10,
    head_calls=16,
    drafted=8,
    accepted=5,
    draft_windows=4,
    accepted_at=(3, 2, 0),
  )
  assert found.acceptance == 5 / 8
  assert accounting.batch_accounting(counts, plan=plan) == BatchAccounting(
    block_reads=10 * 2 + 4 * 2 + 2 * 1,
    head_reads=15,
    segment_runs=(10, 4, 2),
    segment_head_reads=(10, 3, 2),
  )
  assert BatchAccounting(1, 2, (3, 4), (0, 2)) + BatchAccounting(
    1, 1, (1,), (1,)
  ) == BatchAccounting(2, 3, (4, 4), (1, 2))
  assert found + Accounting(1, 2, 3, 4, 5, accepted_at=(1,)) == Accounting(
    *(37, 42, 19, 14, 21, 8, 5), draft_windows=4, accepted_at=(4, 2, 0)
  )
