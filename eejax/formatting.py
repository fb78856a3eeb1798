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
"""Numbers, time spans and tables as people read them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def number(value: float) -> str:
  """Return a number with about three digits, as in `0.0123` or `12.3k`."""
  if not math.isfinite(value):
    return str(value)
  for scale, letter in ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if abs(value) >= max(scale, 1e4):
      return f'{value / scale:.3g}{letter}'
  return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def duration(seconds: float) -> str:
  """Return a time span as people say it, as in `42 s` or `3 min 05 s`."""
  whole = round(seconds)
  if whole < 60:
    return f'{whole} s'
  if whole < 3600:
    return f'{whole // 60} min {whole % 60:02} s'
  return f'{whole // 3600} h {whole % 3600 // 60:02} min'


def table(rows: Iterable[Mapping[str, Any]]) -> str:
  """Return `rows` as an aligned text table; the first row names the columns.

  Numbers stand on the right, words on the left, None is a dash.
  """
  rows = list(rows)
  if not rows:
    return ''
  columns = list(rows[0])
  cells = [[_cell(row.get(column)) for column in columns] for row in rows]
  widths = [
    max(len(column), *(len(line[i]) for line in cells))
    for i, column in enumerate(columns)
  ]
  right = [
    all(isinstance(row.get(c), (int, float, type(None))) for row in rows)
    for c in columns
  ]

  def line(texts: Sequence[str]) -> str:
    padded = (
      text.rjust(width) if is_right else text.ljust(width)
      for text, width, is_right in zip(texts, widths, right, strict=True)
    )
    return '  '.join(padded).rstrip()

  rule = line(['-' * width for width in widths])
  return '\n'.join([line(columns), rule, *map(line, cells)])


def _cell(value: Any) -> str:
  if value is None:
    return '-'
  return number(value) if isinstance(value, float) else str(value)
