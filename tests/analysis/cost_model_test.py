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
"""Test predicted costs against sums by hand."""

import numpy as np
import pytest

from eejax.analysis.cost_model import (
  CountedCost,
  DecodeCost,
  ModelCost,
  SharedReads,
  in_seconds,
  model_cost,
  work_of_depths,
)
from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.replay import Work, full_work
from eejax.errors import ArgumentError
from eejax.hardware import Hardware
from eejax.testing import tiny

MODEL = ModelCost(
  block=10.0,
  matrix=4.0,
  stage_blocks=(3, 3, 6),
  exit_blocks=(0.0, 10.0, 0.0),
  heads=(7.0, 8.0, 5.0),
  gates=(1.0, 1.0, 0.0),
)
WORK = Work(
  tokens=10,
  stage_runs=np.array([[10, 0], [3, 1], [1, 1]]),
  widths=(1, 8),
  checks=np.array([9, 4, 0]),
  taken=np.array([6, 2, 2]),
)


def test_gates_read_only_the_head_that_is_taken():
  cost = DecodeCost(MODEL, reads_logits=False)
  blocks = 10 * 30 + 4 * 40 + 2 * 60
  assert cost.of(WORK) == blocks + 6 * 7 + 2 * 8 + 2 * 5 + 9 + 4


def test_criteria_of_logits_read_every_head_that_is_asked():
  cost = DecodeCost(MODEL, reads_logits=True)
  blocks = 10 * 30 + 4 * 40 + 2 * 60
  assert cost.of(WORK) == blocks + 9 * 7 + 4 * 8 + 2 * 5


def test_windows_may_cost_more():
  cheap = DecodeCost(MODEL, reads_logits=False)
  dear = DecodeCost(
    MODEL, reads_logits=False, shared=SharedReads((1, 8), (1.0, 1.5))
  )
  assert dear.of(WORK) - cheap.of(WORK) == 0.5 * (40 + 60)


def test_steps_and_checks_cost_beside_blocks():
  plain = DecodeCost(MODEL, reads_logits=True)
  more = DecodeCost(MODEL, reads_logits=True, step=2.0, check=3.0)
  assert more.of(WORK) - plain.of(WORK) == 2 * 10 + 3 * 13
  assert more.full_token == plain.full_token + 2


class TestSharedReads:
  def test_what_is_between_is_interpolated_and_beyond_goes_on(self):
    shared = SharedReads((1, 4, 8), (1.0, 1.0, 3.0))
    found = [shared.of(n) for n in (1, 2, 4, 6, 8, 10)]
    assert found == [1.0, 1.0, 1.0, 2.0, 3.0, 4.0]
    assert SharedReads().of(9) == 1.0

  def test_a_roofline_is_flat_until_arithmetic_shows(self):
    machine = Hardware('x', {'bfloat16': 400.0}, 1.0, 10.0, 1.0, 1)
    # 2 bytes at 10 a second against 2 operations at 400: 40 tokens are free.
    shared = SharedReads.on(
      machine, dtype='bfloat16', bytes_per_value=2, most=80
    )
    assert [shared.of(n) for n in (1, 40, 60, 80)] == [1.0, 1.0, 1.5, 2.0]

  @pytest.mark.parametrize(
    'tokens, factors', [((1, 2), (1.0,)), ((2,), (1.0,)), ((1,), (0.9,))]
  )
  def test_what_cannot_be_is_refused(self, tokens, factors):
    with pytest.raises(ArgumentError):
      SharedReads(tokens, factors)


@pytest.mark.parametrize('reads_logits', [True, False])
def test_full_decoding_is_as_fast_as_itself(reads_logits):
  model = ModelCost(
    10.0, 4.0, (3, 3, 6), (0.0, 0.0, 0.0), (7.0, 8.0, 5.0), (1,) * 3
  )
  cost = DecodeCost(model, reads_logits=reads_logits, step=3.0, check=2.0)
  assert cost.speedup(full_work(9, num_exits=2)) == 1.0
  assert model.full_token == 125.0
  assert model.head_in_blocks == 0.5


