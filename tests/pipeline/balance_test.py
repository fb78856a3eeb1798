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
"""Test balancing against every way to cut a model."""

import itertools

import pytest

from eejax.errors import ArgumentError
from eejax.pipeline.balance import (
  Boundary,
  PlacedExit,
  StagePlacement,
  balanced,
  even_ends,
  given_ends,
  pace,
  place,
  stage_costs,
)
from eejax.pipeline.cost import Keep, StageCost

BLOCK = StageCost(1.0, 2.0)
FINAL = StageCost(0.0, 0.0, 2.0, 4.0)


def every_placement(num_blocks, places, exits):
  """Yield all cuts with all choices at their boundaries."""
  for inner in itertools.combinations(range(1, num_blocks), places - 1):
    ends = (*inner, num_blocks)
    sides = [
      {place([e], ends=ends, boundary=b).exit_places[0] for b in Boundary}
      for e in exits
    ]
    for chosen in itertools.product(*sides):
      yield StagePlacement(ends, chosen)


def slowest(placement, exits, keep):
  costs = stage_costs(placement, block=BLOCK, exits=exits, final=FINAL)
  return max(pace(costs, keep=keep))


class TestPlace:
  def test_sides_of_a_boundary(self):
    exits = [PlacedExit(0), PlacedExit(2), PlacedExit(3), PlacedExit(6)]
    ends = (2, 4, 6)
    after = place(exits, ends=ends, boundary=Boundary.AFTER)
    before = place(exits, ends=ends, boundary=Boundary.BEFORE)
    assert after.exit_places == (0, 1, 1, 2)
    assert before.exit_places == (0, 0, 1, 2)
    assert after.starts == (0, 2, 4)
    assert after.blocks == (2, 2, 2)

  def test_an_exit_inside_its_block_does_not_move(self):
    exits = [PlacedExit(2, movable=False)]
    assert place(exits, ends=(2, 4)).exit_places == (0,)

  def test_ends(self):
    assert even_ends(7, places=3) == (3, 5, 7)
    assert given_ends((1, 4, 2), num_blocks=7) == (1, 5, 7)

  def test_bad_input(self):
    with pytest.raises(ArgumentError, match='2 blocks cannot be cut into 3'):
      even_ends(2, places=3)
    with pytest.raises(ArgumentError, match='exit at depth 5 stands on a st'):
      place([PlacedExit(5)], ends=(2, 4))
    for sizes in ((1, 2), (3, 0)):
      with pytest.raises(ArgumentError, match='do not make the 4 blocks'):
        given_ends(sizes, num_blocks=4)


class TestBalanced:
  @pytest.mark.parametrize('keep', Keep)
  @pytest.mark.parametrize(
    'num_blocks, places, exits',
    [
      (9, 3, []),
      (8, 4, [PlacedExit(2, 2.0, 4.0), PlacedExit(4, 2.0, 4.0)]),
      (8, 3, [PlacedExit(3, 3.0, 6.0, movable=False), PlacedExit(8, 1.0, 1.0)]),
      (7, 2, [PlacedExit(0, 2.0, 4.0), PlacedExit(1, 5.0, 9.0)]),
      (4, 4, [PlacedExit(d, 2.0, 4.0) for d in (1, 2, 3)]),
    ],
  )
  def test_no_cut_is_faster(self, keep, num_blocks, places, exits):
    found = balanced(
      num_blocks,
      places=places,
      block=BLOCK,
      exits=exits,
      final=FINAL,
      keep=keep,
    )
    every = list(every_placement(num_blocks, places, exits))
    assert found in every
    best = min(slowest(p, exits, keep) for p in every)
    assert slowest(found, exits, keep) == best

  def test_no_stage_is_slower_than_that_of_the_final_head(self):
    # 24 equal blocks, heads of two blocks, exits at 1/4 and 1/2: even stages.
    exits = [PlacedExit(6, 2.0, 4.0), PlacedExit(12, 2.0, 4.0)]
    found = place(exits, ends=even_ends(24, places=4))
    costs = stage_costs(found, block=BLOCK, exits=exits, final=FINAL)
    paces = pace(costs, keep=Keep.RESIDUALS)
    assert paces == [18.0, 24.0, 24.0, 24.0]
    better = balanced(24, places=4, block=BLOCK, exits=exits, final=FINAL)
    assert slowest(better, exits, Keep.RESIDUALS) <= 24

  def test_it_refuses_what_does_not_fit(self):
    fields = {'block': BLOCK, 'final': FINAL}
    with pytest.raises(ArgumentError, match='cannot be cut into 3'):
      balanced(2, places=3, exits=[], **fields)
    with pytest.raises(ArgumentError, match='not loaded'):
      balanced(4, places=2, exits=[PlacedExit(5)], **fields)
