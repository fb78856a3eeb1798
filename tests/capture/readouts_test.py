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
"""Test the search for candidates and the measures against plain forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.capture import readouts


@pytest.mark.parametrize('size, count', [(700, 3), (704, 3), (29, 5), (64, 1)])
@pytest.mark.parametrize('levels', [5, 10_000])
def test_candidates_are_those_of_a_sort(size, count, levels):
  # With few levels most logits have equals, in one block and in several.
  random = np.random.default_rng(size)
  logits = random.integers(0, levels, (40, size)).astype(np.float32)
  found = jax.jit(readouts.top_candidates, static_argnums=1)(logits, count)
  wanted = jax.lax.top_k(logits, count)
  np.testing.assert_array_equal(found[0], wanted[0])
  np.testing.assert_array_equal(found[1], wanted[1])


def test_equal_candidates_of_two_blocks_come_by_number():
  # The block with the highest one has another that equals an earlier token.
  logits = np.zeros((1, 700), np.float32)
  logits[0, [500, 510]] = 9, 8
  logits[0, 100] = 8
  best, tokens = readouts.top_candidates(jnp.asarray(logits), 3)
  assert tokens.tolist() == [[500, 100, 510]]
  assert best.tolist() == [[9, 8, 8]]


def test_a_matrix_without_its_mean_gives_logits_without_theirs():
  random = np.random.default_rng(0)
  kernel = random.normal(3.0, 1.0, (6, 50)).astype(np.float32)
  hidden = random.normal(size=(4, 6)).astype(np.float32)
  centred = readouts.without_mean(jnp.asarray(kernel), dtype='float32')
  logits = hidden @ kernel
  np.testing.assert_allclose(
    hidden @ np.asarray(centred),
    logits - logits.mean(axis=1, keepdims=True),
    atol=1e-4,
  )


def test_what_has_no_length_has_no_direction():
  zeros, ones = jnp.zeros((1, 3)), jnp.ones((1, 3))
  assert float(readouts.cosine(zeros, ones)[0]) == 0.0
  assert float(readouts.cosine(ones, 2 * ones)[0]) == pytest.approx(1)


def test_probabilities_that_vanish_are_no_nan():
  # All but one token are beyond what float32 can tell from nothing.
  here = readouts.distribution(jnp.ones((1, 1)), 400 * jnp.eye(1, 40) - 10)
  reading = readouts.ReadoutFields(
    ('entropy', 'kl_final', 'js_final', 'js_previous', 'loss'), 1
  )
  said = readouts.measure(
    here,
    final=readouts.Reference.of(here),
    previous=here.spoken,
    targets=jnp.zeros(1, jnp.int32),
    reading=reading,
  )
  np.testing.assert_allclose(said.scalars[0, :-1], 0.0, atol=1e-5)
