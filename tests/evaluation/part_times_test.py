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

from eejax.decoding.loop.prepare import prepare
from eejax.errors import ArgumentError
from eejax.evaluation import part_times
from eejax.testing import tiny

CONFIG = tiny.tiny_config('1:norm:gate,3:mlp:gate')


@pytest.fixture(scope='module')
def prepared():
  return prepare(tiny.tiny_params(CONFIG), config=CONFIG)


def solve(prepared, *, block, head, step, check=0.0, gate_check=0.0):
  """Return the parts that are found where they are known."""
  own = {e.name: part_times._own_blocks(prepared, e.name) for e in CONFIG.exits}
  layers, exits = CONFIG.model.num_layers, len(CONFIG.exits)
  full = layers * block + head + step
  asked = exits * (head + check) + block * sum(own.values())
  return part_times._solve(
    {
      'full': full,
      'cut': (1 + own['exit_1']) * block + head + step,
      'asked': full + asked,
      'gated': full + exits * gate_check,
    },
    config=CONFIG,
    params=prepared,
    cut='exit_1',
    widths=(1, 2),
    factors=(1.0, 1.5),
    rows=3,
  )


def test_known_parts_are_found(prepared):
  found = solve(prepared, block=2.0, head=3.0, step=1.0, gate_check=0.25)
  assert found.blocks == pytest.approx(8.0)
  assert (found.head, found.step) == pytest.approx((3.0, 1.0))
  assert (found.check, found.gate_check) == pytest.approx((0.0, 0.25))
  assert found.window_factor == 1.5 and found.rows == 3


def test_asking_that_costs_more_than_an_answer_is_a_check(prepared):
  found = solve(prepared, block=2.0, head=3.0, step=1.0, check=2.0)
  # Of what asking takes, no more can be the head than there is at the end.
  assert found.head == pytest.approx(4.0) and found.step == pytest.approx(0.0)
  assert found.check == pytest.approx(1.0)


def test_noise_makes_no_part_negative(prepared):
  found = part_times._solve(
    {'full': 4.0, 'cut': 5.0, 'asked': 3.0, 'gated': 2.0},
    config=CONFIG,
    params=prepared,
    cut='exit_1',
    widths=(1,),
    factors=(1.0,),
    rows=1,
  )
  parts = (found.blocks, found.head, found.step)
  assert all(part >= 0 for part in parts) and sum(parts) == pytest.approx(4.0)
  assert found.blocks > 0 and found.check == found.gate_check == 0
  least = part_times._head_in_blocks(prepared, CONFIG) / 2
  assert found.head >= least * found.blocks / 4 - 1e-9


def test_parts_are_measured(prepared):
  found = part_times.part_times(
    prepared, config=CONFIG, window=4, repeats=2, new_tokens=4
  )
  assert found.blocks > 0 and found.head >= 0 and found.step >= 0
  assert found.widths == (1, 2, 4)
  assert found.factors[0] == 1 and list(found.factors) == sorted(found.factors)


@pytest.mark.parametrize('exits', ['', '0:embedding,4:norm'])
def test_an_exit_inside_the_model_is_needed(prepared, exits):
  config = tiny.tiny_config(exits)
  with pytest.raises(ArgumentError, match='between the first and the last'):
    part_times.part_times(prepared, config=config, window=4)


def test_a_text_needs_room(prepared):
  with pytest.raises(ArgumentError, match='too short to time 48 tokens'):
    part_times.part_times(prepared, config=CONFIG, window=4, new_tokens=48)
