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
from eejax.stats import conformal


def test_the_expected_loss_is_controlled():
  # Averaged over calibrations, the true risk of what is chosen is within
  # the limit, though single ones are above it.
  random = np.random.default_rng(5)
  curve = np.linspace(0.0, 0.3, 31)
  chosen = []
  for _ in range(600):
    # One number decides a sequence at every setting, as one text does.
    losses = (random.random(100)[None] < curve[:, None]).astype(float)
    found = conformal.control(lambda i, x=losses: x[i], 31, risk=0.1)
    chosen.append(curve[found.chosen])
  error = np.std(chosen) / math.sqrt(len(chosen))
  assert np.mean(chosen) <= 0.1 + 3 * error
  assert np.mean(chosen) > 0.06 and max(chosen) > 0.1


def test_the_limit_by_hand():
  # n = 19: one loss of 1 gives (1 + 1) / 20 = 0.1, two 0.15.
  losses = np.zeros((3, 19))
  losses[1, 0] = losses[2, :2] = 1
  found = conformal.control(lambda i: losses[i], 3, risk=0.1)
  assert found.bounds == pytest.approx((0.05, 0.1, 0.15))
  assert found.chosen == 1


def test_a_loss_that_falls_again_is_not_believed():
  losses = np.zeros((2, 99))
  losses[0, :50] = 1
  found = conformal.control(lambda i: losses[i], 2, risk=0.1)
  assert found.chosen is None and len(found.bounds) == 1
  again = conformal.control(lambda i: losses[i], 2, risk=0.9)
  assert again.bounds == pytest.approx((0.51, 0.51))


def test_too_few_sequences_choose_nothing():
  assert conformal.sequences_needed(0.05) == 19
  few, enough = (
    conformal.control(lambda _, n=n: np.zeros(n), 1, risk=0.05).chosen
    for n in (18, 19)
  )
  assert few is None and enough == 0


def test_wrong_input_is_refused():
  with pytest.raises(ArgumentError, match='risk must lie'):
    conformal.control(lambda _: np.zeros(3), 1, risk=1.0)
  with pytest.raises(ArgumentError, match='no setting'):
    conformal.control(lambda _: np.zeros(3), 0, risk=0.1)
  with pytest.raises(ArgumentError, match='each sequence'):
    conformal.control(lambda i: np.zeros(30 + i), 2, risk=0.1)
