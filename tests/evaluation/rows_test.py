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
"""Test which rows of a text are chosen."""

import numpy as np
import pytest

from eejax.data.batch import PackedBatches, Packing
from eejax.data.memory_source import InMemoryDocuments, Passes
from eejax.errors import ArgumentError
from eejax.evaluation.rows import spread_rows


def text(*, documents=20, length=5):
  ids = [np.full(length, i, np.int32) for i in range(1, documents + 1)]
  return PackedBatches(
    InMemoryDocuments(ids, passes=Passes.ONCE),
    sequence_length=4,
    batch_size=3,
    packing=Packing.ONE_PER_ROW,
  )


def firsts(batches):
  return np.concatenate([b.tokens[b.weights[:, 0] > 0, 0] for b in batches])


def test_rows_are_spread_from_the_first_to_the_last():
  batches = spread_rows(text(), max_tokens=16, batch_size=2)
  assert [len(b.tokens) for b in batches] == [2, 2]
  assert firsts(batches).tolist() == [1, 7, 14, 20]


def test_all_rows_are_taken_where_there_are_few():
  batches = spread_rows(text(), max_tokens=10_000, batch_size=8)
  assert firsts(batches).tolist() == list(range(1, 21))
  # The last batch is padded.
  assert [int(b.weights.sum()) for b in batches] == [32, 32, 16]


def test_one_row_at_least():
  batches = spread_rows(text(), max_tokens=1, batch_size=2)
  assert firsts(batches).tolist() == [1]


def test_no_text_is_an_error():
  with pytest.raises(ArgumentError, match='no text'):
    spread_rows([], max_tokens=10, batch_size=2)


def test_numbers_are_checked():
  with pytest.raises(ArgumentError, match='max_tokens'):
    spread_rows(text(), max_tokens=0, batch_size=2)
