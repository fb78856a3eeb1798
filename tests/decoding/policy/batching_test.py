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
"""Tests of batch policies: rows stay apart, deep ones wait, none starve."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.generate import generate
from eejax.decoding.policy.batching import (
  ACCELERATOR,
  CPU,
  Batching,
  Cycle,
  PlatformCosts,
  new_cycle,
  pays,
  platform_costs,
)
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError

NEVER = float('inf')
ALWAYS = 1e-30
WINDOW = 4


def early(*thresholds, **fields):
  return Policy(
    Mode.EARLY_EXIT, 'max_prob', thresholds, **{'window': WINDOW, **fields}
  )


def run(model, prompts, policy, num_tokens=13):
  return generate(
    model[1],
    config=model[0],
    prompts=prompts,
    policy=policy,
    max_new_tokens=num_tokens,
  )


def assert_rows_equal(found, expected):
  for a, b in zip(found, expected, strict=True):
    assert (a.tokens, a.exit_depths) == (b.tokens, b.exit_depths)
    number = lambda row: np.array(row.scores, float)
    np.testing.assert_allclose(number(a), number(b), atol=2e-4)


# MARK: The rule, by hand


def cycle_of(*, spent, fed, steps):
  number = lambda x: jnp.asarray(x, jnp.float32)
  return Cycle(number(spent), number(fed), number(steps))


@pytest.mark.parametrize(
  'upstream, is_due',
  [
    # 8 tokens for 4 + 6 blocks are 0.8 a block; a step upstream costs 2.
    (0, True),
    (1, True),  # 0.5 more a block
    (2, False),  # 1.0
    (4, False),
  ],
)
def test_a_segment_runs_when_another_tick_would_yield_less(upstream, is_due):
  cycle = cycle_of(spent=4, fed=8, steps=2)
  assert bool(pays(cycle, cost=6, upstream=jnp.asarray(upstream))) is is_due


@pytest.mark.parametrize('steps', [1, 10, 1000])
def test_while_as_many_come_as_ever_nothing_is_gained_by_running(steps):
  # Every step feeds 3 rows for 2 blocks: patience without end.
  cycle = cycle_of(spent=2 * steps, fed=3 * steps, steps=steps)
  upstream = jnp.asarray(3)
  assert not pays(cycle, cost=1, upstream=upstream)
  # A segment that costs nothing need not wait.
  assert pays(cycle, cost=0, upstream=upstream)
  assert bool(pays(cycle, cost=1, upstream=upstream, patience=10)) is (
    steps >= 10
  )


def test_a_cycle_begins_anew_when_its_segment_has_run():
  cycle = new_cycle()
  for spent, fed in [(2.0, 4), (2.0, 3)]:
    cycle = cycle.after_step(spent=jnp.float32(spent), fed=jnp.asarray(fed))
  values = dataclasses.astuple(cycle)
  assert tuple(map(float, values)) == (4.0, 7.0, 2.0)
  assert cycle.renewed_if(jnp.asarray(False)) == cycle
  renewed = dataclasses.astuple(cycle.renewed_if(jnp.asarray(True)))
  assert tuple(map(float, renewed)) == (0.0, 0.0, 0.0)


# MARK: Rows


@pytest.mark.parametrize(
  'batching', [Batching.RIDE_ALONG, Batching.DEPTH_QUEUE, Batching.REFERENCE]
)
def test_each_row_follows_its_own_scores(case, session, batching):
  # Not the last row's (EE-LLM), nor what all agree on (PABEE, CALM).
  model, prompts, _ = case(0)
  stays, leaves, deep = [NEVER] * 3, [ALWAYS] * 3, [NEVER, NEVER, ALWAYS]
  policy = early(0.5, 0.5, 0.5, batching=batching)
  for own in ([leaves, stays, deep, stays], [stays, deep, leaves, leaves]):
    batch = session(model, policy, prompts, thresholds=own, num_tokens=8)
    emitted = batch.run(32)
    assert not np.asarray(batch.state.live).any()
    for row, thresholds in enumerate(own):
      is_there = np.asarray(emitted.num)[:, row] == 1
      found = np.asarray(emitted.depth)[is_there, row, 0]
      first = {id(leaves): 1, id(stays): 4, id(deep): 3}[id(thresholds)]
      wanted = [4 if n % WINDOW == WINDOW - 1 else first for n in range(8)]
      assert found.tolist() == wanted


def test_rows_of_a_queue_equal_their_single_row_runs(case):
  model, prompts, _ = case(1)
  fields = {'thresholds': (0.3, 0.4, 0.45), 'window': WINDOW}
  queue, alone = (
    Policy(Mode.EARLY_EXIT, 'max_prob', batching=b, **fields)
    for b in (Batching.DEPTH_QUEUE, Batching.RIDE_ALONG)
  )
  together = run(model, prompts, queue).rows
  singles = [run(model, [p], alone).rows[0] for p in prompts]
  assert_rows_equal(together, singles)


# MARK: Waiting


def test_a_queue_runs_deep_blocks_once_a_window(case, session):
  # One row wants depth, three never do: the rule gives them all the time
  # there is, until their window forces them, too.
  model, prompts, _ = case(0, exits='1:norm')
  own = [[NEVER], [ALWAYS], [ALWAYS], [ALWAYS]]
  runs = {}
  for batching in (Batching.DEPTH_QUEUE, Batching.RIDE_ALONG):
    policy = early(0.5, batching=batching)
    batch = session(model, policy, prompts, thresholds=own, num_tokens=30)
    num = np.asarray(batch.run(6 * WINDOW).num)[: 6 * WINDOW]
    runs[batching] = np.asarray(batch.state.counts.segment_runs).tolist()
    waits = np.arange(1, 6 * WINDOW + 1) % WINDOW != 0
    patient = batching is Batching.DEPTH_QUEUE
    assert (num[:, 0] == (~waits if patient else 1)).all()
    assert (num[:, 1:] == 1).all()
  assert runs[Batching.DEPTH_QUEUE] == [6 * WINDOW, 6]
  assert runs[Batching.RIDE_ALONG] == [6 * WINDOW, 6 * WINDOW]


def test_no_row_starves_where_nothing_forces_depth(case, session):
  # With stand-ins the others never come deep, whatever their window.
  model, prompts, _ = case(0, exits='1:norm')
  policy = early(
    0.5, kv_strategy=KVStrategy.MASK, batching=Batching.DEPTH_QUEUE
  )
  own = [[NEVER], [ALWAYS], [ALWAYS], [ALWAYS]]
  batch = session(model, policy, prompts, thresholds=own, num_tokens=30)
  num = np.asarray(batch.run(6 * WINDOW).num)[: 6 * WINDOW]
  assert num.sum(axis=0).tolist() == [6, *[6 * WINDOW] * 3]
  assert longest_wait(num) == WINDOW


def test_no_row_starves_behind_several_exits(case, session):
  # Of X exits, each lets a token wait for (W + 1)^(X - 1) steps a token of
  # the others at most, who have W of them before they are there, too.
  model, prompts, _ = case(0)
  policy = early(0.5, 0.5, 0.5, batching=Batching.DEPTH_QUEUE)
  rng = np.random.default_rng(3)
  for _ in range(4):
    own = rng.choice([ALWAYS, NEVER, 0.3, 0.4, 0.5], (4, 3)).tolist()
    batch = session(model, policy, prompts, thresholds=own, num_tokens=30)
    num = np.asarray(batch.run(32).num)
    assert longest_wait(num) <= (WINDOW + 1) ** 3
    # In a step some row emits, or nobody would have had to wait.
    assert (num.sum(axis=1) > 0)[np.asarray(num.cumsum(0) < 30).any(1)].all()
    # And far below it, in practice.
    assert longest_wait(num) <= 3 * WINDOW


def longest_wait(num):
  """Return the most steps from one token of a row to its next."""
  gaps = []
  for row in num.T:
    at = np.flatnonzero(np.concatenate([[1], row]))
    gaps += np.diff(at).tolist()
    if row.sum() < 30:
      gaps.append(len(row) - int(at[-1]))
  return max(gaps)


# MARK: Platforms


@pytest.mark.parametrize(
  'platform, costs', [('cpu', CPU), ('gpu', ACCELERATOR), ('tpu', ACCELERATOR)]
)
def test_a_device_says_what_tokens_cost(platform, costs):
  device = mock.Mock(spec=jax.Device, platform=platform)
  assert platform_costs(device) is costs
  assert platform_costs() is CPU


@pytest.mark.parametrize(
  'costs, message',
  [
    ({'free_tokens': 0}, 'free tokens must be at least 1'),
    ({'free_tokens': 2, 'window_cost': 1.5}, 'window cost must lie in'),
  ],
)
def test_costs_out_of_range_are_refused(costs, message):
  with pytest.raises(ArgumentError, match=message):
    PlatformCosts(**costs)
