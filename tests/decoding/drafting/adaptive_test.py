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

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding import window_costs
from eejax.decoding.drafting import adaptive
from eejax.decoding.loop.plan import Drafting, make_plan
from eejax.decoding.policy.batching import (
  ACCELERATOR,
  CPU,
  Batching,
  head_in_blocks,
)
from eejax.decoding.policy.policy import Mode, Policy
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


def costs_of(plan, *, platform=CPU, rows=1):
  costs = platform.of_windows(rows=rows, longest=plan.window)
  return window_costs.for_rows(costs, rows)


def choice_of(plan, kept, tried, *, costs=None, credit=1e9):
  """Return what rows choose, by numbers of the exits and then of the text.

  Those of the text are the same whatever run is found in it.
  """
  rows = len(kept)
  runs = [1] * plan.num_exits + [adaptive.num_runs(plan)]
  table = lambda values: jnp.repeat(
    jnp.array(values, jnp.float32),
    jnp.array(runs),
    axis=1,
    total_repeat_length=sum(runs),
  )
  costs = costs_of(plan, rows=rows) if costs is None else costs
  draft = dataclasses.replace(
    first_draft(plan, rows=rows),
    kept=table(kept),
    tried=table(tried),
    credit=jnp.full((rows,), credit, jnp.float32),
  )
  return adaptive.choose_draft(draft, plan=plan, window_costs=costs)


def chosen(plan, kept, tried, **more):
  choice = choice_of(plan, [kept], [tried], **more)
  assert len(set(choice.lookup_limits[0].tolist())) == 1
  return (
    int(choice.segment[0]),
    int(choice.limit[0]),
    int(choice.lookup_limits[0, 0]),
  )


def choose(plan, kept, tried):
  segment, limit, lookup_limit = chosen(plan, [*kept, 0], [*tried, 0])
  assert lookup_limit == 0
  return segment, limit


def best_by_hand(plan, chances):
  """Return the exit and length of the most tokens for their cost."""
  head = head_in_blocks(plan.config)
  worths = {}
  for index, chance in enumerate(chances):
    shallow = sum(s.last - s.first for s in plan.segments[: index + 1])
    deep = plan.depth - shallow
    for k in range(plan.window):
      tokens = sum(chance**i for i in range(k + 1))
      cost = (k + 1) * shallow + k * head + (deep + head) * (1 + 0.06 * k)
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


@pytest.mark.parametrize('share', [0.0, 0.2, 0.5, 0.8, 1.0])
def test_the_text_goes_first_where_it_yields_more(share):
  plan = plan_of('2:norm,6:norm', prompt_lookup=2)
  tried = [1e6] * 3
  exits = (0.9, 0.95)
  kept = [*(1e6 * a for a in exits), 1e6 * share]
  head = head_in_blocks(plan.config)
  worths = [
    sum(share**i for i in range(k + 1)) / ((plan.depth + head) * (1 + 0.06 * k))
    for k in range(WINDOW)
  ]
  *_, lookup_limit = chosen(plan, kept, tried)
  segment, limit = best_by_hand(plan, exits)
  assert chosen(plan, kept, tried)[:2] == (segment, limit)
  shallow = plan.segments[segment].last
  cost = (limit + 1) * shallow + limit * head
  cost += (plan.depth - shallow + head) * (1 + 0.06 * limit)
  exits_worth = sum(exits[segment] ** i for i in range(limit + 1)) / cost
  best = int(np.argmax(worths))
  assert lookup_limit == (best if worths[best] > exits_worth else 0)
  assert (lookup_limit > 0) == (share > 0.5)


def test_a_fixed_length_is_looked_up_whatever_was_kept():
  plan = plan_of('2:norm,6:norm', prompt_lookup=2, draft_length=3)
  assert chosen(plan, [1e6, 1e6, 0], [1e6] * 3)[2] == 3


def test_numbers_stay_finite(two):
  for kept in (0.0, 1e30):
    segment, limit = choose(two, [kept, kept], [kept, kept])
    assert segment in (0, 1) and 0 <= limit < WINDOW


# MARK: Batches


def chosen_by(platform, kept, tried, **fields):
  """Return what each row of a batch chooses."""
  plan = looking_up(**fields)
  costs = costs_of(plan, platform=platform, rows=len(kept))
  choice = choice_of(plan, kept, tried, costs=costs)
  lookups = choice.lookup_limits[:, 0]
  return [x.tolist() for x in (choice.segment, choice.limit, lookups)]


def looking_up(**fields):
  return plan_of('2:norm,6:norm', prompt_lookup=2, **fields)


@pytest.mark.parametrize('rows', [2, 3, 8])
def test_a_batch_of_a_processor_bound_by_arithmetic_drafts_nothing(rows):
  kept = [[999.0, 999.0, 999.0]] * rows
  tried = [[1000.0, 1000.0, 1000.0]] * rows
  _, limits, lookup_limits = chosen_by(CPU, kept, tried)
  assert limits == lookup_limits == [0] * rows