def test_a_model_that_ends_early_reads_that_head():
  cost = DecodeCost(MODEL, reads_logits=True)
  ends = Work(
    tokens=4,
    stage_runs=np.array([[4, 0], [0, 0], [0, 0]]),
    widths=(1, 8),
    checks=np.array([0, 0, 0]),
    taken=np.array([4, 0, 0]),
  )
  assert cost.of(ends) == 4 * (30 + 7)


def test_shapes_give_the_sizes():
  # 16 wide, 4 heads over 2 of 6, MLP of 20, 29 tokens.
  config = tiny.tiny_config('1:norm:gate,3:mlp:untied')
  found = model_cost(config, bytes_per_value=2)
  attention = 16 * 24 + 2 * 16 * 12 + 24 * 16
  block = attention + 3 * 16 * 20 + 2 * 16
  assert found.block == 2 * block
  assert found.stage_blocks == (1, 2, 1)
  assert found.heads == (
    2 * (16 + 16 * 29),
    2 * (16 + 3 * 16 * 20 + 16 * 29),
    2 * (16 + 16 * 29),
  )
  assert found.gates == (2 * (16 + 16 + 1), 0.0, 0.0)
  assert found.exit_blocks == (0.0, 0.0, 0.0)


def test_an_exits_own_block_runs_with_its_stage():
  found = model_cost(tiny.tiny_config('2:block'))
  assert found.exit_blocks == (found.block, 0.0)
  assert found.heads[0] == found.heads[1]


def test_measured_times_take_the_place_of_bytes():
  found = in_seconds(MODEL, block=20.0, matrix=100.0)
  assert (found.block, found.matrix) == (20.0, 100.0)
  # The matrix as measured, the rest of a head as a block's bytes.
  assert found.heads == (106.0, 108.0, 102.0)
  assert found.gates == (2.0, 2.0, 0.0)
  assert found.exit_blocks == (0.0, 20.0, 0.0)
  assert found.full_token == 12 * 20 + 102


class TestCountedCost:
  cost = CountedCost(
    block=2.0,
    head=3.0,
    shared=SharedReads((1, 5), (1.0, 3.0)),
    step=1.0,
    check=0.5,
    rows=4,
  )

  def test_a_step_of_all_rows_pays_every_read_once(self):
    # Two steps of four rows at full depth: 12 reads serve a token of each.
    work = Accounting(blocks_run=24 * 4, head_calls=8)
    batch = BatchAccounting(block_reads=24, head_reads=2)
    assert self.cost.of(work, batch, tokens=8) == 24 * 2 + 2 * 3 + 2

  def test_windows_cost_as_they_are_wide(self):
    # Each read serves 3 tokens of each row: a factor of 2.
    work = Accounting(blocks_run=20 * 4, exit_blocks_run=16 * 4)
    batch = BatchAccounting(block_reads=12, head_reads=2)
    assert self.cost.of(work, batch, tokens=8) == 12 * 2 * 2 + 2 * 3 + 2

  def test_heads_that_are_asked_besides_cost_a_check(self):
    work = Accounting(blocks_run=24 * 4, head_calls=20)
    batch = BatchAccounting(block_reads=24, head_reads=5)
    found = self.cost.of(work, batch, tokens=8)
    assert found == 24 * 2 + 5 * 3 + 2 + 3 * 0.5


def test_work_of_depths_counts_windows():
  depths = [np.array([3, 3, 12, 6]), np.array([12])]
  work = work_of_depths(depths, [3, 6, 12], window=8)
  assert work.tokens == 5
  assert work.taken.tolist() == [2, 1, 2]
  # The third token takes two along; the fourth stops after the second stage.
  # The second row is one token at full depth.
  windows = (work.stage_runs * np.array(work.widths)).sum(axis=1)
  assert work.stage_runs.sum(axis=1).tolist() == [5, 3, 2]
  assert windows[0] == 5 and windows[1] >= 5 and windows[2] >= 4
