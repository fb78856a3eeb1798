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
"""Folders in a store: whole or not there."""

import pytest

from eejax import storage, store_folder
from eejax.checkpoint.atomic import Existing, whole_folder
from eejax.errors import ArgumentError, StoreError

pytestmark = pytest.mark.store

MARKER = 'marker.json'


def write(path, text, **how):
  with whole_folder(path, marker=MARKER, **how) as new:
    (new / 'deep').mkdir()
    (new / MARKER).write_text(text)
    (new / 'deep' / text).write_text(text)


def names(bucket):
  return set(store_folder.list_files(storage.as_path(bucket)))


def test_the_marker_comes_last(bucket, store):
  uploads = []

  def note(method, path):
    if method == 'POST':
      uploads.append(path)
    return False

  with store.refusing(note):
    write(bucket, 'a')
  assert names(bucket) == {MARKER, 'deep/a'}
  assert len(uploads) == 3  # what says that it is not whole came first
  assert (storage.as_path(bucket) / MARKER).read_text() == 'a'


def test_what_is_there_is_refused_or_replaced(bucket):
  write(bucket, 'a')
  with pytest.raises(ArgumentError, match='is not empty'):
    write(bucket, 'b')
  write(bucket, 'b', existing=Existing.OVERWRITE)
  assert names(bucket) == {MARKER, 'deep/b'}
  (storage.as_path(bucket) / MARKER).unlink()
  with pytest.raises(ArgumentError, match='will not be overwritten'):
    write(bucket, 'c', existing=Existing.OVERWRITE)


def test_a_store_that_fails_half_way_leaves_the_old_one(bucket, store):
  write(bucket, 'a')
  with store.refusing(lambda method, path: method == 'POST'):
    with pytest.raises(
      StoreError, match='cannot be written: the store refuses'
    ):
      write(bucket, 'b', existing=Existing.OVERWRITE)
  path = storage.as_path(bucket)
  assert (path / MARKER).read_text() == (path / 'deep/a').read_text() == 'a'
  with pytest.raises(ArgumentError, match='is not empty'):
    write(bucket, 'b')
  write(bucket, 'b', existing=Existing.OVERWRITE)
  assert names(bucket) == {MARKER, 'deep/b'}


def test_what_was_never_whole_is_written_again(bucket, store):
  uploads = []

  def third(method, path):
    uploads.extend([path] if method == 'POST' else [])
    return len(uploads) > 2

  with store.refusing(third), pytest.raises(StoreError):
    write(bucket, 'a')
  assert names(bucket) == {store_folder.PARTIAL, 'deep/a'}
  write(bucket, 'b')
  assert names(bucket) == {MARKER, 'deep/b'}


def test_folders_are_copied_in_every_direction(bucket, tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'b').write_text('c')
  first, second = (storage.as_path(f'{bucket}/{n}') for n in (1, 2))
  store_folder.copy(tmp_path / 'a', first)
  store_folder.copy(first, second)
  store_folder.copy(second, tmp_path / 'd')
  assert (tmp_path / 'd' / 'b').read_text() == 'c'
  assert store_folder.list_files(second) == {'b': 1}
  store_folder.remove(first)
  assert store_folder.list_files(first) == {}
