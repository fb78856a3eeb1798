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
"""Numbers and names as the pages of results write them."""

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]

_GATES = {
  'max_prob': 'largest probability',
  'margin': 'margin',
  'entropy': 'entropy',
  'patience(2)': 'patience',
  'hidden_cosine': 'hidden cosine',
  'js': 'JS to the depth before',
  'gate': 'trained gate',
}


def gate_name(name: str | None) -> str:
  """Return what a gate is called."""
  if name is None:
    return 'best of all'
  return _GATES.get(name, name.replace('_', ' '))


def percent(value: float) -> str:
  """Return a share as a percentage."""
  return f'{100 * value:.1f} %'


def percent_bounds(interval: Mapping[str, Any]) -> str:
  """Return the ends of an interval of shares, in percent."""
  return f'{100 * interval["low"]:.1f} to {100 * interval["high"]:.1f}'


def bounds(interval: Mapping[str, Any]) -> str:
  """Return the ends of an interval."""
  return f'{interval["low"]:.3g} to {interval["high"]:.3g}'


def times(value: float) -> str:
  """Return a factor with two digits."""
  return f'{value:.2f}x'


def percent_interval(interval: Values) -> str:
  """Return a share with its interval, in percent."""
  return f'{percent(interval["value"])} ({percent_bounds(interval)})'
