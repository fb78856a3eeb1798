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
"""Test ceilings against models whose tokens settle at known depths."""

import numpy as np
import pytest

from eejax.analysis.suitability.headroom import headroom


def test_known_depths(planted):
  # Token 0 settles at depth 1, token 1 at 3 after a passing match at 0, token
  # 2 at the last depth.
  tokens = [[5, 1, 5], [1, 5, 5], [1, 5, 5], [1, 1, 5], [1, 1, 1]]
  found = headroom(planted.of_logits(planted.logits_of_tokens(tokens)))
  assert found.stable.value == pytest.approx(1 - (1 + 3 + 4) / 12)
  assert found.first_match.value == pytest.approx(1 - (1 + 0 + 4) / 12)
  assert found.agree.value == pytest.approx((1 + 1 + 2 + 3) / 12)
  assert found.settled == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1])
  assert [a.value for a in found.agreement] == pytest.approx(
    [1 / 3, 1 / 3, 1 / 3, 2 / 3, 1]
  )


def test_sparse_depths_count_in_blocks(planted):
  tokens = [[5], [1], [1], [1], [1]]
  whole = planted.of_logits(planted.logits_of_tokens(tokens))
  assert headroom(whole).stable.value == 3 / 4
  assert headroom(whole.at_readouts([0, 2, 4])).stable.value == 2 / 4


def test_weights_count(planted):
  tokens = [[5, 1], [5, 1], [1, 1]]
  captured = planted.of_logits(planted.logits_of_tokens(tokens))
  heavy = planted.with_arrays(captured, weight=np.array([3.0, 1.0]))
  assert headroom(heavy).stable.value == pytest.approx(1 / 4)
