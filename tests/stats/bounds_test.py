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
import math

import numpy as np
import pytest

from eejax.errors import ArgumentError
from eejax.stats import bounds
from eejax.stats.bounds import Bound

MEAN_BOUNDS = [b for b in Bound if b is not Bound.BETTING]


def binomial_tail(count, n, p):
  return math.fsum(
    math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count + 1)
  )


def test_hoeffding_by_hand():
  p = bounds.p_of_mean(0.02, n=100, risk=0.05, bound=Bound.HOEFFDING)
  assert p == pytest.approx(math.exp(-200 * 0.03**2))


@pytest.mark.parametrize('mean, n', [(0.0, 40), (0.025, 120), (0.031, 77)])
def test_bentkus_by_hand(mean, n):
  p = bounds.p_of_mean(mean, n=n, risk=0.05, bound=Bound.BENTKUS)
  tail = binomial_tail(math.ceil(n * mean), n, 0.05)
  assert p == pytest.approx(min(1, math.e * tail))


def test_a_rounded_mean_does_not_count_one_more():
  # 3 of 30 losses are 1; 30 * 0.1 is 3.0000000000000004 in floating point.
  losses = np.zeros(30)
  losses[:3] = 1
  p = bounds.p_value(losses, risk=0.3, bound=Bound.BENTKUS)
  assert p == pytest.approx(math.e * binomial_tail(3, 30, 0.3))


def test_no_loss_at_all_is_the_sharpest_evidence():
  p = bounds.p_of_mean(0.0, n=50, risk=0.05, bound=Bound.HOEFFDING_BENTKUS)
  # kl(0, risk) = -log(1 - risk): the chance of no loss in 50, without e.
  assert p == pytest.approx(0.95**50)


@pytest.mark.parametrize('bound', list(Bound))
def test_a_mean_above_the_limit_is_no_evidence(bound):
  losses = np.full(200, 0.3)
  assert bounds.p_value(losses, risk=0.2, bound=bound) == pytest.approx(
    1.0, abs=1e-9
  )


@pytest.mark.parametrize('bound', list(Bound))
def test_p_values_are_valid_at_the_limit(bound):
  # Under the null at its edge, P(p <= u) <= u, with Bernoulli losses, the
  # hardest, of four numbers of sequences and two levels.
  random = np.random.default_rng(3)
  draws = 1500
  for n, risk in ((60, 0.05), (200, 0.05), (200, 0.2), (500, 0.02)):
    found = np.array(
      [
        bounds.p_value(
          (random.random(n) < risk).astype(float), risk=risk, bound=bound
        )
        for _ in range(draws)
      ]
    )
    for level in (0.05, 0.2):
      room = 3 * math.sqrt(level * (1 - level) / draws)
      assert (found <= level).mean() <= level + room, (n, risk, level)


def test_betting_by_hand():
  losses = np.array([0.0, 1.0])
  stakes = []
  variance = 0.25
  for i, loss in enumerate(losses):
    stakes.append(min(1.0, math.sqrt(2 * math.log(1 / 0.1) / (2 * variance))))
    mean = (0.5 + losses[: i + 1].sum()) / (i + 2)
    # The only step that is used: after the first loss.
    variance = (0.25 + (loss - mean) ** 2) / (i + 2)
  capital = np.cumprod(1 - np.array(stakes) * (losses - 0.4))
  expected = min(1.0, 1 / capital.max())
  assert bounds.betting(losses, risk=0.4, delta=0.1) == pytest.approx(expected)


def test_betting_needs_fewer_where_losses_hardly_vary():
  losses = np.full(120, 0.03)
  by_mean = bounds.p_value(losses, risk=0.1)
  assert bounds.p_value(losses, risk=0.1, bound=Bound.BETTING) < by_mean / 10


@pytest.mark.parametrize(
  'risk, mean', [(0.05, 0.0125), (0.05, 0.025), (0.02, 0.005), (0.01, 0.0025)]
)
def test_hoeffding_bentkus_needs_a_quarter_of_hoeffdings_samples(risk, mean):
  needed = {
    bound: bounds.samples_needed(
      risk=risk, delta=0.05, expected=mean, bound=bound
    )
    for bound in MEAN_BOUNDS
  }
  exact = math.ceil(math.log(20) / (2 * (risk - mean) ** 2))
  assert needed[Bound.HOEFFDING] == exact
  assert needed[Bound.HOEFFDING_BENTKUS] <= exact / 4
  assert needed[Bound.HOEFFDING_BENTKUS] <= needed[Bound.BENTKUS]


@pytest.mark.parametrize('bound', list(Bound))
def test_so_many_samples_are_enough_and_fewer_are_not(bound):
  risk, mean = 0.1, 0.05
  n = bounds.samples_needed(risk=risk, delta=0.1, expected=mean, bound=bound)

  def p(size):
    if bound is Bound.BETTING:
      return bounds.betting(np.full(size, mean), risk=risk, delta=0.1)
    return bounds.p_of_mean(mean, n=size, risk=risk, bound=bound)

  assert p(n - 1) > 0.1
  assert all(p(size) <= 0.1 for size in range(n, n + 60))


def test_without_losses_the_number_is_that_of_a_rare_event():
  # (1 - risk)^n <= delta.
  needed = bounds.samples_needed(risk=0.05, delta=0.05)
  assert needed == math.ceil(math.log(0.05) / math.log(0.95)) == 59


@pytest.mark.parametrize('expected', [0.05, 0.2, math.nan])
def test_no_number_certifies_what_is_above_the_limit(expected):
  assert bounds.samples_needed(risk=0.05, delta=0.05, expected=expected) is None


def test_no_number_is_named_that_nobody_can_decode():
  assert (
    bounds.samples_needed(risk=0.05, delta=0.05, expected=0.05 - 1e-7) is None
  )


@pytest.mark.parametrize('value', [0.0, 1.0, -0.1, 1.5, math.nan])
@pytest.mark.parametrize('name', ['risk', 'delta'])
def test_levels_outside_are_refused(name, value):
  levels = {'risk': 0.05, 'delta': 0.05, name: value}
  with pytest.raises(ArgumentError, match=f'{name} must lie between 0 and 1'):
    bounds.p_value(np.zeros(5), **levels)
  with pytest.raises(ArgumentError, match=f'{name} must lie between 0 and 1'):
    bounds.samples_needed(**levels)


@pytest.mark.parametrize('wrong', [math.nan, -0.01, 1.01, math.inf])
def test_losses_outside_are_refused(wrong):
  with pytest.raises(ArgumentError, match=r'losses must be numbers in \[0, 1'):
    bounds.p_value(np.array([0.0, wrong, 0.5]), risk=0.05)


def test_no_loss_is_refused():
  with pytest.raises(ArgumentError, match='no loss'):
    bounds.p_value(np.zeros(0), risk=0.05)


def test_betting_cannot_be_had_from_a_mean():
  with pytest.raises(ArgumentError, match='needs every loss'):
    bounds.p_of_mean(0.0, n=5, risk=0.05, bound=Bound.BETTING)
