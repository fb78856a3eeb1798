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
import dataclasses

import numpy as np
import pytest

from eejax.analysis import exit_placement
from eejax.analysis.cost_model import DecodeCost
from eejax.analysis.exit_placement import Budget, CandidateExits
from eejax.analysis.part_costs import ModelCost
from eejax.errors import ArgumentError

DEPTHS = (2, 4, 6, 8)
ROWS, LENGTH = 12, 60


def cost_of(chosen, head=0.2):
  depths = [DEPTHS[i] for i in chosen]
  blocks = tuple(int(n) for n in np.diff([0, *depths, 10]))
  segments = len(blocks)
  model = ModelCost(
    1.0, head, blocks, (0.0,) * segments, (head,) * segments, (0.0,) * segments
  )
  return DecodeCost(model, reads_logits=True)


def candidates(settled, *, noise=0.0):
  """Return exits that are right from each token's own depth on.

  Their scores say so, but for some noise.
  """
  random = np.random.default_rng(1)
  depth = random.choice(settled, size=(ROWS, LENGTH))
  agree = np.stack([d >= depth for d in DEPTHS])
  scores = np.where(agree, 0.9, 0.3) + noise * random.normal(size=agree.shape)
  return CandidateExits(
    tuple(f'depth {d}' for d in DEPTHS),
    DEPTHS,
    np.clip(scores, 0.01, 0.99),
    agree,
    np.ones((ROWS, LENGTH), bool),
  )


def search(text, agreement=0.99, exits=3, **more):
  halves = (
    text.at_rows(np.arange(first, len(text.counted), 2)) for first in (0, 1)
  )
  return exit_placement.search(
    *halves,
    cost_of=lambda chosen: cost_of(chosen, **more),
    window=4,
    budget=Budget(agreement, exits),
  )


def test_the_exit_is_found_where_tokens_settle():
  found = search(candidates([4, 10]), exits=1)
  assert [DEPTHS[i] for i in found.chosen] == [4]
  assert found.speedup.value > 1.1 and found.agreement.value == 1.0
  assert 0.2 < found.exit_shares[0] < 0.5


def test_more_exits_are_taken_where_they_help():
  text = candidates([2, 6, 10])
  one, two = search(text, exits=1), search(text, exits=2)
  assert [DEPTHS[i] for i in two.chosen] == [2, 6]
  assert two.speedup.value > one.speedup.value


def test_nothing_is_chosen_where_nothing_pays():
  never = search(candidates([10]))
  assert never.chosen == () and never.speedup.value == 1.0
  dear = search(candidates([8, 10]), head=3.0)
  assert dear.chosen == ()


def test_the_budget_is_kept_and_a_looser_one_is_faster():
  text = candidates([2, 4, 6, 10], noise=0.3)
  strict, loose = search(text, agreement=0.97), search(text, agreement=0.7)
  assert strict.searched[0] >= 0.97 and loose.searched[0] >= 0.7
  assert loose.speedup.value > strict.speedup.value
  assert loose.agreement.value < strict.agreement.value
  for found in (strict, loose):
    assert found.speedup.low <= found.speedup.value <= found.speedup.high
    assert found.agreement.low <= found.agreement.value
    assert found.agreement.value == pytest.approx(found.searched[0], abs=0.08)


def test_exits_are_reported_on_another_text():
  # Every other row lies: what looked perfect there is not on the rest.
  text = candidates([4, 10])
  agree = text.agree.copy()
  agree[:, 1::2] = False
  found = search(dataclasses.replace(text, agree=agree))
  assert found.searched[0] >= 0.99 and found.agreement.value < 0.9


def test_two_scores_of_one_depth_are_never_chosen_together():
  text = candidates([2, 10])
  twice = CandidateExits(
    ('a', 'b'),
    (2, 2),
    text.scores[[0, 0]],
    text.agree[[0, 0]],
    text.counted,
  )
  found = exit_placement.search(
    twice, twice, cost_of=lambda chosen: cost_of((0,)), window=4
  )
  assert len(found.chosen) == 1


def test_wrong_input_is_refused():
  text = candidates([4])
  single = dataclasses.replace(
    text,
    scores=text.scores[:, :1],
    agree=text.agree[:, :1],
    counted=text.counted[:1],
  )
  with pytest.raises(ArgumentError, match='one of them is empty'):
    search(single)
  for more in ({'agreement': 0.0}, {'agreement': 1.2}, {'exits': 0}):
    with pytest.raises(ArgumentError):
      Budget(**more)
