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
import pathlib

import pytest

from eejax.analysis.certify import Continuation
from eejax.errors import ArgumentError, EejaxError
from eejax.recipes.calibration.decoded_texts import FILE, DecodedTexts

BATCH = [Continuation((1, 2), (3, 4)), Continuation((), ())]


def test_batches_are_kept(tmp_path):
  texts = DecodedTexts(tmp_path / 'new' / 'folder')
  assert texts.get('a') is None
  texts.add('a', BATCH)
  assert texts.get('a') == BATCH
  again = DecodedTexts(tmp_path / 'new' / 'folder')
  assert again.get('a') == BATCH and again.get('b') is None


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  texts = DecodedTexts(None)
  texts.add('a', BATCH)
  assert texts.get('a') == BATCH and list(tmp_path.iterdir()) == []


def test_a_line_that_was_cut_short_is_forgotten(tmp_path):
  texts = DecodedTexts(tmp_path)
  texts.add('a', BATCH)
  texts.add('b', BATCH)
  path = tmp_path / FILE
  path.write_text(path.read_text()[:-9])
  again = DecodedTexts(tmp_path)
  assert again.get('a') == BATCH and again.get('b') is None
  again.add('b', BATCH)
  assert DecodedTexts(tmp_path).get('b') == BATCH


@pytest.mark.parametrize(
  'damage',
  ['\x00\x00\n', '{}\n', '5\n', '{"key": "b", "texts": [[1]]}\n', '\n', '{"k'],
)
def test_damaged_lines_are_dropped(tmp_path, damage):
  texts = DecodedTexts(tmp_path)
  texts.add('a', BATCH)
  path = tmp_path / FILE
  whole = path.read_text()
  path.write_text(whole + damage)
  assert DecodedTexts(tmp_path).get('a') == BATCH
  assert path.read_text() == whole


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  for folder in (tmp_path / 'file', tmp_path / 'file' / 'below'):
    with pytest.raises(ArgumentError, match='name another folder'):
      DecodedTexts(folder)


def test_a_full_disk_is_said(tmp_path):
  (tmp_path / FILE).symlink_to('/dev/full')
  texts = DecodedTexts(None)
  texts._path = tmp_path / FILE
  if not pathlib.Path('/dev/full').exists():  # no Linux
    return
  with pytest.raises(EejaxError, match='No space left .*; make room there'):
    texts.add('a', BATCH)
