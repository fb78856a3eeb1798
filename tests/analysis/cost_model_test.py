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

import dataclasses

import numpy as np
import pytest

from eejax.analysis.cost_model import DecodeCost, decode_cost
from eejax.analysis.part_costs import ModelCost, SharedReads, in_seconds
from eejax.decoding.generate import generate
from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.replay import DecodeWork, full_work, replay
from eejax.evaluation.part_times import PartTimes
from eejax.hardware import Hardware
from eejax.testing import tiny

MODEL = ModelCost(
  block=10.0,
  matrix=4.0,
  segment_blocks=(3, 3, 6),
  exit_blocks=(0.0, 10.0, 0.0),
  heads=(7.0, 8.0, 5.0),
  gates=(1.0, 1.0, 0.0),
)
WORK = DecodeWork(
  tokens=10,
  segment_runs=np.array([[10, 0], [3, 1], [1, 1]]),
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
  ends = DecodeWork(
    tokens=4,
    segment_runs=np.array([[4, 0], [0, 0], [0, 0]]),
    widths=(1, 8),
    checks=np.array([0, 0, 0]),
    taken=np.array([4, 0, 0]),
  )
  assert cost.of(ends) == 4 * (30 + 7)


def test_work_of_depths_counts_windows():
  cost = DecodeCost(MODEL, reads_logits=True)
  work = cost.work_of_depths([np.array([3, 3, 12, 6]), np.array([12])])
  assert work.tokens == 5
  assert work.taken.tolist() == [2, 1, 2]
  # The third token takes two along; the fourth stops after the second segment.
  # The second row is one token at full depth.
  windows = (work.segment_runs * np.array(work.widths)).sum(axis=1)
  assert work.segment_runs.sum(axis=1).tolist() == [5, 3, 2]
  assert windows[0] == 5 and windows[1] >= 5 and windows[2] >= 4


class TestCounts:
  cost = DecodeCost(
    ModelCost(2.0, 3.0, (6, 6), (0.0, 0.0), (4.0, 3.0), (0.25, 0.0)),
    reads_logits=True,
    shared=SharedReads((1, 5), (1.0, 3.0)),
    step=1.0,
    check=0.5,
    rows=4,
  )

  def test_a_step_of_all_rows_pays_every_read_once(self):
    # Two steps of four rows at full depth: 12 reads serve a token of each.
    work = Accounting(blocks_run=24 * 4, head_calls=8)
    batch = BatchAccounting(24, 2, (2, 2), (0, 2))
    assert self.cost.of_counts(work, batch) == 24 * 2 + 2 * 3 + 2
    full = self.cost.speedup_of_counts(work, batch, tokens=8)
    assert full == pytest.approx(1.0)

  def test_windows_cost_as_they_are_wide(self):
    # Each read serves 3 tokens of each row: a factor of 2.
    work = Accounting(blocks_run=20 * 4, exit_blocks_run=16 * 4)
    batch = BatchAccounting(12, 2, (2, 2), (0, 2))
    assert self.cost.of_counts(work, batch) == 12 * 2 * 2 + 2 * 3 + 2

  def test_exits_that_are_asked_cost_their_head_and_a_check(self):
    work = Accounting(blocks_run=24 * 4, head_calls=20)
    batch = BatchAccounting(24, 5, (3, 2), (3, 2))
    found = self.cost.of_counts(work, batch)
    assert found == 24 * 2 + 3 * 4 + 2 * 3 + 3 + 3 * 0.5

  def test_a_gate_is_read_where_a_segment_ran(self):
    cost = dataclasses.replace(self.cost, reads_logits=False)
    work = Accounting(blocks_run=24 * 4, head_calls=8)
    batch = BatchAccounting(24, 3, (3, 2), (1, 2))
    found = cost.of_counts(work, batch)
    assert found == 48 + 4 + 6 + 3 + 3 * 0.5 + 3 * 0.25


# MARK: What a plan runs

EXITS = '1:norm,2:mlp,3:norm'


@pytest.fixture(scope='module')
def model():
  """Return a model whose exits are taken at times, and prompts for it."""
  config = tiny.tiny_config(EXITS, num_layers=5)
  return config, tiny.tiny_params(config), [[3, 4, 5]]


@pytest.mark.parametrize(
  'thresholds',
  [
    (0.05, 0.05, 0.05),
    (None, 0.05, None),
    (0.06, None, 0.05),
    (None, 0.0, 0.05),
    (None, None, None),
  ],
)
def test_predictions_count_what_decoding_runs(model, thresholds):
  config, params, prompts = model
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', thresholds, window=4)
  result = generate(
    params,
    config=config,
    prompts=prompts,
    policy=policy,
    max_new_tokens=20,
    eos_ids=(),
  )
  cost = decode_cost(config, policy)
  depths = [np.array(row.exit_depths) for row in result.rows]
  counted = cost.of_counts(result.accounting, result.batch)
  assert cost.of_depths(depths) == pytest.approx(counted)
  full = decode_cost(config, Policy())
  assert full.full_token == cost.full_token
  assert full.speedup_of_depths([np.full(20, 5)]) == 1.0


def test_exits_that_are_never_taken_are_not_asked(model):
  config, _, _ = model
  thresholds = (None, 0.06, None)
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', thresholds, window=4)
  alone = decode_cost(
    config.with_exits(config.exits[1:2]),
    dataclasses.replace(policy, thresholds=(0.06,)),
  )
  ours = decode_cost(config, policy)
  assert ours == alone
  # A cost of all exits leaves them out of a replay, too.
  every = decode_cost(
    config, dataclasses.replace(policy, thresholds=(0.5,) * 3)
  )
  scores = np.random.default_rng(0).random((3, 2, 30), np.float32)
  counted = np.ones((2, 30), bool)
  found = replay(
    scores,
    counted=counted,
    thresholds=np.array([[np.inf, 0.06, np.inf]], np.float32),
    window=4,
  )
  depths = [np.where(row == 1, 2, 5) for row in found.taken[0]]
  assert every.of(found.work[0]) == pytest.approx(ours.of_depths(depths))


def test_the_mlp_and_the_block_of_an_exit_cost():
  depths = [np.array([2, 2, 2, 5])]
  speed = {}
  for kind in ('norm', 'mlp', 'block'):
    config = tiny.tiny_config(f'2:{kind}', num_layers=5)
    policy = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,))
    speed[kind] = decode_cost(config, policy).speedup_of_depths(depths)
  assert speed['norm'] > speed['mlp'] > speed['block']


def test_parts_are_measured_or_those_of_a_machine(model):
  config, _, _ = model
  policy = Policy(Mode.EARLY_EXIT, 'max_prob', (0.5,), window=4)
  times = PartTimes(
    blocks=10.0,
    head=3.0,
    step=1.0,
    check=0.5,
    widths=(1, 4),
    factors=(1.0, 2.0),
    rows=2,
  )
  timed = decode_cost(config, policy, times=times)
  assert timed.model == in_seconds(
    decode_cost(config, policy).model, block=2.0, matrix=3.0
  )
  assert (timed.step, timed.check, timed.rows) == (1.0, 0.5, 2)
  assert timed.shared.of(4) == 2.0
  machine = Hardware('x', {'float32': 800.0}, 1.0, 100.0, 1.0, 1)
  cost = decode_cost(
    config, dataclasses.replace(policy, window=32), hardware=machine
  )
  by_bytes = decode_cost(config, policy)
  assert cost.full_token == pytest.approx(by_bytes.full_token / 100)
  # 4 bytes at 100 a second against 2 operations at 800: 16 tokens are free.
  assert (cost.shared.of(16), cost.shared.of(32)) == (1.0, 2.0)
