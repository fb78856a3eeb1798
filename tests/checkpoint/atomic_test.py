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
"""Tests of folders that are written whole or not at all."""

import errno
import os

import pytest

from eejax.checkpoint import atomic
from eejax.checkpoint.atomic import Existing, whole_folder
from eejax.errors import ArgumentError, CheckpointError

MARKER = 'marker.json'


def write(path, text='new', **options):
  with whole_folder(path, marker=MARKER, **options) as partial:
    (partial / MARKER).write_text(text)
    (partial / 'deep').mkdir()
    (partial / 'deep' / 'file').write_text(text)


def names(folder):
  return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_with_its_parents(tmp_path):
  write(tmp_path / 'a' / 'b')
  assert (tmp_path / 'a' / 'b' / 'deep' / 'file').read_text() == 'new'
  assert names(tmp_path / 'a') == ['b']


def test_nothing_is_there_before_the_end(tmp_path):
  with whole_folder(tmp_path / 'a', marker=MARKER) as partial:
    assert not (tmp_path / 'a').exists()
    assert partial.parent == tmp_path
    assert partial.name.startswith('.')


def test_an_empty_folder_is_filled(tmp_path):
  (tmp_path / 'a').mkdir()
  write(tmp_path / 'a')
  assert names(tmp_path) == ['a']


def test_a_folder_is_made_like_others(tmp_path):
  (tmp_path / 'other').mkdir()
  write(tmp_path / 'a')
  mode = (tmp_path / 'other').stat().st_mode
  assert (tmp_path / 'a').stat().st_mode == mode


@pytest.mark.parametrize('existing', Existing)
def test_what_is_not_ours_is_never_replaced(tmp_path, existing):
  (tmp_path / 'thesis.tex').write_text('years of work')
  with pytest.raises(ArgumentError, match=str(tmp_path)):
    write(tmp_path, existing=existing)
  assert names(tmp_path) == ['thesis.tex']


def test_a_file_is_never_replaced(tmp_path):
  (tmp_path / 'a').write_text('')
  with pytest.raises(ArgumentError, match='is a file'):
    write(tmp_path / 'a', existing=Existing.OVERWRITE)


def test_ours_is_replaced_only_when_asked(tmp_path):
  write(tmp_path / 'a', 'old')
  (tmp_path / 'a' / 'left over').write_text('')
  with pytest.raises(ArgumentError, match='not empty'):
    write(tmp_path / 'a')
  assert (tmp_path / 'a' / MARKER).read_text() == 'old'
  write(tmp_path / 'a', existing=Existing.OVERWRITE)
  assert (tmp_path / 'a' / MARKER).read_text() == 'new'
  assert names(tmp_path / 'a') == ['deep', MARKER]
  assert names(tmp_path) == ['a']


@pytest.mark.parametrize(
  ('error', 'words'),
  [
    (OSError(errno.ENOSPC, 'No space left on device'), 'the disk is full'),
    (ValueError('UNKNOWN: [No space left on device]'), 'the disk is full'),
    (OSError(errno.EIO, 'Input/output error'), 'Input/output error'),
  ],
)
def test_a_full_disk_leaves_everything_as_it_was(tmp_path, error, words):
  write(tmp_path / 'a', 'old')
  with pytest.raises(CheckpointError, match=words) as caught:
    with whole_folder(
      tmp_path / 'a', marker=MARKER, existing=Existing.OVERWRITE
    ) as partial:
      (partial / 'half').write_text('half')
      raise error
  assert '\n' not in str(caught.value)
  assert (tmp_path / 'a' / MARKER).read_text() == 'old'
  assert names(tmp_path) == ['a']


def test_a_disk_that_fails_at_the_very_end(tmp_path, monkeypatch):
  write(tmp_path / 'a', 'old')
  rename = os.rename

  def fail_once(source, dest):
    if '.part-' in str(source):
      raise OSError(errno.ENOSPC, 'No space left on device')
    rename(source, dest)

  monkeypatch.setattr(atomic.os, 'rename', fail_once)
  with pytest.raises(CheckpointError, match='the disk is full'):
    write(tmp_path / 'a', existing=Existing.OVERWRITE)
  assert (tmp_path / 'a' / MARKER).read_text() == 'old'


def test_a_file_that_cannot_be_flushed(tmp_path, monkeypatch):
  def fail(descriptor):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(atomic.os, 'fsync', fail)
  with pytest.raises(CheckpointError, match='the disk is full'):
    write(tmp_path / 'a')
  assert names(tmp_path) == []


def test_other_errors_pass_and_leave_nothing(tmp_path):
  with pytest.raises(KeyError):
    with whole_folder(tmp_path / 'a', marker=MARKER) as partial:
      (partial / 'half').write_text('half')
      raise KeyError('mistake')
  assert names(tmp_path) == []
