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
"""Test schedules by their rules, their diagrams, and lock-step costs."""

import collections
import itertools
import pathlib

import pytest

from eejax.errors import ArgumentError
from eejax.pipeline import cost
from eejax.pipeline.cost import Keep, StageCost, lock_step_cost
from eejax.pipeline.schedule import (
  Schedule,
  ScheduleKind,
  Work,
  bubble,
  cells,
  diagram,
  ring_size,
)

GPIPE, ONE_F_ONE_B = ScheduleKind.GPIPE, ScheduleKind.ONE_F_ONE_B
FORWARD_ONLY = ScheduleKind.FORWARD_ONLY
INTERLEAVED = ScheduleKind.INTERLEAVED
DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'parallelism.md'

SCHEDULES = [
  Schedule(kind, stages, microbatches)
  for kind in (GPIPE, ONE_F_ONE_B, FORWARD_ONLY)
  for stages, microbatches in itertools.product((1, 2, 4), (1, 3, 8))
] + [
  Schedule(INTERLEAVED, 1, 3, 2),
  Schedule(INTERLEAVED, 2, 4, 3),
  Schedule(INTERLEAVED, 4, 8, 2),
  Schedule(ONE_F_ONE_B, 4, 5, fillers=3),
  Schedule(ONE_F_ONE_B, 4, 1, fillers=1),
]


def name(schedule):
  return (
    f'{schedule.kind.value}-{schedule.stages}-{schedule.microbatches}'
    f'-{schedule.rounds}-{schedule.fillers}'
  )


def place(cell, schedule):
  """Return which piece of the model's depth a cell works on."""
  return cell.round * schedule.stages + cell.stage


class TestRules:
  @pytest.mark.parametrize('schedule', SCHEDULES, ids=name)
  def test_every_piece_of_work_is_done_once(self, schedule):
    count = schedule.microbatches + schedule.fillers
    done = collections.Counter(
      (c.work, c.microbatch, place(c, schedule)) for c in cells(schedule)
    )
    assert set(done.values()) == {1}
    works = [Work.FORWARD] + [Work.BACKWARD] * schedule.has_backward
    everywhere = range(schedule.stages * schedule.rounds)
    for work, m in itertools.product(works, range(count)):
      reached = {p for w, n, p in done if (w, n) == (work, m)}
      if m >= schedule.fillers:
        assert reached == set(everywhere)
      else:
        assert reached == set(range(schedule.stages - schedule.fillers + m))

  @pytest.mark.parametrize('schedule', SCHEDULES, ids=name)
  def test_work_follows_what_it_needs(self, schedule):
    when = {
      (c.work, c.microbatch, place(c, schedule)): c.tick
      for c in cells(schedule)
    }
    for (work, m, p), tick in when.items():
      if work is Work.FORWARD and p > 0:
        # What is handed on is there in the very next tick, and not kept.
        assert when[work, m, p - 1] == tick - 1
      if work is Work.BACKWARD:
        assert when[Work.FORWARD, m, p] <= tick
        if (work, m, p + 1) in when:
          assert when[work, m, p + 1] == tick - 1

  @pytest.mark.parametrize('schedule', SCHEDULES, ids=name)
  def test_a_stage_does_one_of_each_in_a_tick(self, schedule):
    done = collections.Counter(
      (c.tick, c.stage, c.work) for c in cells(schedule)
    )
    assert set(done.values()) == {1}
    assert max(c.tick for c in cells(schedule)) == schedule.num_ticks - 1

  @pytest.mark.parametrize('stages, microbatches', [(1, 4), (3, 9), (4, 2)])
  def test_the_ring_holds_what_is_under_way(self, stages, microbatches):
    schedule = Schedule(ONE_F_ONE_B, stages, microbatches)
    held = collections.defaultdict(set)
    most = 0
    for c in cells(schedule):
      if c.work is Work.FORWARD:
        held[c.stage].add(c.microbatch)
        ring = [m % ring_size(stages) for m in held[c.stage]]
        assert len(set(ring)) == len(ring)  # none in another's place
        most = max(most, len(ring))
      else:
        held[c.stage].remove(c.microbatch)
    assert most == min(ring_size(stages), microbatches)


class TestBubble:
  @pytest.mark.parametrize('stages, microbatches', [(1, 3), (4, 6), (8, 32)])
  def test_is_the_known_share(self, stages, microbatches):
    want = (stages - 1) / (microbatches + stages - 1)
    for kind in (GPIPE, ONE_F_ONE_B, FORWARD_ONLY):
      assert bubble(Schedule(kind, stages, microbatches)) == pytest.approx(want)

  def test_rounds_shrink_it(self):
    found = bubble(Schedule(INTERLEAVED, 4, 8, 3))
    assert found == pytest.approx(3 / (3 * 8 + 3))


