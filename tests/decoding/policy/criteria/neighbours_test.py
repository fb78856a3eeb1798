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
"""Tests of criteria that compare two exits: by hand, and at their ends."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from eejax.decoding.policy.criteria import (
  Evidence,
  Patience,
  Reads,
  get_criterion,
)

NAMES = ('cosine', 'js', 'kl')


def score(name, here, before, has_previous=True):
  """Return the score of rows of streams, or of logits."""
  here, before = (jnp.asarray(x, jnp.float32) for x in (here, before))
  rows = here.shape[:-1]
  criterion = get_criterion(name)
  if criterion.reads & Reads.STREAM:
    values = {'stream': here, 'previous_stream': before}
  else:
    values = {'logits': here, 'previous_logits': before}
  evidence = Evidence(
    has_previous=jnp.broadcast_to(jnp.asarray(has_previous), rows), **values
  )
  return np.asarray(criterion.score(evidence))


def patience(streaks, wanted=2):
  return Patience(wanted).score(Evidence(streak=jnp.asarray(streaks))).tolist()


class TestPatience:
  def test_agreements_count_and_not_predictions(self):
    # One prediction has agreed with none yet, two are one agreement.
    assert patience([1, 2, 3, 4]) == [0.0, 0.5, 1.0, 1.0]
    assert patience([1, 2, 3], 1) == [0.0, 1.0, 1.0]

  def test_it_is_written_with_its_number(self):
    assert get_criterion('patience(3)') == Patience(3)
    assert Patience(3).notation == 'patience(3)'


class TestCosine:
  def test_by_hand(self):
    here = [[3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [2.0, 0.0]]
    before = [[6.0, 8.0], [0.0, 5.0], [1.0, 0.0], [-1.0, 0.0]]
    np.testing.assert_allclose(
      score('cosine', here, before), [1, 0, 0.5**0.5, 0], atol=1e-6
    )

  def test_rows_of_any_length_and_size(self):
    here = [[1e30, 1e30], [1e-30, 0.0], [0.0, 0.0]]
    before = [[1e30, 0.0], [1e-30, 0.0], [1.0, 0.0]]
    np.testing.assert_allclose(
      score('cosine', here, before), [0.5**0.5, 1, 0], rtol=1e-6
    )

  def test_half_precision_is_compared_in_float32(self):
    rows = np.random.default_rng(0).normal(size=(4, 64))
    here = jnp.asarray(rows, jnp.bfloat16)
    before = jnp.asarray(rows + 0.01, jnp.bfloat16)
    evidence = Evidence(
      stream=here, previous_stream=before, has_previous=jnp.ones(4, bool)
    )
    found = get_criterion('cosine').score(evidence)
    assert found.dtype == jnp.float32
    exact = score('cosine', here.astype('f4'), before.astype('f4'))
    np.testing.assert_allclose(found, exact, rtol=1e-6)


class TestJensenShannon:
  def test_by_hand(self):
    p, q = [0.5, 0.5, 0.0], [0.0, 0.5, 0.5]
    with np.errstate(divide='ignore'):
      found = score('js', np.log([p]), np.log([q]))
    np.testing.assert_allclose(found, [0.5], rtol=1e-6)

  def test_against_scipy(self):
    random = np.random.default_rng(1)
    here, before = random.normal(size=(2, 6, 13)) * 3
    p, q = (
      np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (here, before)
    )
    expected = 1 - jensenshannon(p, q, axis=-1, base=2) ** 2
    np.testing.assert_allclose(score('js', here, before), expected, rtol=1e-4)

  def test_it_is_symmetric_and_the_other_is_not(self):
    here, before = np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])
    np.testing.assert_allclose(
      score('js', here, before), score('js', before, here), rtol=1e-5
    )
    there, back = score('kl', here, before), score('kl', before, here)
    assert abs(there - back) > 0.05


class TestKullbackLeibler:
  def test_by_hand_and_in_the_right_order(self):
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    divergence = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    found = score('kl', np.log([p]), np.log([q]))
    np.testing.assert_allclose(found, [np.exp(-divergence)], rtol=1e-5)
    reverse = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert abs(np.exp(-reverse) - found[0]) > 0.05

  def test_it_sums_over_the_vocabulary_and_takes_no_mean(self):
    few, many = np.zeros((1, 2)), np.zeros((1, 200))
    # The same divergence, on two tokens or spread over two hundred.
    before = np.log([[0.9, 0.1]])
    spread = np.log(
      np.repeat([[0.9 / 100, 0.1 / 100]], 100, axis=0).reshape(1, -1)
    )
    np.testing.assert_allclose(
      score('kl', many, spread), score('kl', few, before), rtol=1e-4
    )


@pytest.mark.parametrize('name', ['js', 'kl'])
def test_probabilities_that_underflow_leave_scores_finite(name):
  here = [[0.0, -1e4, -1e4], [0.0, -np.inf, 1.0], [0.0, -np.inf, -np.inf]]
  same = score(name, here, here)
  np.testing.assert_allclose(same, [1, 1, 1], atol=1e-6)
  apart = [[-1e4, 0.0, -1e4], [-np.inf, 0.0, -np.inf], [-np.inf, 0.0, 0.0]]
  np.testing.assert_allclose(score(name, here, apart), [0, 0, 0], atol=1e-6)


@pytest.mark.parametrize('name', NAMES)
class TestAll:
  def test_scores_lie_in_the_unit_interval(self, name):
    here, before = np.random.default_rng(3).normal(size=(2, 40, 11)) * 20
    found = score(name, here, before)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(score(name, here, here), 1.0, atol=1e-6)

  def test_rows_do_not_influence_one_another(self, name):
    # A cosine over the whole array would be one number for all of them.
    here, step = np.random.default_rng(4).normal(size=(2, 5, 7))
    before = here + step
    alone = [score(name, here[i][None], before[i][None])[0] for i in range(5)]
    found = score(name, here, before)
    np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-6)
    assert len(np.unique(found)) > 2

  def test_a_row_without_a_previous_exit_is_not_safe(self, name):
    rows = [[1.0, 2.0], [1.0, 2.0]]
    found = score(name, rows, rows, [True, False])
    np.testing.assert_allclose(found, [1, 0], atol=1e-6)

  def test_what_stands_for_a_missing_exit_is_not_read(self, name):
    found = score(name, [[1.0, 2.0]], [[np.nan, np.nan]], [False])
    np.testing.assert_array_equal(found, [0])
