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

import pytest

from eejax.analysis.part_costs import (
  ModelCost,
  SharedReads,
  in_seconds,
  model_cost,
)
from eejax.errors import ArgumentError
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


def test_shapes_give_the_sizes():
  # 16 wide, 4 heads over 2 of 6, MLP of 20, 29 tokens.
  config = tiny.tiny_config('1:norm:gate,3:mlp:untied')
  found = model_cost(config, bytes_per_value=2)
  attention = 16 * 24 + 2 * 16 * 12 + 24 * 16
  block = attention + 3 * 16 * 20 + 2 * 16
  assert found.block == 2 * block
  assert found.segment_blocks == (1, 2, 1)
  assert found.heads == (
    2 * (16 + 16 * 29),
    2 * (16 + 3 * 16 * 20 + 16 * 29),
    2 * (16 + 16 * 29),
  )
  assert found.gates == (2 * (16 + 16 + 1), 0.0, 0.0)
  assert found.exit_blocks == (0.0, 0.0, 0.0)


def test_an_exits_own_block_runs_with_its_segment():
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