class TestBadInput:
  @pytest.mark.parametrize(
    'fields, words',
    [
      ((GPIPE, 0, 2), 'stages >= 1'),
      ((GPIPE, 2, 0), 'microbatches >= 1'),
      ((GPIPE, 2, 4, 2), 'gpipe has one round'),
      ((INTERLEAVED, 4, 6, 2), '6 microbatches must be a multiple'),
      ((GPIPE, 4, 6, 1, 1), 'at most 0 fillers, not 1'),
      ((ONE_F_ONE_B, 4, 6, 1, 4), 'at most 3 fillers, not 4'),
    ],
  )
  def test_is_refused_in_a_sentence(self, fields, words):
    with pytest.raises(ArgumentError, match=words):
      Schedule(*fields)


# Forward, backward and head of equal stages: binary fractions add up exactly.
F, B, HEAD = 2.0, 4.5, StageCost(0.0, 0.0, 0.75, 1.5)


def equal_stages(stages, exits=()):
  """Return equal stages with the final head on the last and some exits."""
  heads = {*exits, stages - 1}
  return [
    StageCost(
      F, B, (s in heads) * HEAD.head_forward, (s in heads) * HEAD.head_backward
    )
    for s in range(stages)
  ]


class TestLockStepCost:
  @pytest.mark.parametrize('stages, microbatches', [(1, 5), (2, 2), (4, 16)])
  def test_without_exits(self, stages, microbatches):
    schedule = Schedule(ONE_F_ONE_B, stages, microbatches)
    want = (stages - 1) * (F + B) + microbatches * (F + B + HEAD.head)
    assert lock_step_cost(schedule, equal_stages(stages)) == want

  @pytest.mark.parametrize('microbatches', [4, 16, 64])
  @pytest.mark.parametrize('exits', [(0,), (1,), (2,), (1, 2), (0, 1), (0, 2)])
  def test_exits_cost_what_the_formula_says(self, exits, microbatches):
    schedule = Schedule(ONE_F_ONE_B, 4, microbatches)
    without = lock_step_cost(schedule, equal_stages(4))
    found = lock_step_cost(schedule, equal_stages(4, exits)) - without
    formula = cost.exit_overhead(
      schedule, first_stage=min(exits), head=HEAD.head
    )
    assert found == formula

  def test_behind_each_other_they_cost_what_they_do_without_ticks(self):
    # EE-LLM: n exits on different stages add n (f + b) of a head.
    schedule = Schedule(ONE_F_ONE_B, 4, 16)
    without = lock_step_cost(schedule, equal_stages(4))
    for exits in ((2,), (1, 2), (0, 1, 2)):
      added = lock_step_cost(schedule, equal_stages(4, exits)) - without
      assert added == len(exits) * HEAD.head

  def test_two_on_a_stage_cost_with_every_microbatch(self):
    twice = equal_stages(4)
    twice[1] = StageCost(F, B, 2 * HEAD.head_forward, 2 * HEAD.head_backward)

    def added(microbatches):
      schedule = Schedule(ONE_F_ONE_B, 4, microbatches)
      plain = lock_step_cost(schedule, equal_stages(4))
      return lock_step_cost(schedule, twice) - plain

    assert added(32) - added(16) == 16 * HEAD.head

  def test_inputs_alone_cost_a_forward_more(self):
    # The last stage is spared it, so it is no slower with a cheap head.
    schedule = Schedule(ONE_F_ONE_B, 3, 5)
    found = lock_step_cost(schedule, equal_stages(3), keep=Keep.INPUTS)
    steady = max(F + B + HEAD.head, 2 * F + B)
    # In its first tick the last stage has neighbours that only go forward.
    first, then = F + B + HEAD.head, 4 * max(steady, F + F + B)
    assert found == 2 * F + first + then + 2 * (F + B)

  def test_interleaved_stages_wait_less(self):
    costs = [StageCost(F, B)] * 4
    plain = lock_step_cost(Schedule(GPIPE, 4, 8), costs)
    rounds = lock_step_cost(Schedule(INTERLEAVED, 4, 8, 2), costs)
    assert plain == (8 + 3) * (2 * F + B)
    assert rounds == (16 + 3) * (2 * F + B) / 2

  def test_tuning_goes_forward_alone(self):
    found = lock_step_cost(Schedule(FORWARD_ONLY, 4, 8), equal_stages(4, (1,)))
    # Three ticks at the end and one at the start have no head in them.
    assert found == 11 * F + 10 * HEAD.head


class TestDocs:
  @pytest.mark.parametrize(
    'schedule',
    [
      Schedule(GPIPE, 4, 4),
      Schedule(ONE_F_ONE_B, 4, 6),
      Schedule(FORWARD_ONLY, 4, 6),
      Schedule(INTERLEAVED, 2, 4, 2),
      Schedule(ONE_F_ONE_B, 4, 4, fillers=2),
    ],
    ids=name,
  )
  def test_show_what_the_code_draws(self, schedule):
    assert f'```\n{diagram(schedule)}\n```' in DOCS.read_text()
