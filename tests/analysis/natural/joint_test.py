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
"""Test the comparison of two models on planted ones."""

import numpy as np
import pytest

from eejax.analysis.natural.joint import joint_against_plain
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import Bootstrap

FEW = Bootstrap(draws=200)
ROWS, LENGTH = 20, 30


@pytest.fixture(scope='module')
def make(by_hand):
  """Return a maker of captures: who settles where, and who knows it."""

  def make(shares, *, knows):
    random = np.random.default_rng(0)
    settles = random.choice(4, size=ROWS * LENGTH, p=shares)
    there = np.arange(4)[:, None] >= settles
    top1 = np.where(there, 1, 2)
    noise = random.random((4, ROWS * LENGTH))
    confidence = np.where(there, 0.5, 0.2) + 0.1 * noise if knows else noise
    return by_hand(
      top1,
      row=np.repeat(np.arange(ROWS), LENGTH),
      top_log_probs=np.log(confidence + 1e-3)[..., None],
      loss=np.full(top1.shape, 2.0 if knows else 1.9),
    )

  return make


SHARES = (0.3, 0.3, 0.2, 0.2)


def test_exits_that_are_found_and_not_made(make):
  plain, joint = make(SHARES, knows=False), make(SHARES, knows=True)
  found = joint_against_plain(plain, joint, bootstrap=FEW)
  stable = found.ceilings['stable']
  assert stable.gap.value == 0.0
  assert stable.plain.value == pytest.approx(stable.joint.value)
  # The joint model's gate finds all there is, or a little more: it was asked
  # for 95 % of the positions.
  assert found.found[1] >= 0.95
  assert found.found[0] < 0.5
  assert found.gate_skip.gap.low > 0
  assert found.gate_agreement.joint.value >= 0.9
  assert found.loss.gap.value == pytest.approx(0.1, abs=1e-6)
  assert found.verdict.startswith('The claim holds here')


def test_exits_that_are_made(make):
  plain, joint = make((0, 0, 0, 1), knows=True), make(SHARES, knows=True)
  found = joint_against_plain(plain, joint, bootstrap=FEW)
  assert found.ceilings['stable'].gap.low > 0.3
  assert found.found[0] is None
  assert 'not the gate alone' in found.verdict or 'overlap' in found.verdict


def test_no_difference(make):
  one = make(SHARES, knows=False)
  found = joint_against_plain(one, one, bootstrap=FEW)
  assert found.gate_skip.gap.value == 0.0
  assert 'does not help the gate' in found.verdict


def test_what_is_reported_was_not_tuned_on(by_hand):
  # Where it is tuned all leave at once and are right; elsewhere all are wrong.
  row = np.repeat(np.arange(6), 5)
  early = np.where(row % 2 == 0, 1, 2)
  top1 = np.stack([early, early, np.ones(30, int)])
  captured = by_hand(top1, row=row, top_log_probs=np.zeros((3, 30, 1)))
  found = joint_against_plain(captured, captured, bootstrap=FEW)
  assert found.gate_agreement.plain.value == 0.0
  assert found.gate_skip.plain.value == 1.0


def test_captures_of_two_texts(make, by_hand):
  one = make(SHARES, knows=True)
  with pytest.raises(ArgumentError, match='different positions'):
    joint_against_plain(one, one.at_positions(one.row > 0))
  with pytest.raises(ArgumentError, match='fills only one'):
    alone = one.at_positions(one.row == 0)
    joint_against_plain(alone, alone)
