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
from eejax.stats.bounds import Bound
from eejax.stats.fixed_sequence import Guarantee, certify_in_order

RISK = DELTA = 0.05
# True risks along the order: slowly over the limit, just over it at once, far
# over it, and up and down again.
CURVES = {
  'slow': (0.005, 0.01, 0.02, 0.035, 0.049, 0.052, 0.06, 0.09),
  'at once': (0.0501, 0.06, 0.2),
  'steep': (0.001, 0.3, 0.5),
  'up and down': (0.01, 0.055, 0.01, 0.051, 0.02),
}


def draw(random, curve, *, n, kind):
  """Return losses [settings, n] of one set of sequences."""
  curve = np.array(curve)[:, None]
  if kind == 'bernoulli':
    # One number decides a sequence at every setting, as one text does.
    return (random.random(n)[None] < curve).astype(float)
  # Mean m of Beta(a, a (1 - m) / m); 0.3 makes most losses near 0 or 1.
  return random.beta(0.3, 0.3 * (1 - curve) / curve, size=(len(curve), n))


def violations(curve, *, bound, kind, draws, n=250):
  random = np.random.default_rng(11)
  guarantee = Guarantee(RISK, DELTA, bound)
  wrong = certified = 0
  for _ in range(draws):
    losses = draw(random, curve, n=n, kind=kind)
    found = certify_in_order(
      lambda place, losses=losses: losses[place],
      len(curve),
      guarantee=guarantee,
    ).certified
    wrong += any(curve[i] > RISK for i in found)
    certified += bool(found)
  return wrong / draws, certified / draws


@pytest.mark.parametrize('curve', CURVES)
@pytest.mark.parametrize('kind', ['bernoulli', 'beta'])
def test_the_guarantee_holds_over_a_thousand_calibrations(curve, kind):
  draws = 1000
  wrong, certified = violations(
    CURVES[curve],
    bound=Bound.HOEFFDING_BENTKUS,
    kind=kind,
    draws=draws,
  )
  assert wrong <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / draws)
  if CURVES[curve][0] < 0.02:
    assert certified > 0.95  # A test that never certifies would pass, too.


@pytest.mark.parametrize('bound', [Bound.BETTING, Bound.BENTKUS])
def test_the_other_bounds_hold_where_it_is_hardest(bound):
  draws = 1000
  wrong, _ = violations(
    CURVES['at once'], bound=bound, kind='bernoulli', draws=draws
  )
  assert wrong <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / draws)


def test_testing_all_at_once_would_break_the_guarantee():
  # What fixed sequence testing is for: the best of many settings that are all
  # too risky is certified far too often.
  random = np.random.default_rng(0)
  guarantee = Guarantee(RISK, DELTA)
  wrong = 0
  for _ in range(200):
    losses = (random.random((30, 250)) < 0.0501).astype(float)
    wrong += any(
      certify_in_order(lambda _, x=x: x, 1, guarantee=guarantee).certified
      for x in losses
    )
  assert wrong / 200 > 0.2


def test_the_first_failure_ends_the_test():
  asked = []

  def losses_of(place):
    asked.append(place)
    return np.full(400, [0.0, 0.01, 0.2, 0.0][place])

  found = certify_in_order(losses_of, 4, guarantee=Guarantee(0.1, 0.05))
  assert found.certified == (0, 1) and asked == [0, 1, 2]
  assert found.tested[2].mean_loss == pytest.approx(0.2)
  assert found.samples_needed() is None  # Its risk is above the limit.


def test_it_says_how_many_sequences_are_missing():
  found = certify_in_order(
    lambda _: np.zeros(20), 3, guarantee=Guarantee(0.05, 0.05)
  )
  assert found.certified == ()
  assert found.samples_needed() == 59
  enough = certify_in_order(
    lambda _: np.zeros(59), 1, guarantee=Guarantee(0.05, 0.05)
  )
  assert enough.certified == (0,) and enough.samples_needed() is None


def test_settings_need_the_same_sequences():
  with pytest.raises(ArgumentError, match='loss of each sequence'):
    certify_in_order(
      lambda place: np.zeros(100 + place), 2, guarantee=Guarantee(0.1, 0.1)
    )


def test_nothing_to_certify_is_an_error():
  with pytest.raises(ArgumentError, match='no setting'):
    certify_in_order(lambda _: np.zeros(5), 0, guarantee=Guarantee())


@pytest.mark.parametrize('levels', [(0, 0.1), (0.1, 1), (math.nan, 0.1)])
def test_a_guarantee_needs_levels_between_0_and_1(levels):
  with pytest.raises(ArgumentError, match='must lie between 0 and 1'):
    Guarantee(*levels)
