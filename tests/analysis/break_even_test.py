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
import math

import numpy as np
import pytest

from eejax.analysis import break_even
from eejax.analysis.break_even import ExitMix
from eejax.analysis.cost_model import DecodeCost
from eejax.analysis.part_costs import ModelCost, SharedReads, model_cost
from eejax.config import architectures
from eejax.decoding.policy.policy import KVStrategy
from eejax.decoding.replay import replay
from eejax.errors import ArgumentError

# 12 blocks of 1; heads of half a block.
ONE = ModelCost(1.0, 0.5, (4, 8), (0.0, 0.0), (0.5, 0.5), (0.1, 0.0))
TWO = ModelCost(1.0, 0.5, (3, 3, 6), (0.0,) * 3, (0.5,) * 3, (0.1, 0.1, 0.0))
DEAR = SharedReads((1, 2, 4, 8), (1.0, 1.3, 1.8, 3.0))


def replayed(cost, willing, *, window, tokens=40_000):
  """Return the speed-up of tokens that are willing at random."""
  random = np.random.default_rng(0)
  drawn = random.random((100, tokens // 100))
  scores = np.stack([drawn < q for q in willing]).astype(np.float32)
  work = replay(
    scores,
    counted=np.ones(drawn.shape, bool),
    thresholds=np.full((1, len(willing)), 0.5, np.float32),
    window=window,
  ).work[0]
  return cost.speedup(work)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize('reads_logits', [True, False])
@pytest.mark.parametrize('window', [1, 5, 8])
def test_one_exit_is_as_a_replay_of_it(share, reads_logits, window):
  cost = DecodeCost(
    ONE, reads_logits=reads_logits, shared=DEAR, step=0.2, check=0.05
  )
  found = break_even.speedup(cost, ExitMix((share,), window=window))
  expected = replayed(cost, (share,), window=window)
  assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize('willing', [(0.2, 0.5), (0.6, 0.7), (0.0, 0.9)])
def test_several_exits_are_nearly_as_a_replay_of_them(willing):
  cost = DecodeCost(TWO, reads_logits=True, shared=DEAR, step=0.2)
  found = break_even.speedup(cost, ExitMix(willing))
  assert found == pytest.approx(replayed(cost, willing, window=8), rel=0.05)


def test_exits_that_nobody_takes_cost_what_asking_costs():
  cost = DecodeCost(ONE, reads_logits=True, step=0.5, check=0.25)
  found = break_even.token_cost(cost, ExitMix((0.0,)))
  assert found == pytest.approx(12 + 0.5 + 0.5 + 0.5 + 0.25)
  gated = DecodeCost(ONE, reads_logits=False)
  assert break_even.token_cost(gated, ExitMix((0.0,))) == pytest.approx(12.6)


def test_everybody_leaving_runs_the_rest_once_a_window():
  # 4 blocks a token, 8 for 5 tokens at once; one of the five is not asked.
  cost = DecodeCost(ONE, reads_logits=True)
  found = break_even.token_cost(cost, ExitMix((1.0,), window=5))
  assert found == pytest.approx(4 + 8 / 5 + 0.5)


def test_rows_that_ride_along_leave_only_together():
  cost = DecodeCost(ONE, reads_logits=True)
  alone = break_even.speedup(cost, ExitMix((0.7,)))
  four = break_even.speedup(cost, ExitMix((0.7,), rows=4))
  assert 1 < four < alone
  same = break_even.token_cost(cost, ExitMix((1.0,), rows=4))
  assert same == pytest.approx(break_even.token_cost(cost, ExitMix((1.0,))))


def test_strategies_differ_by_what_stands_in():
  cost = DecodeCost(ONE, reads_logits=True)
  price = lambda kind, **more: break_even.token_cost(
    cost, ExitMix((0.6,), kv_strategy=kind, **more)
  )
  skipped = 0.6 * 8
  head = 0.5 + 0.4 * 0.5
  assert price(KVStrategy.COPY) == pytest.approx(12 - skipped + head)
  assert price(KVStrategy.MASK) == price(KVStrategy.COPY)
  filled = price(KVStrategy.PROPAGATE, fill=0.25)
  assert filled == pytest.approx(12 - 0.75 * skipped + head)
  assert price(KVStrategy.RECOMPUTE) >= price(KVStrategy.DEFERRED)


class TestBreakEven:
  def test_it_is_where_the_speedup_is_one(self):
    cost = DecodeCost(ONE, reads_logits=True, shared=DEAR, step=0.1)
    share = break_even.break_even(cost, 0, window=8)
    assert 0 < share < 1
    at = lambda s: break_even.speedup(cost, ExitMix((s,)))
    assert at(share) == pytest.approx(1, abs=1e-5)
    assert at(share + 0.01) > 1 > at(share - 0.01)

  def test_it_may_never_pay(self):
    dear = SharedReads((1, 8), (1.0, 8.0))
    cost = DecodeCost(ONE, reads_logits=True, shared=dear)
    assert break_even.break_even(cost, 0, window=8) is None

  def test_what_costs_nothing_to_ask_always_pays(self):
    free = ModelCost(1.0, 0.0, (4, 8), (0.0,) * 2, (0.0,) * 2, (0.0,) * 2)
    share = break_even.break_even(
      DecodeCost(free, reads_logits=True), 0, window=8
    )
    assert share == pytest.approx(0, abs=1e-3)


# Of the reference's table: head and K/V projections of a layer.
@pytest.mark.parametrize(
  'name, head, keys',
  [
    ('llama_2_7b', 0.65, 0.166),
    ('llama_3_8b', 2.41, 0.038),
    ('qwen3_8b', 3.23, 0.043),
  ],
)
def test_shares_of_known_models(name, head, keys):
  model = architectures.read_model(name)
  assert break_even.kv_share(model) == pytest.approx(keys, abs=6e-4)
  from eejax.config import EarlyExitConfig

  found = model_cost(EarlyExitConfig(model))
  assert found.head_in_blocks == pytest.approx(head, abs=6e-3)


@pytest.mark.parametrize(
  'willing, more',
  [
    ((0.5, 0.3), {}),
    ((1.1,), {}),
    ((-0.1,), {}),
    ((math.nan,), {}),
    ((), {}),
    ((0.5,), {'window': 0}),
    ((0.5,), {'rows': 0}),
    ((0.5,), {'fill': -1.0}),
  ],
)
def test_mixes_that_cannot_be_are_refused(willing, more):
  with pytest.raises(ArgumentError):
    ExitMix(willing, **more)


def test_a_mix_has_the_models_exits():
  cost = DecodeCost(TWO, reads_logits=True)
  with pytest.raises(ArgumentError, match='2 exits, and shares were given'):
    break_even.token_cost(cost, ExitMix((0.5,)))
  assert ExitMix.of_shares((0.25, 0.5)).willing == (0.25, 0.75)
