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
import pytest

from eejax.recipes.calibration import path


@pytest.mark.parametrize(
  'means, begin',
  [
    ((0.0, 0.01, 0.03, 0.2, 0.4), 1),
    ((0.05, 0.2, 0.3), 0),
    ((0.0, 0.0, 0.0), 1),
    ((0.9,), 0),
  ],
)
def test_it_begins_before_the_riskiest_that_is_safe(means, begin):
  asked = []

  def mean_loss_of(index):
    asked.append(index)
    return means[index]

  assert path.begin_at(mean_loss_of, len(means), risk=0.1) == begin
  assert len(asked) <= 3
