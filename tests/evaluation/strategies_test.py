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
"""Test strategies of decoding and grids of them."""

import pytest

from eejax.decoding.policy.batching import Batching
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.errors import ArgumentError
from eejax.evaluation.strategies import Grid, Strategy
from eejax.testing import tiny

CONFIG = tiny.tiny_config('1:norm:gate,3:mlp:gate')


def test_a_grid_combines_what_makes_sense():
  grid = Grid(
    criteria=('max_prob', 'margin'),
    thresholds=(0.5, None),
    prompt_lookups=(None,),
    kv_strategies=(KVStrategy.DEFERRED, KVStrategy.COPY),
    batchings=(Batching.RIDE_ALONG, Batching.REFERENCE),
  )
  strategies = grid.strategies(CONFIG, batch_sizes=(1, 4), window=5)
  assert len(set(strategies)) == len(strategies)
  count = lambda mode, size: sum(
    s.policy.mode is mode and s.batch_size == size for s in strategies
  )
  assert strategies[0] == Strategy(Policy(), 1) and strategies[0].is_full
  assert [count(Mode.FULL, n) for n in (1, 4)] == [1, 1]
  assert [count(Mode.EARLY_EXIT, n) for n in (1, 4)] == [8, 16]
  # Speculation has exact keys and values, and no batching reference.
  assert [count(Mode.SPECULATIVE, n) for n in (1, 4)] == [2, 2]
  assert {s.policy.window for s in strategies if not s.is_full} == {5}


def test_the_criterion_of_the_model_is_usual():
  strategies = Grid().strategies(CONFIG, batch_sizes=(1,))
  assert {s.policy.criterion for s in strategies if not s.is_full} == {'gate'}


def test_a_strategy_is_known_by_plain_values():
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', (1e-9, None), window=4)
  values = Strategy(policy, 3).values()
  assert values['batch_size'] == 3 and values['thresholds'] == [1e-9, 'never']
  assert 'backbone_hash' not in values


def test_a_model_is_checked():
  Strategy(Policy(Mode.EARLY_EXIT, 'gate', (0.5,))).check(CONFIG)
  with pytest.raises(ArgumentError, match='3 thresholds for 2 exits'):
    Strategy(Policy(Mode.EARLY_EXIT, 'gate', (0.5,) * 3)).check(CONFIG)