def test_a_batch_drafts_where_windows_cost_little():
  kept, tried = [[800.0, 800.0, 999.0]] * 8, [[1000.0] * 3] * 8
  _, limits, lookup_limits = chosen_by(ACCELERATOR, kept, tried)
  # Somebody always verifies, so exits save nothing; the text does.
  assert limits == [0] * 8
  assert lookup_limits == [WINDOW - 1] * 8
  queue = {'batching': Batching.DEPTH_QUEUE}
  _, limits, _ = chosen_by(ACCELERATOR, kept, tried, **queue)
  assert min(limits) > 0


def test_a_batch_of_many_pays_for_its_windows():
  lengths = []
  for rows in (8, 50, 100, 190):
    kept, tried = [[0.0, 0.0, 900.0]] * rows, [[1000.0] * 3] * rows
    *_, lookup_limits = chosen_by(ACCELERATOR, kept, tried)
    lengths.append(lookup_limits[0])
  assert lengths == sorted(lengths, reverse=True)
  assert lengths[0] == WINDOW - 1 and lengths[-1] == 0


def test_rows_choose_by_what_all_of_them_had_kept():
  tried = [[0.0, 0.0, 1000.0]] * 2
  choose = lambda *kept: chosen_by(ACCELERATOR, list(kept), tried)
  unequal = choose([0.0, 0.0, 990.0], [0.0, 0.0, 10.0])
  assert unequal == choose(*[[0.0, 0.0, 500.0]] * 2)
  assert unequal != choose(*[[0.0, 0.0, 990.0]] * 2)


# MARK: Learning


def first_draft(plan, *, rows=1):
  return adaptive.first_draft(
    plan,
    text=jnp.zeros((rows, 16), jnp.int32),
    window_costs=costs_of(plan, rows=rows),
  )


jitted_learn = jax.jit(adaptive.learn, static_argnames='plan')


def learn(draft, plan, *, rows, drafted, kept, costs=None):
  costs = costs_of(plan, rows=len(rows)) if costs is None else costs
  return jitted_learn(
    draft,
    rows=jnp.array(rows),
    fed=jnp.array(drafted) + 1,
    kept=jnp.array(kept),
    plan=plan,
    window_costs=costs,
  )


def test_only_the_exit_that_drafted_and_only_verified_rows_learn(two):
  draft = first_draft(two, rows=2)
  segment = jnp.array([1, 1])
  choice = dataclasses.replace(draft.choice, segment=segment)
  draft = dataclasses.replace(draft, choice=choice)
  # Of five drafts three were kept, and the last says nothing.
  after = learn(draft, two, rows=[True, False], drafted=[5, 5], kept=[3, 3])
  assert after.tried.tolist() == [[0, 4, 0], [0, 0, 0]]
  assert after.kept.tolist() == [[0, 3, 0], [0, 0, 0]]
  assert after.choice.limit[1] == draft.choice.limit[1]


