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
"""Test that parts of a text share no document."""

import numpy as np
import pytest

from eejax.data.document_split import split_documents
from eejax.errors import ArgumentError


def _documents(count: int, seed: int = 0) -> list[np.ndarray]:
  generator = np.random.default_rng(seed)
  return [
    generator.integers(0, 1000, size=generator.integers(5, 60))
    for _ in range(count)
  ]


def _keys(part) -> set[bytes]:
  return {d.tobytes() for d in part}


def test_parts_are_disjoint_and_have_their_shares():
  documents = _documents(200)
  parts = split_documents(documents, shares=(1, 3, 1))
  assert sum(map(len, parts)) == 200
  assert len(set().union(*map(_keys, parts))) == 200
  sizes = np.array([sum(map(len, part)) for part in parts])
  np.testing.assert_allclose(sizes / sizes.sum(), [0.2, 0.6, 0.2], atol=0.02)


def test_the_part_of_a_document_is_not_a_matter_of_order():
  documents = _documents(30)
  parts = split_documents(documents, shares=(1, 1))
  again = split_documents(documents[::-1], shares=(1, 1))
  assert [_keys(p) for p in parts] == [_keys(p) for p in again]


def test_equal_documents_are_in_one_part():
  documents = _documents(10)
  parts = split_documents(documents * 3, shares=(1, 1, 1))
  assert not _keys(parts[0]) & _keys(parts[1])
  assert not _keys(parts[1]) & _keys(parts[2])
  assert sum(map(len, parts)) == 30


def test_a_single_document_is_split_by_stretches():
  document = np.arange(5000)
  parts = split_documents([document], shares=(1, 3, 1))
  stretches = [s for part in parts for s in part]
  assert sorted(np.concatenate(stretches).tolist()) == list(range(5000))
  assert all(len(part) for part in parts)
  assert max(map(len, stretches)) <= 1024


def test_shares_that_are_not_positive_are_refused():
  with pytest.raises(ArgumentError, match='positive shares'):
    split_documents(_documents(3), shares=(1, 0))
