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
"""Tests of the token loop with steps of four lines."""

import flax.struct
import jax
import jax.numpy as jnp
import pytest

from eejax.decoding.loop.while_loop import run_steps


@flax.struct.dataclass
class Countdown:
  left: jax.Array

  @property
  def live(self):
    return self.left > 0


def step(state):
  emission = {'left': state.left, 'square': (state.left**2).astype(jnp.float32)}
  return Countdown(state.left - 1), emission


BLANK = {'left': jnp.zeros(2, jnp.int32), 'square': jnp.zeros(2)}


def loop(left, max_steps, capacity=6):
  return run_steps(
    step,
    Countdown(jnp.array(left)),
    blank=BLANK,
    max_steps=jnp.int32(max_steps),
    capacity=capacity,
  )


def test_the_loop_ends_with_the_last_row():
  state, chunk = loop([2, 4], 6)
  assert state.left.tolist() == [-2, 0]
  assert int(chunk.steps) == 4
  assert chunk.emitted['left'][:4, 1].tolist() == [4, 3, 2, 1]
  assert chunk.emitted['left'][4:].tolist() == [[0, 0], [0, 0]]


def test_it_goes_on_where_it_stopped():
  state, chunk = loop([5, 3], 2)
  assert int(chunk.steps) == 2
  state, chunk = loop(state.left.tolist(), 6)
  assert int(chunk.steps) == 3
  assert chunk.emitted['square'][:3, 0].tolist() == [9.0, 4.0, 1.0]


@pytest.mark.parametrize('max_steps, expected', [(0, 0), (3, 3), (99, 6)])
def test_steps_are_bounded_by_what_is_asked_and_by_the_room(
  max_steps, expected
):
  _, chunk = loop([50, 50], max_steps)
  assert int(chunk.steps) == expected


def test_nobody_live_means_no_step():
  _, chunk = loop([0, -3], 6)
  assert int(chunk.steps) == 0
