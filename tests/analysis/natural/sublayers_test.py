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
"""Test exits after attention against planted ones."""

import numpy as np
import pytest

from eejax.analysis.natural.depths import Ceiling
from eejax.analysis.natural.sublayers import sublayer_exits
from eejax.capture.captured import ReadoutKind
from eejax.errors import ArgumentError
from eejax.stats.bootstrap import Bootstrap

FEW = Bootstrap(draws=50)
NATURAL, ATTENTION = ReadoutKind.NATURAL, ReadoutKind.ATTENTION


@pytest.mark.parametrize('ceiling', [Ceiling.FIRST_MATCH, Ceiling.STABLE])
def test_the_block_that_answers_in_its_attention(captured, settles, ceiling):
  found = sublayer_exits(captured, ceiling, bootstrap=FEW)
  early = settles == 2
  assert found.at_attention.value == pytest.approx(early.mean())
  assert found.at_embedding.value == pytest.approx((settles == 0).mean())
  assert found.at_mlp.value == pytest.approx(
    1 - early.mean() - (settles == 0).mean()
  )
  assert found.saved.value == pytest.approx(early.mean() / 2)
  assert found.skip_gain.value == pytest.approx(early.mean() / 8)
  assert found.distribution.mean_depth.value == pytest.approx(
    np.where(early, 1.5, settles).mean()
  )


def test_more_readouts_have_more_to_agree(by_hand):
  # Settled after block 1 on the grid of blocks, but attention strays.
  kinds = [NATURAL, ATTENTION, NATURAL, ATTENTION, NATURAL]
  captured = by_hand([[1], [1], [5], [1], [5]], kinds=kinds)
  stable = sublayer_exits(captured, Ceiling.STABLE, bootstrap=FEW)
  assert stable.saved.value == -1.0
  first = sublayer_exits(captured, Ceiling.FIRST_MATCH, bootstrap=FEW)
  assert first.saved.value == 0.0


def test_a_capture_without_attention(by_hand):
  with pytest.raises(ArgumentError, match='no attention read-outs'):
    sublayer_exits(by_hand([[1], [1]]), Ceiling.STABLE)
