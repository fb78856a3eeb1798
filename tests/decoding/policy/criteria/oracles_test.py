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
"""Tests of the oracles."""

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.policy.criteria import (
  Evidence,
  get_criterion,
  matches_final,
  stays_final,
)
from eejax.errors import ArgumentError

# Rows of likeliest tokens by exit; the full model says 7 everywhere.
BY_EXIT = jnp.array([[7, 3, 7, 7], [7, 7, 7, 7], [1, 2, 3, 4], [7, 7, 7, 0]])
FINAL = jnp.full((4,), 7)


def first(marks):
  """Return the first exit marked, 4 where none is."""
  return [row.index(True) if any(row) else 4 for row in marks.tolist()]


def test_first_match_and_stable_are_different_ceilings():
  assert first(matches_final(BY_EXIT, FINAL)) == [0, 0, 4, 0]
  assert first(stays_final(BY_EXIT, FINAL)) == [2, 0, 4, 4]


def test_stable_never_comes_before_the_first_match():
  random = np.random.default_rng(0)
  by_exit = jnp.asarray(random.integers(0, 3, size=(5, 40, 6)))
  final = jnp.asarray(random.integers(0, 3, size=(5, 40)))
  matches, stays = matches_final(by_exit, final), stays_final(by_exit, final)
  assert (matches | ~stays).all()
  np.testing.assert_array_equal(matches[..., -1], stays[..., -1])
  expected = [
    all(y == f for y in row[x:])
    for row, f in zip(
      by_exit.reshape(-1, 6).tolist(), final.reshape(-1).tolist(), strict=True
    )
    for x in range(6)
  ]
  assert stays.reshape(-1).tolist() == expected


@pytest.mark.parametrize(
  'name, marks', [('first_match', matches_final), ('stable', stays_final)]
)
def test_the_score_is_the_mark_of_the_exit(name, marks):
  for index in range(4):
    evidence = Evidence(
      top1_by_exit=BY_EXIT, final_top1=FINAL, exit_index=index
    )
    found = get_criterion(name).score(evidence)
    np.testing.assert_array_equal(found, marks(BY_EXIT, FINAL)[:, index])


@pytest.mark.parametrize('name', ['first_match', 'stable'])
def test_an_oracle_that_is_not_shown_the_end_says_so(name):
  with pytest.raises(ArgumentError, match='reference batch policy'):
    get_criterion(name).score(Evidence())
