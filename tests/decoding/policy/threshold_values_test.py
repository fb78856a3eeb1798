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
"""Tests of thresholds as text and as numbers."""

import numpy as np
import pytest

from eejax.decoding.policy.threshold_values import (
  format_thresholds,
  parse_thresholds,
  threshold_values,
)
from eejax.errors import ArgumentError


def test_thresholds_are_read_as_typed():
  assert parse_thresholds('0.9, 0,never') == (0.9, 0.0, None)
  assert format_thresholds(parse_thresholds('0.9, 0,never')) == '0.9,0,never'
  for text in ('', 'x', '0.9,,0.8', '0.9;0.8'):
    with pytest.raises(ArgumentError, match='threshold'):
      parse_thresholds(text)


def test_never_is_infinity_wherever_it_stands():
  inf = np.inf
  assert threshold_values([None, 0.5]).tolist() == [inf, 0.5]
  assert threshold_values([None]).tolist() == [inf]
  assert threshold_values([]).shape == (0,)
  nested = threshold_values([(None, 0), (1.0, None)])
  assert nested.tolist() == [[inf, 0], [1, inf]]
  assert nested.dtype == np.float32
