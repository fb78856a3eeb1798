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
"""Tests of the files of single arrays."""

import numpy as np
import pytest

from eejax.checkpoint import arrays
from eejax.errors import CheckpointError

TREE = {'a': {'kernel': np.arange(6.0).reshape(2, 3)}, 'b': np.ones((4,))}
SHAPES = {('a', 'kernel'): (2, 3), ('b',): (4,)}


@pytest.fixture
def written(tmp_path):
  arrays.write_tree(tmp_path / 'tree', TREE)
  return tmp_path / 'tree'


def test_leaves_are_read_as_they_were_written(written):
  found = arrays.read_leaves(written, SHAPES)
  assert found.keys() == SHAPES.keys()
  np.testing.assert_array_equal(found['a', 'kernel'], TREE['a']['kernel'])
  assert found['a', 'kernel'].dtype == TREE['a']['kernel'].dtype


def test_a_file_that_is_gone_is_not_read_as_zeros(written):
  (written / 'a.kernel' / '0.0').unlink()
  assert arrays.read_leaves(written, {('b',): (4,)})
  with pytest.raises(CheckpointError, match='is broken'):
    arrays.read_leaves(written, SHAPES)
  with pytest.raises(CheckpointError, match='is broken'):
    arrays.map_leaves(written, SHAPES)


@pytest.mark.parametrize(
  ('shapes', 'words'),
  [
    ({('c', 'd'): (1,)}, 'lacks the array c/d'),
    ({('b',): (5,)}, r'b has shape \(4,\), not \(5,\)'),
  ],
)
def test_leaves_that_are_not_there_as_said(written, shapes, words):
  with pytest.raises(CheckpointError, match=words):
    arrays.read_leaves(written, shapes)
