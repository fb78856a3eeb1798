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
"""Tests of what is carried between the exits of a token."""

import jax
import jax.numpy as jnp
import numpy as np

from eejax.decoding.policy.criteria import (
  Evidence,
  Memory,
  Reads,
  blank_memory,
  recall,
  remember,
)

POSITIONS = jnp.array([4, 9, 4])
EVERYONE = jnp.ones(3, bool)
STREAMS = jnp.arange(6.0).reshape(3, 2)


def blank(reads, **fields):
  fields = {'num_scored': 5, 'embed_dim': 2, **fields}
  return blank_memory(reads, batch_size=3, **fields)


def test_nothing_is_kept_for_a_criterion_that_compares_nothing():
  for reads in (Reads.GATE, Reads.LOGITS, Reads.NOTHING, Reads.POSITIONS):
    memory = blank(reads)
    assert memory == Memory() and not jax.tree.leaves(memory)
    evidence = Evidence(logits=jnp.zeros((3, 5)))
    assert recall(evidence, memory, positions=POSITIONS) is evidence
    after = remember(memory, evidence, positions=POSITIONS, rows=EVERYONE)
    assert after == Memory()


def test_only_what_is_read_is_kept():
  shapes = lambda m: {k: v.shape for k, v in vars(m).items() if v is not None}
  assert shapes(blank(Reads.STREAK)) == {
    'position': (3,),
    'top_token': (3,),
    'streak': (3,),
  }
  assert shapes(blank(Reads.PREVIOUS_STREAM)) == {
    'position': (3,),
    'stream': (3, 2),
  }
  assert shapes(blank(Reads.PREVIOUS_LOGITS)) == {
    'position': (3,),
    'logits': (3, 5),
  }
  assert shapes(blank(Reads.LOGITS, num_candidates=4)) == {
    'position': (3,),
    'candidates': (3, 4),
  }


def see(memory, tokens, *, index, positions=POSITIONS, rows=EVERYONE):
  """Return the streaks at an exit, and the memory after it."""
  evidence = Evidence(top_token=jnp.asarray(tokens), exit_index=index)
  evidence = recall(evidence, memory, positions=positions)
  after = remember(memory, evidence, positions=positions, rows=rows)
  return evidence.streak.tolist(), after


def test_a_streak_grows_with_agreement_and_starts_anew():
  memory = blank(Reads.STREAK)
  streaks = []
  for index, tokens in enumerate(([1, 2, 3], [1, 2, 4], [1, 5, 4], [1, 5, 3])):
    streak, memory = see(memory, tokens, index=index)
    streaks.append(streak)
  assert streaks == [[1, 1, 1], [2, 2, 1], [3, 1, 2], [4, 2, 1]]


def test_a_new_token_remembers_nothing_of_the_one_before():
  _, memory = see(blank(Reads.STREAK), [1, 2, 3], index=0)
  _, memory = see(memory, [1, 2, 3], index=1)
  streak, memory = see(memory, [1, 2, 3], index=0, positions=POSITIONS + 1)
  assert streak == [1, 1, 1]
  # And if nobody asked the first exit, what lies there is an old token's.
  streak, _ = see(memory, [1, 2, 3], index=1, positions=POSITIONS + 2)
  assert streak == [1, 1, 1]


def test_a_row_that_is_not_asked_keeps_what_it_remembers():
  # The second row is parked before a deeper exit, the others feed tokens.
  _, memory = see(blank(Reads.STREAK), [1, 2, 3], index=0)
  others = jnp.array([True, False, True])
  later = POSITIONS + others
  for index in range(2):
    _, memory = see(
      memory, [8, 8, 8], index=index, positions=later, rows=others
    )
  parked, _ = see(memory, [9, 2, 9], index=1, positions=later)
  assert parked[1] == 2


def test_streams_and_logits_are_the_previous_exit_s():
  reads = Reads.STREAM | Reads.PREVIOUS_STREAM
  first = Evidence(stream=STREAMS, exit_index=0)
  seen = recall(first, blank(reads), positions=POSITIONS)
  assert not seen.has_previous.any()
  some = jnp.array([True, True, False])
  memory = remember(blank(reads), seen, positions=POSITIONS, rows=some)
  second = Evidence(stream=10 * STREAMS, exit_index=1)
  seen = recall(second, memory, positions=POSITIONS)
  assert seen.has_previous.tolist() == [True, True, False]
  np.testing.assert_array_equal(seen.previous_stream[:2], STREAMS[:2])
  np.testing.assert_array_equal(seen.stream, 10 * STREAMS)
