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
"""Tests for eejax.decoding.drafting.prompt_lookup."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.decoding.drafting.prompt_lookup import LONGEST_RUN, propose

ROOM = 24


@functools.partial(jax.jit, static_argnames=('shortest', 'num'))
def compiled(text, newest, shortest, num):
  return propose(text, newest=newest, shortest=shortest, num=num)


def found_in(*texts, shortest=2, num=5):
  """Return what follows each text, or None; behind it stands anything."""
  rows = np.full((len(texts), ROOM), 7)
  for row, text in enumerate(texts):
    rows[row, : len(text)] = text
  newest = jnp.array([len(t) - 1 for t in texts])
  tokens, run = compiled(jnp.asarray(rows), newest, shortest, num)
  pairs = zip(tokens.tolist(), run.tolist(), strict=True)
  return [row if length else None for row, length in pairs]


def by_hand(text, *, shortest, num):
  """Search the longest run, then the latest, place by place."""
  for length in range(max(shortest, LONGEST_RUN), shortest - 1, -1):
    end = text[len(text) - length :]
    for last in range(len(text) - 2, length - 2, -1):
      if len(end) == length and text[last - length + 1 : last + 1] == end:
        following = text[last + 1 :]
        return [following[i % len(following)] for i in range(num)]
  return None


@pytest.mark.parametrize('shortest', [1, 2, 3, 6])
def test_random_texts_by_hand(shortest):
  rng = np.random.default_rng(shortest)
  texts = [rng.integers(0, 2, n).tolist() for n in rng.integers(1, 20, 64)]
  expected = [by_hand(t, shortest=shortest, num=5) for t in texts]
  assert found_in(*texts, shortest=shortest) == expected
  assert sum(e is None for e in expected) > 3
  assert sum(e is not None for e in expected) > 3


def test_the_longest_run_counts_and_of_equal_ones_the_latest():
  assert found_in([1, 2, 3, 9, 2, 3, 5, 1, 2, 3])[0][0] == 9
  assert found_in([2, 3, 9, 2, 3, 5, 8, 2, 3])[0][0] == 5


@pytest.mark.parametrize(
  'text, shortest, run',
  [
    ([1, 5, 1], 1, 1),
    ([1, 5, 1], 2, 0),
    ([1, 2, 5, 1, 2], 2, 2),
    ([1, 2, 3, 5, 1, 2, 3], 2, 3),
    ([1, 2] * 9, 2, LONGEST_RUN),
  ],
)
def test_how_long_the_run_was(text, shortest, run):
  row = jnp.array([text + [7] * (ROOM - len(text))])
  found = compiled(row, jnp.array([len(text) - 1]), shortest, 5)[1]
  assert found.tolist() == [run]


def test_a_text_that_repeats_itself_is_read_on():
  assert found_in([4, 4, 4]) == [[4] * 5]
  assert found_in([1, 5, 6, 1, 5, 6]) == [[1, 5, 6, 1, 5]]


@pytest.mark.parametrize('text', [[3], [3, 4], [3, 4, 5], [7, 7]])
def test_nothing_is_found_where_nothing_stood_before(text):
  # What stands behind the text, 7, is no part of it.
  assert found_in(text) == [None]


def test_rows_are_looked_up_alone():
  texts = [[1, 2, 3, 1, 2], [1, 2, 4, 1, 2], [5, 6]]
  assert found_in(*texts) == [found_in(t)[0] for t in texts]
