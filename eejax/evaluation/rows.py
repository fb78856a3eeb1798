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
"""Choose rows of text to measure on: a few, spread over all there is."""

from collections.abc import Iterable

import numpy as np

from eejax.data.batch import Batch
from eejax.errors import ArgumentError


def spread_rows(
  batches: Iterable[Batch], *, max_tokens: int, batch_size: int
) -> list[Batch]:
  """Return batches of rows taken at even distances through a text.

  The first rows of a corpus are the first of its files, which need not be
  like the others.

  Args:
    batches: all of the text, once.
    max_tokens: take about so many tokens at most, a row at least.
    batch_size: rows of each batch; the last one is filled with padding.

  Raises:
    ArgumentError: there is no text, or a number is not positive.
  """
  if max_tokens < 1 or batch_size < 1:
    raise ArgumentError(
      f'max_tokens ({max_tokens}) and batch_size ({batch_size}) must be at '
      'least 1.'
    )
  rows = _rows(batches)
  if rows is None:
    raise ArgumentError('there is no text to measure on.')
  sizes = rows['weights'].sum(axis=1)
  count = int(max(1, min(len(sizes), max_tokens // max(sizes.mean(), 1))))
  chosen = np.unique(np.linspace(0, len(sizes) - 1, count).round().astype(int))
  return [
    _batch(rows, chosen[i : i + batch_size], batch_size)
    for i in range(0, len(chosen), batch_size)
  ]


def _rows(batches: Iterable[Batch]) -> dict[str, np.ndarray] | None:
  parts = [batch.as_dict() for batch in batches]
  if not parts:
    return None
  joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
  filled = joined['weights'].any(axis=1)
  return {k: v[filled] for k, v in joined.items()} if filled.any() else None


def _batch(rows: dict[str, np.ndarray], chosen, batch_size: int) -> Batch:
  length = rows['tokens'].shape[1]
  batch = Batch.padding(batch_size, sequence_length=length)
  for name, values in batch.as_dict().items():
    values[: len(chosen)] = rows[name][chosen]
  return batch
