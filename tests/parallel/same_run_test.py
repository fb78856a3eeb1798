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
"""Test what hosts say of one another's code and settings."""

from eejax.parallel import same_run


def test_one_command_is_one_run():
  described = same_run.describe({'RATE': 0.1})
  assert same_run.difference([described, same_run.describe({'RATE': 0.1})]) is (
    None
  )


def test_other_code_is_refused():
  said = same_run.difference(
    [{'code': 'a', 'identity': {}}, {'code': 'b', 'identity': {}}]
  )
  assert 'host 1 runs other code' in said


def test_other_settings_are_named():
  first, second = {'RATE': 0.1, 'STEPS': 3}, {'RATE': 0.2}
  said = same_run.difference(
    [{'code': 'a', 'identity': i} for i in (first, second)]
  )
  assert 'RATE is 0.2 there and 0.1 on host 0' in said
  assert 'STEPS is None there and 3 on host 0' in said
