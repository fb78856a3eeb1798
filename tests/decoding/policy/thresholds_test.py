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
"""Tests of threshold rules: by hand, at their ends, row by row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from eejax.decoding.policy import thresholds
from eejax.decoding.policy.policy import Policy
from eejax.decoding.policy.thresholds import (
  Adaptive,
  Constant,
  Decaying,
  Moments,
  fit_beta,
  parse_threshold_rule,
)
from eejax.errors import ArgumentError

NEVER = np.inf
RULES = (Constant(), Decaying(), Adaptive(minimum_count=2))


def start(rule, initial, *, prompt=(1,), limit=(10,)):
  """Return the state of rows with prompts that end at `prompt`."""
  initial = jnp.asarray(initial, jnp.float32)
  rows = initial.shape[0]
  fill = lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.int32), (rows,))
  return rule.init(initial, start=fill(prompt), limit=fill(limit))


def observe(rule, state, scores, agreed, observed=True):
  scores = jnp.asarray(scores, jnp.float32)
  return rule.update(
    state,
    scores=scores,
    agreed=jnp.broadcast_to(jnp.asarray(agreed), scores.shape),
    observed=jnp.broadcast_to(jnp.asarray(observed), scores.shape),
  )


def feed(rule, state, agreed, disagreed):
  """Show every row and exit the same scores of both classes."""
  shape = state.initial.shape
  for scores, label in ((agreed, True), (disagreed, False)):
    for score in scores:
      state = observe(rule, state, jnp.full(shape, score), label)
  return state


class TestConstant:
  def test_values_are_the_policy_s_at_every_position(self):
    initial = [[0.2, NEVER], [0.7, 0.0]]
    state = start(Constant(), initial)
    for position in (0, 5, 900):
      values = Constant().values(state, jnp.full((2,), position))
      np.testing.assert_array_equal(values, np.float32(initial))


class TestDecaying:
  def test_by_hand(self):
    state = start(Decaying(4.0), [[0.5, 0.8]], prompt=3, limit=10)
    at = lambda t: np.asarray(Decaying(4.0).values(state, jnp.array([3 + t])))
    np.testing.assert_allclose(at(0), [[0.55, 0.82]], rtol=1e-6)
    expected = np.array([0.45, 0.72]) + 0.1 * np.exp(-2)
    np.testing.assert_allclose(at(5), [expected], rtol=1e-6)

  def test_it_falls_with_the_position(self):
    # A decoder that never passes the position would stay at the first value.
    state = start(Decaying(), [[0.5]] * 6, limit=20)
    values = Decaying().values(state, jnp.arange(1, 7))[:, 0]
    assert (np.diff(values) < 0).all()

  def test_each_row_has_its_own_start_and_limit(self):
    state = start(Decaying(), [[0.5]] * 3, prompt=[2, 7, 2], limit=[8, 8, 80])
    values = Decaying().values(state, jnp.array([6, 11, 6]))[:, 0]
    assert values[0] == values[1]
    assert values[2] > values[0]

  def test_ends_stay_ends(self):
    state = start(Decaying(), [[0.0, 1.0, NEVER]])
    values = np.asarray(Decaying().values(state, jnp.array([1])))[0]
    assert values[0] == 0
    assert values[1] == 1  # and not 1.0 + 0.1 - 0.1 + ...
    assert values[2] == NEVER

  def test_values_stay_in_the_unit_interval(self):
    state = start(Decaying(0.0), [[1.0, 0.99, 1e-6]], limit=0)
    values = np.asarray(Decaying(0.0).values(state, jnp.array([500])))
    assert ((values >= 0) & (values <= 1)).all()


class TestAdaptive:
  @pytest.mark.parametrize('agreed', [True, False])
  def test_moments_are_those_of_the_class(self, agreed):
    rule, scores = Adaptive(), [0.2, 0.9, 0.4, 0.7]
    state = start(rule, [[0.5]])
    for score in scores:
      state = observe(rule, state, [[score]], agreed)
    own, other = (1, 0) if agreed else (0, 1)
    moments = state.moments
    assert moments.count[0, 0, own] == 4 and moments.count[0, 0, other] == 0
    np.testing.assert_allclose(moments.mean[0, 0, own], np.mean(scores))
    spread = 4 * np.var(scores)
    np.testing.assert_allclose(moments.spread[0, 0, own], spread, rtol=1e-5)
    assert moments.spread[0, 0, other] == 0

  def test_a_fit_has_the_moments_it_was_made_from(self):
    one = jnp.ones((1, 1, 2))
    moments = Moments(
      10 * one, jnp.array([[[0.3, 0.8]]]), 10 * jnp.array([[[0.02, 0.01]]])
    )
    alpha, beta = (np.asarray(x)[0, 0] for x in fit_beta(moments))
    mean, variance = scipy.stats.beta.stats(alpha, beta)
    np.testing.assert_allclose(mean, [0.3, 0.8], rtol=1e-5)
    np.testing.assert_allclose(variance, [0.02, 0.01], rtol=1e-4)

  def test_the_threshold_is_where_agreement_prevails(self):
    rule = Adaptive(certainty=0.4, minimum_count=5)
    agreed = np.linspace(0.6, 0.95, 12)
    disagreed = np.linspace(0.2, 0.7, 12)
    state = feed(rule, start(rule, [[0.5]]), agreed, disagreed)
    grid = np.linspace(0.3, 0.9, 10)

    def density(scores):
      mean, variance = np.mean(scores), np.var(scores)
      concentration = mean * (1 - mean) / variance - 1
      return scipy.stats.beta.pdf(
        grid, mean * concentration, (1 - mean) * concentration
      )

    share = density(agreed) / (density(agreed) + density(disagreed))
    expected = grid[np.argmax(share > 0.4)]
    assert 0.3 < expected < 0.9
    value = rule.values(state, jnp.array([3]))[0, 0]
    np.testing.assert_allclose(value, expected, rtol=1e-6)

  def test_more_certainty_gives_a_higher_threshold(self):
    values = []
    for certainty in (0.1, 0.5, 0.95):
      rule = Adaptive(certainty=certainty, minimum_count=5)
      state = feed(
        rule,
        start(rule, [[0.5]]),
        np.linspace(0.4, 0.95, 9),
        np.linspace(0.1, 0.8, 9),
      )
      values.append(float(rule.values(state, jnp.array([0]))[0, 0]))
    assert values == sorted(values) and values[0] < values[-1]

  def test_a_class_is_known_by_its_label_not_by_its_mean(self):
    # An exit that agrees where it is unsure: no score is safe.
    rule = Adaptive(minimum_count=5)
    state = feed(
      rule,
      start(rule, [[0.5]]),
      agreed=np.linspace(0.1, 0.4, 9),
      disagreed=np.linspace(0.6, 0.9, 9),
    )
    value = rule.values(state, jnp.array([0]))[0, 0]
    np.testing.assert_allclose(value, rule.highest, rtol=1e-6)

  def test_a_low_point_that_passes_alone_is_not_taken(self):
    # Agreement is spread wide and disagreement crowds around 0.6, so low
    # scores agree more often, and those at 0.6 do not.
    rule = Adaptive(minimum_count=5)
    state = feed(
      rule,
      start(rule, [[0.5]]),
      agreed=np.linspace(0.05, 0.95, 19),
      disagreed=np.linspace(0.57, 0.63, 19),
    )
    assert rule.values(state, jnp.array([0]))[0, 0] > 0.6

  def test_the_policy_holds_until_enough_is_known(self):
    rule = Adaptive(minimum_count=3)
    state = start(rule, [[0.123]])
    high, low = [0.8, 0.9, 0.95], [0.1, 0.2]
    state = feed(rule, state, high, low)
    np.testing.assert_allclose(
      rule.values(state, jnp.array([0])), [[0.123]], rtol=1e-6
    )
    state = observe(rule, state, [[0.15]], False)
    assert rule.values(state, jnp.array([0]))[0, 0] >= 0.3

  def test_what_was_not_observed_changes_nothing(self):
    rule = Adaptive()
    state = observe(rule, start(rule, [[0.5, 0.5]]), [[0.6, 0.7]], True)
    after = observe(
      rule, state, [[np.nan, 0.2]], [[True, False]], [[False, True]]
    )
    np.testing.assert_array_equal(
      after.moments.mean[:, 0], state.moments.mean[:, 0]
    )
    assert after.moments.count[0].tolist() == [[0, 1], [1, 1]]
    assert np.isfinite(rule.values(after, jnp.array([0]))).all()

  @pytest.mark.parametrize(
    'agreed, disagreed',
    [
      ([1.0] * 5, [0.0] * 5),  # no variance, at both edges
      ([0.5] * 5, [0.5] * 5),  # the same scores
      ([0.0, 1.0] * 3, [1.0, 0.0] * 3),  # more variance than a Beta can have
    ],
  )
  def test_degenerate_scores_give_finite_thresholds(self, agreed, disagreed):
    rule = Adaptive(minimum_count=2)
    state = feed(rule, start(rule, [[0.5]]), agreed, disagreed)
    value = float(rule.values(state, jnp.array([0]))[0, 0])
    assert rule.lowest - 1e-6 <= value <= rule.highest + 1e-6

  def test_ends_stay_ends(self):
    rule = Adaptive(minimum_count=2)
    state = start(rule, [[0.0, NEVER, 0.5]])
    state = feed(rule, state, [0.9, 0.8, 0.95], [0.1, 0.2, 0.3])
    values = rule.values(state, jnp.array([0]))[0]
    assert values[0] == 0 and values[1] == NEVER
    assert 0.3 <= values[2] <= 0.9


@pytest.mark.parametrize('rule', RULES, ids=thresholds.rule_name)
def test_rows_do_not_influence_one_another(rule):
  random = np.random.default_rng(0)
  rows, exits, tokens = 3, 2, 12
  scores = random.uniform(size=(tokens, rows, exits)).astype(np.float32)
  agreed = random.uniform(size=scores.shape) < scores
  initial = random.uniform(size=(rows, exits)).astype(np.float32)
  positions = np.array([4, 9, 2])

  def run(select):
    state = start(rule, initial[select], prompt=positions[select] // 2)
    for s, a in zip(scores, agreed, strict=True):
      state = observe(rule, state, s[select], a[select])
    return rule.values(state, jnp.asarray(positions[select]))

  alone = np.concatenate([run(slice(i, i + 1)) for i in range(rows)])
  np.testing.assert_allclose(run(slice(None)), alone, rtol=1e-6)


@pytest.mark.parametrize('rule', RULES, ids=thresholds.rule_name)
def test_a_rule_compiles_and_keeps_the_form_of_its_state(rule):
  state = start(rule, [[0.5, 0.6]])
  after = jax.jit(lambda s: observe(rule, s, jnp.array([[0.3, 0.4]]), True))(
    state
  )
  assert jax.tree.structure(state) == jax.tree.structure(after)
  shapes = [[x.shape for x in jax.tree.leaves(s)] for s in (state, after)]
  assert shapes[0] == shapes[1]


def test_rules_are_read_as_written():
  assert parse_threshold_rule('constant') == Constant()
  assert parse_threshold_rule('decaying(2.5)') == Decaying(2.5)
  assert parse_threshold_rule('adaptive(0.6, 0.2)') == Adaptive(0.6, 0.2)
  for rule in RULES:
    assert parse_threshold_rule(rule.notation) == rule


@pytest.mark.parametrize(
  'text, message',
  [
    ('falling', 'no threshold rule .falling.; there are constant, decaying'),
    ('constant(1)', 'takes 0 numbers'),
    ('decaying(-1)', 'temperature'),
    ('decaying(fast)', "'fast' .* is not a number"),
    ('decaying(1', 'neither a name'),
    ('adaptive(1)', 'certainty'),
    ('adaptive(0.4, 0.9, 0.3)', 'lowest'),
    ('adaptive(0.4, 0.3, 0.9, 1)', 'at least 2 points'),
  ],
)
def test_rules_that_make_no_sense_are_refused(text, message):
  with pytest.raises(ArgumentError, match=message):
    parse_threshold_rule(text)


def test_rules_are_static():
  # They are part of a plan, by which compiled programs are found again.
  assert hash(Decaying(2.0)) == hash(Decaying(2.0))
  with pytest.raises(dataclasses.FrozenInstanceError):
    Decaying().temperature = 1.0


def test_a_policy_names_a_rule(tmp_path):
  policy = Policy(threshold_rule='decaying(2)', scored_vocabulary='frequent(9)')
  policy.save(tmp_path / 'policy.json')
  assert Policy.load(tmp_path / 'policy.json') == policy
  with pytest.raises(ArgumentError, match='no threshold rule'):
    Policy(threshold_rule='falling')
