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
"""Test numbers, time spans and tables."""

import pytest

from eejax import formatting


@pytest.mark.parametrize(
  'value, text',
  [
    (0.01234, '0.0123'),
    (2.0, '2'),
    (1234.4, '1234'),
    (12_345.0, '12.3k'),
    (3.2e9, '3.2G'),
    (-45_000.0, '-45k'),
    (float('nan'), 'nan'),
  ],
)
def test_number(value, text):
  assert formatting.number(value) == text


@pytest.mark.parametrize(
  'seconds, text',
  [
    (4.4, '4 s'),
    (59.7, '1 min 00 s'),
    (185, '3 min 05 s'),
    (3725, '1 h 02 min'),
  ],
)
def test_duration(seconds, text):
  assert formatting.duration(seconds) == text


def test_table_aligns_numbers_right():
  rows = [
    {'exit': 'norm', 'loss': 2.5, 'steps': 10},
    {'exit': 'a long name', 'loss': None, 'steps': 5},
  ]
  assert formatting.table(rows).splitlines() == [
    'exit         loss  steps',
    '-----------  ----  -----',
    'norm          2.5     10',
    'a long name     -      5',
  ]
  assert formatting.table([]) == ''
