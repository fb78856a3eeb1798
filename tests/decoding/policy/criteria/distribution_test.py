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
"""Tests of criteria over one distribution, and of gates, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from eejax.config import ExitConfig, GateKind
from eejax.decoding.policy.criteria import (
  Evidence,
  GateScore,
  Reads,
  get_criterion,
)
from eejax.errors import ArgumentError

NAMES = ('max_prob', 'margin', 'entropy')


def score(name, rows):
  logits = jnp.asarray(rows, jnp.float32)
  return np.asarray(get_criterion(name).score(Evidence(logits=logits)))


def test_scores_by_hand():
  rows = np.log([[0.5, 0.25, 0.25, 1e-30], [0.7, 0.1, 0.1, 0.1]])
  np.testing.assert_allclose(score('max_prob', rows), [0.5, 0.7], rtol=1e-5)
  np.testing.assert_allclose(score('margin', rows), [0.25, 0.6], rtol=1e-5)
  entropy = np.array([1.5 * np.log(2), -0.7 * np.log(0.7) - 0.3 * np.log(0.1)])
  np.testing.assert_allclose(
    score('entropy', rows), 1 - entropy / np.log(4), rtol=1e-5
  )


@pytest.mark.parametrize('name', NAMES)
def test_a_shift_of_all_logits_changes_nothing(name):
  rows = np.random.default_rng(0).normal(size=(5, 17))
  np.testing.assert_allclose(score(name, rows), score(name, rows + 50), 1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_extreme_logits_give_finite_scores(name):
  rows = [[0.0, -1e4, -1e4], [1e4, 0.0, -1e4], [0.0, -np.inf, -np.inf]]
  np.testing.assert_allclose(score(name, rows), [1.0, 1.0, 1.0], atol=1e-6)


@pytest.mark.parametrize(
  'name, expected', [('max_prob', 0.25), ('margin', 0.0), ('entropy', 0.0)]
)
def test_a_uniform_row_is_the_least_safe(name, expected):
  np.testing.assert_allclose(score(name, [[3.0] * 4]), [expected], atol=1e-6)


def test_a_tie_at_the_top_has_no_margin():
  np.testing.assert_allclose(score('margin', [[5.0, 5.0, 0.0]]), [0.0])


@pytest.mark.parametrize('name', NAMES)
def test_scores_lie_in_the_unit_interval(name):
  rows = np.random.default_rng(1).normal(size=(50, 23)) * 30
  found = score(name, rows)
  assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize('name', NAMES)
def test_rows_do_not_influence_one_another(name):
  rows = np.random.default_rng(2).normal(size=(6, 11))
  alone = [score(name, rows[i : i + 1])[0] for i in range(6)]
  np.testing.assert_allclose(score(name, rows), alone, rtol=1e-6)


def test_scores_take_any_leading_dimensions():
  rows = np.random.default_rng(3).normal(size=(2, 3, 7))
  flat = score('margin', rows.reshape(6, 7))
  np.testing.assert_allclose(score('margin', rows).reshape(6), flat, rtol=1e-6)


def test_a_gate_s_score_is_a_probability():
  gate = get_criterion('gate')
  assert gate.reads is Reads.GATE
  found = gate.score(Evidence(gate_logit=jnp.array([0.0, 200.0, -200.0])))
  np.testing.assert_allclose(found, [0.5, 1.0, 0.0], atol=1e-6)


def test_the_gate_criterion_names_exits_without_a_gate():
  exits = (
    ExitConfig(2, gate=GateKind.LINEAR),
    ExitConfig(3),
    ExitConfig(5),
    ExitConfig(6, gate=GateKind.MLP),
  )
  GateScore().check((exits[0], exits[3]))
  with pytest.raises(ArgumentError, match='depths 3, 5;'):
    GateScore().check(exits)
  get_criterion('max_prob').check(exits)
