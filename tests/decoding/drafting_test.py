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
"""Tests of how many tokens are drafted next, and by which exit."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding import drafting
from eejax.decoding.batching import head_in_blocks
from eejax.decoding.plan import Drafting, make_plan
from eejax.decoding.policy import Mode, Policy
from eejax.ops.sampling import SamplingMethod
from eejax.testing.tiny import tiny_config

WINDOW = 8


def plan_of(exits, **fields):
  policy = Policy(
    Mode.SPECULATIVE, 'max_prob', (0.5,), **{'window': WINDOW, **fields}
  )
  plan, _ = make_plan(
    tiny_config(exits, num_layers=12),
    policy=policy,
    method=SamplingMethod.GREEDY,
  )
  return plan


@pytest.fixture(scope='module')
def two():
  return plan_of('2:norm,6:norm')


def choose(plan, kept, tried):
  table = lambda values: jnp.array([values], jnp.float32)
  stage, limit = drafting.choose_draft(table(kept), table(tried), plan=plan)
  return int(stage[0]), int(limit[0])


def best_by_hand(plan, chances):
  """Return the exit and length of the most tokens for their cost."""
  head = head_in_blocks(plan.config)
  worths = {}
  for index, chance in enumerate(chances):
    shallow = sum(s.last - s.first for s in plan.stages[: index + 1])
    deep = plan.depth - shallow
    for k in range(plan.window):
      tokens = sum(chance**i for i in range(k + 1))
      cost = (k + 1) * shallow + k * head + deep * (1 + 0.06 * k) + head
      worths[index, k] = tokens / cost
  return max(worths, key=lambda choice: worths[choice])


@pytest.mark.parametrize(
  'kept, tried, chances',
  [
    ([0, 0], [1e6, 1e6], (0.0, 0.0)),
    ([1e6, 0], [1e6, 1e6], (1.0, 0.0)),
    ([0, 1e6], [1e6, 1e6], (0.0, 1.0)),
    ([6e5, 9e5], [1e6, 1e6], (0.6, 0.9)),
    ([3e5, 5e5], [1e6, 1e6], (0.3, 0.5)),
    # Nothing is known yet: three of four.
    ([0, 0], [0, 0], (0.75, 0.75)),
  ],
)
def test_the_choice_yields_most_for_its_cost(two, kept, tried, chances):
  assert choose(two, kept, tried) == best_by_hand(two, chances)


def test_what_is_never_kept_is_not_drafted(two):
  assert choose(two, [0, 0], [1e6, 1e6])[1] == 0


def test_what_is_always_kept_is_drafted_as_far_as_there_is_room(two):
  assert choose(two, [1e6, 0], [1e6, 1e6]) == (0, WINDOW - 1)


def test_of_equal_exits_the_cheaper_one_drafts(two):
  assert choose(two, [1e6, 1e6], [1e6, 1e6])[0] == 0


def test_a_fixed_length_is_kept_to(two):
  plan = plan_of('2:norm,6:norm', draft_length=3)
  assert plan.drafting is Drafting.FIXED
  for kept in ([0, 0], [1e6, 0]):
    assert choose(plan, kept, [1e6, 1e6])[1] == 3


def test_numbers_stay_finite(two):
  for kept in (0.0, 1e30):
    stage, limit = choose(two, [kept, kept], [kept, kept])
    assert stage in (0, 1) and 0 <= limit < WINDOW


# MARK: Learning


def learn(draft, plan, *, rows, tried, kept):
  return drafting.learn(
    draft,
    rows=jnp.array(rows),
    tried=jnp.array(tried),
    kept=jnp.array(kept),
    plan=plan,
  )


def test_only_the_exit_that_drafted_and_only_verified_rows_learn(two):
  draft = drafting.first_draft(two, jnp.array([3, 4]))
  assert draft.tokens[:, 0].tolist() == [3, 4]
  draft = dataclasses.replace(draft, stage=jnp.array([1, 1]))
  after = learn(draft, two, rows=[True, False], tried=[4, 4], kept=[3, 3])
  assert after.tried.tolist() == [[0, 4], [0, 0]]
  assert after.kept.tolist() == [[0, 3], [0, 0]]
  assert after.limit[1] == draft.limit[1]


def test_drafting_stops_where_nothing_is_kept_and_is_tried_again(two):
  draft = drafting.first_draft(two, jnp.array([3]))
  limits = []
  for _ in range(60):
    limit = int(draft.limit[0])
    limits.append(limit)
    # The first draft is rejected, so the others say nothing.
    draft = learn(draft, two, rows=[True], tried=[min(limit, 1)], kept=[0])
  assert limits[0] > 0
  stop = limits.index(0)
  assert stop < 30
  # What was seen long ago counts for less, so somebody tries again.
  for _ in range(400):
    if int(draft.limit[0]):
      break
    draft = learn(draft, two, rows=[True], tried=[0], kept=[0])
  assert int(draft.limit[0]) > 0


def test_an_exit_that_is_kept_is_trusted_further(two):
  draft = drafting.first_draft(two, jnp.array([3]))
  first = int(draft.limit[0])
  for _ in range(30):
    limit = int(draft.limit[0])
    draft = learn(draft, two, rows=[True], tried=[limit], kept=[limit])
  assert int(draft.limit[0]) == WINDOW - 1 > first
  assert np.isfinite(np.asarray(draft.kept)).all()
