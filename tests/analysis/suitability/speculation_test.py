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
"""Test predicted speed-ups of self-speculation against closed forms."""

import numpy as np
import pytest

from eejax.analysis.suitability.speculation import (
  SpeculationCost,
  expected_yield,
  run_yield,
  speculation,
)
from eejax.errors import ArgumentError

FREE_HEAD = SpeculationCost(head=0.0)


def test_yield_of_runs_by_hand():
  agree = np.array([1, 1, 0, 1, 1, 1], bool)
  joined = np.array([0, 1, 1, 1, 0, 1], bool)
  total, whole = run_yield(agree, joined, length=2)
  assert whole.tolist() == [True, True, True, False, True, False]
  assert total[whole].tolist() == [3, 2, 1, 3]


def test_independent_agreement_yields_the_geometric_sum():
  random = np.random.default_rng(0)
  agree = random.random(200_000) < 0.8
  joined = np.arange(200_000) > 0
  total, whole = run_yield(agree, joined, length=4)
  closed = (1 - 0.8**5) / (1 - 0.8)
  assert expected_yield(0.8, 4) == pytest.approx(closed)
  assert total[whole].mean() == pytest.approx(closed, abs=0.02)


def test_identical_depths_give_the_closed_form(planted):
  tokens = np.tile(np.arange(32) % 11, (9, 1))
  captured = planted.of_logits(
    planted.logits_of_tokens(tokens), rows=np.arange(32) // 16
  )
  cost = SpeculationCost(head=0.5, window=1.25)
  found = speculation(captured, cost=cost, lengths=(1, 4))
  # Every draft is kept, so the shallowest exit and the longest draft win.
  best = found[0]
  assert (best.depth, best.length, best.yielded) == (1, 4, 5)
  price = 4 * 1.5 + 1 + (7 + 0.5) * 1.25
  assert best.speedup.value == pytest.approx(8.5 * 5 / price)
  assert best.agreement == 1


def test_an_exit_that_is_never_right_only_costs(planted):
  tokens = [[1] * 16, [1] * 16, [1] * 16, [2] * 16]
  captured = planted.of_logits(planted.logits_of_tokens(tokens))
  best = speculation(captured, cost=FREE_HEAD, lengths=(1, 2))[0]
  assert best.yielded == 1
  assert best.length == 1
  assert best.speedup.value == pytest.approx(3 / 4)


def test_the_order_of_positions_does_not_matter(mixed):
  mixing = np.random.default_rng(0).permutation(96)
  plain = speculation(mixed, cost=FREE_HEAD)
  mixed_up = speculation(mixed.at_positions(mixing), cost=FREE_HEAD)
  assert [s.yielded for s in mixed_up] == pytest.approx(
    [s.yielded for s in plain]
  )


def test_rows_shorter_than_a_round_fall_back_on_independence(planted):
  tokens = [[1, 1], [1, 1], [1, 1]]
  captured = planted.of_logits(planted.logits_of_tokens(tokens))
  best = speculation(captured, cost=FREE_HEAD, lengths=(6,))[0]
  assert best.speedup.value == pytest.approx(2 * 7 / (6 + 2))


def test_what_cannot_draft_is_said(mixed):
  with pytest.raises(ArgumentError, match='at least 1'):
    speculation(mixed, cost=FREE_HEAD, lengths=(0,))
  with pytest.raises(ArgumentError, match='can draft'):
    speculation(mixed.at_readouts([0, 4]), cost=FREE_HEAD)
  with pytest.raises(ArgumentError, match='window'):
    SpeculationCost(head=1.0, window=0.5)


@pytest.mark.parametrize('name', ['row', 'segment', 'position'])
def test_rounds_do_not_go_on_in_another_text(planted, name):
  # The first nine always agree and the rest never does; a round that went
  # on over the border would yield less than all of its drafts.
  tokens = [[1] * 9 + [2] * 7] * 2 + [[1] * 9 + [3] * 7]
  captured = planted.of_logits(
    planted.logits_of_tokens(tokens), rows=np.zeros(16, int)
  )
  border = np.repeat([0, 1], [9, 7])
  values = captured.position + 5 * border if name == 'position' else border
  parted = planted.with_arrays(captured, **{name: values})
  mean = lambda c: speculation(c, cost=FREE_HEAD, lengths=(2,))[0].yielded
  # Whole rounds of two, all or nothing beside the full model's own token.
  assert mean(parted) == pytest.approx((8 * 3 + 6 * 1) / 14)
  assert mean(captured) != pytest.approx(mean(parted))
