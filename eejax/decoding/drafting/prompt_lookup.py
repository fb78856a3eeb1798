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
"""Drafts that a text makes of itself: what followed its last tokens before.

    position   0 1 2 3 4 5 6
    text       f ( x ) : f (      the last two tokens stood at 0 and 1 before
    drafts                   x ) : f ...

Code, quotations and models that repeat themselves are foreseen this way for
next to nothing (prompt lookup decoding, Saxena 2023; LLMA, Yang et al. 2023,
arXiv 2304.04487). Where the end of a text stood several times, the longest
common run counts, and of equal ones the latest.
"""

import jax.numpy as jnp

from eejax.types import Array, Int

# Runs are compared up to this length; longer ones are no surer.
LONGEST_RUN = 4


def propose(
  text: Int[Array, 'B P'],
  *,
  newest: Int[Array, 'B'],
  shortest: int,
  num: int,
) -> tuple[Int[Array, 'B num'], Int[Array, 'B']]:
  """Return what may follow each text, by what followed its end before.

  Where the text ends before `num` tokens are found, it is read on as if it
  repeated itself.

  Args:
    text: tokens by position.
    newest: position of the last one of each row.
    shortest: how many tokens must have stood before in the same order.
    num: how many are wanted.

  Returns:
    `num` tokens of each row, and how many of its last tokens stood before; 0
    where they are fewer than `shortest`.

  Example:
    >>> tokens, run = propose(
    ...   jnp.array([[5, 6, 7, 5, 6, 0]]),
    ...   newest=jnp.array([4]),
    ...   shortest=2,
    ...   num=4,
    ... )
    >>> tokens.tolist(), run.tolist()
    ([[7, 5, 6, 7]], [2])
  """
  runs = _run_lengths(text, newest, longest=max(shortest, LONGEST_RUN))
  place = jnp.arange(text.shape[1])[None]
  is_earlier = place < newest[:, None]
  # Of runs as long the latest is wanted, and argmax returns the first.
  rank = jnp.where(is_earlier, runs * text.shape[1] + place, -1)
  best = jnp.argmax(rank, axis=1)
  best_rank = jnp.take_along_axis(rank, best[:, None], axis=1)[:, 0]
  period = jnp.maximum(newest - best, 1)
  ahead = jnp.arange(num)[None] % period[:, None]
  at = jnp.minimum(best[:, None] + 1 + ahead, text.shape[1] - 1)
  tokens = jnp.take_along_axis(text, at, axis=1)
  run = best_rank // text.shape[1]
  return tokens, jnp.where(run >= shortest, run, 0)


def _run_lengths(
  text: Int[Array, 'B P'], newest: Int[Array, 'B'], *, longest: int
) -> Int[Array, 'B P']:
  """Return how many tokens up to each place equal those up to the newest."""
  place = jnp.arange(text.shape[1])[None]
  going = jnp.ones(text.shape, bool)
  lengths = jnp.zeros_like(text)
  for back in range(longest):
    at = jnp.maximum(newest - back, 0)[:, None]
    token = jnp.take_along_axis(text, at, axis=1)
    shifted = jnp.roll(text, back, axis=1)
    is_there = (place >= back) & (newest[:, None] >= back)
    going = going & is_there & (shifted == token)
    lengths = lengths + going
  return lengths