def test_drafts_that_wait_to_be_verified_teach_nothing(two):
  draft = first_draft(two, rows=2)
  told = [
    learn(draft, two, rows=[True, False], drafted=[3, n], kept=[3, 0])
    for n in (0, 7)
  ]
  assert told[0].choice.limit.tolist() == told[1].choice.limit.tolist()
  assert told[1].tried[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize('width', [0, 4])
def test_a_text_with_nothing_to_say_lost_a_draft_in_a_wide_tick(width):
  plan = looking_up()
  costs = costs_of(plan, platform=ACCELERATOR, rows=2)
  draft = adaptive.choose_anew(
    first_draft(plan, rows=2),
    rows=jnp.ones(2, bool),
    plan=plan,
    window_costs=costs,
  )
  assert (draft.choice.lookup_limits > 0).all()
  draft = dataclasses.replace(
    draft, scores=draft.scores.at[0, 1 : 1 + width].set(jnp.nan)
  )
  after = learn(
    draft, plan, rows=[True, True], drafted=[width, 0], kept=[width, 0]
  )
  shortest = plan.num_exits
  assert after.tried[:, shortest].tolist() == [width, int(width > 0)]
  assert after.kept[:, shortest].tolist() == [width, 0]
  # It was not asked to say anything.
  silent = dataclasses.replace(
    draft,
    choice=dataclasses.replace(
      draft.choice,
      lookup_limits=jnp.zeros_like(draft.choice.lookup_limits),
    ),
  )
  after = learn(
    silent, plan, rows=[True, True], drafted=[width, 0], kept=[width, 0]
  )
  assert not after.tried[1].any()


def test_what_was_looked_up_says_nothing_of_the_exit(two):
  draft = first_draft(two)
  # Two drafts of the exit, then four of the text, of which two were kept.
  scores = draft.scores.at[0, 3:].set(jnp.nan)
  draft = dataclasses.replace(draft, scores=scores)
  after = learn(draft, two, rows=[True], drafted=[6], kept=[4])
  assert after.kept.tolist() == [[2, 0, 2]]
  assert after.tried.tolist() == [[2, 0, 3]]
  window = jnp.arange(WINDOW)[None]
  drafts = (window > 0) & (window <= 6)
  assert adaptive.by_segment(draft, drafts, plan=two).tolist() == [[2, 0, 4]]


def test_each_length_of_run_is_trusted_as_it_was_kept():
  plan = looking_up()
  assert adaptive.num_runs(plan) == 3
  draft = first_draft(plan)
  draft = dataclasses.replace(draft, scores=jnp.full((1, WINDOW), jnp.nan))
  for run, kept in ((0, 0), (2, 7)) * 20:
    told = dataclasses.replace(draft, run=jnp.array([run]))
    draft = learn(told, plan, rows=[True], drafted=[7], kept=[kept])
  short, between, long = draft.choice.lookup_limits[0].tolist()
  assert short == 0 and long == WINDOW - 1 and 0 < between < long


def test_drafting_stops_where_nothing_is_kept_and_is_tried_again(two):
  draft = first_draft(two)
  limits = []
  for _ in range(60):
    limit = int(draft.choice.limit[0])
    limits.append(limit)
    # The first draft is rejected, so the others say nothing.
    draft = learn(draft, two, rows=[True], drafted=[limit], kept=[0])
  assert limits[0] > 0
  stop = limits.index(0)
  assert stop < 30
  # What was seen long ago counts for less, so somebody tries again.
  for _ in range(400):
    if int(draft.choice.limit[0]):
      break
    draft = learn(draft, two, rows=[True], drafted=[0], kept=[0])
  assert int(draft.choice.limit[0]) > 0


# MARK: What may be lost


def lossy(plan, steps, *, cost, kept_of):
  """Return what each of some steps drafted, each window costing `cost`."""
  costs = jnp.full((1, WINDOW), cost).at[0, 0].set(1.0)
  draft = first_draft(plan)
  draft = adaptive.choose_anew(
    draft, rows=jnp.array([True]), plan=plan, window_costs=costs
  )
  draft = dataclasses.replace(draft, scores=jnp.full((1, WINDOW), jnp.nan))
  drafted, lost, tokens = [], 0.0, 0
  for _ in range(steps):
    limit = int(draft.choice.lookup_limits[0, 0])
    kept = kept_of(limit)
    drafted.append(limit)
    lost += (cost if limit else 1.0) - (kept + 1)
    tokens += kept + 1
    draft = learn(
      draft, plan, rows=[True], drafted=[limit], kept=[kept], costs=costs
    )
  return drafted, lost, tokens


@pytest.mark.parametrize('cost', [1.02, 1.4, 1.65, 2.3])
def test_no_text_loses_more_than_it_may(cost):
  plan = plan_of('', prompt_lookup=2)
  drafted, lost, tokens = lossy(plan, 150, cost=cost, kept_of=lambda _: 0)
  assert tokens == 150
  assert 0 < lost <= 1.0 + 0.01 * tokens
  assert drafted.count(0) > 0 or cost < 1.03
  # What it may lose grows, so it tries again.
  assert any(drafted[20:])


def test_a_window_that_costs_more_than_may_be_lost_is_not_tried():
  plan = plan_of('', prompt_lookup=2)
  drafted, *_ = lossy(plan, 20, cost=9.0, kept_of=lambda limit: limit)
  assert not any(drafted)


def test_what_was_gained_may_be_lost_again():
  plan = plan_of('', prompt_lookup=2)
  drafted, lost, _ = lossy(plan, 30, cost=1.65, kept_of=lambda limit: limit)
  assert set(drafted) == {WINDOW - 1} and lost == pytest.approx(-30 * 6.35)


def test_a_model_without_exits_chooses_for_the_text_alone():
  plan = plan_of('', prompt_lookup=2)
  assert plan.num_exits == 0
  assert chosen(plan, [1e6], [1e6]) == (0, 0, WINDOW - 1)
  assert chosen(plan, [0.0], [1e6]) == (0, 0, 0)


def test_windows_that_cost_what_a_wide_one_does_are_wide_or_none():
  plan = plan_of('', prompt_lookup=2)
  costs = jnp.full((1, WINDOW), 1.65).at[0, 0].set(1.0)
  limits = [
    chosen(plan, [share * 1e6], [1e6], costs=costs)[2]
    for share in (0.2, 0.38, 0.42, 0.9)
  ]
  assert limits == [0, 0, WINDOW - 1, WINDOW - 1]


def test_an_exit_that_is_kept_is_trusted_further(two):
  draft = first_draft(two)
  first = int(draft.choice.limit[0])
  for _ in range(30):
    limit = int(draft.choice.limit[0])
    draft = learn(draft, two, rows=[True], drafted=[limit], kept=[limit])
  assert int(draft.choice.limit[0]) == WINDOW - 1 > first
  assert np.isfinite(np.asarray(draft.kept)).all()
