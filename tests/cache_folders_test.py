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
"""Test where caches are."""

from eejax import cache_folders


def test_a_cache_is_made_where_the_environment_says(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  place = cache_folders.folder('models')
  assert place == tmp_path / 'eejax' / 'models'
  assert place.is_dir()


def test_where_nothing_can_be_written_a_folder_for_the_process_is_taken(
  tmp_path, monkeypatch
):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  place = cache_folders.folder('models')
  assert place.is_dir()
  assert place == cache_folders.folder('models')
  assert tmp_path not in place.parents
