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
"""Test values as JSON, and files that are written whole."""

import dataclasses
import enum
import json
import pathlib

import numpy as np
import pytest

from eejax import serialization
from eejax.errors import ArgumentError


class Kind(enum.Enum):
  ROUND = 'round'


@dataclasses.dataclass
class Cake:
  kind: Kind
  path: pathlib.Path


def test_plain_takes_what_results_hold():
  value = {
    3: Cake(Kind.ROUND, pathlib.Path('a/b')),
    Kind.ROUND: (1, True, None, 'x'),
    'array': np.array([[1.0, np.nan]]),
    'scalar': np.float32(0.5),
    'bad': [float('inf'), -float('inf')],
  }
  assert json.loads(serialization.dumps(value)) == {
    '3': {'kind': 'round', 'path': 'a/b'},
    'round': [1, True, None, 'x'],
    'array': [[1.0, None]],
    'scalar': 0.5,
    'bad': [None, None],
  }


def test_text_is_written_as_it_is():
  assert serialization.dumps({'text': 'ünï'}) == '{"text": "ünï"}'


def test_unknown_things_are_refused():
  with pytest.raises(TypeError, match='object cannot be written'):
    serialization.dumps({'x': object()})


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
  path = tmp_path / 'deep' / 'values.json'
  serialization.write_json(path, {'a': 1})
  with pytest.raises(TypeError):
    serialization.write_json(path, {'a': object()})
  monkeypatch.setattr(serialization.os, 'fsync', _full_disk)
  with pytest.raises(OSError):
    serialization.write_json(path, {'a': 2})
  assert serialization.read_object(path, what='values') == {'a': 1}


def _full_disk(_):
  raise OSError(28, 'No space left on device')


@pytest.mark.parametrize(
  'text, words',
  [(None, 'cannot be read'), ('{', 'is not JSON'), ('[1]', 'JSON object')],
)
def test_a_file_that_is_no_object_is_refused(tmp_path, text, words):
  path = tmp_path / 'values.json'
  if text is not None:
    path.write_text(text)
  with pytest.raises(ArgumentError, match=f'the values .*{words}'):
    serialization.read_object(path, what='values')


def test_a_place_that_cannot_be_written_is_told_early(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ArgumentError, match='is a folder'):
    serialization.check_writable(tmp_path)
  with pytest.raises(ArgumentError, match='cannot be written'):
    serialization.check_writable(tmp_path / 'file' / 'values.json')
