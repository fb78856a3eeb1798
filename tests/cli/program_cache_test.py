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
"""Test that compiled programs are kept where they may be."""

import os
import pathlib
import stat
import subprocess
import sys

import pytest

from eejax.cli import program_cache
from eejax.cli.program_cache import FOLDER, ROOM


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
  monkeypatch.delenv(FOLDER, raising=False)
  monkeypatch.delenv(ROOM, raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  # What is set beneath is undone with the rest.
  yield tmp_path
  os.environ.pop(FOLDER, None)
  os.environ.pop(ROOM, None)


def test_a_folder_is_made_and_named(home):
  program_cache.keep_programs()
  place = pathlib.Path(os.environ[FOLDER])
  assert place.is_dir() and place.is_relative_to(home / 'eejax')
  assert int(os.environ[ROOM]) > 0


def test_the_user_s_folder_is_left_alone(monkeypatch):
  monkeypatch.setenv(FOLDER, '/elsewhere')
  program_cache.keep_programs()
  assert os.environ[FOLDER] == '/elsewhere' and ROOM not in os.environ


def test_the_user_s_room_is_left_alone(monkeypatch):
  monkeypatch.setenv(ROOM, '5')
  program_cache.keep_programs()
  assert os.environ[ROOM] == '5'


def test_without_a_home_nothing_is_kept(monkeypatch):
  def none():
    raise RuntimeError('Could not determine home directory.')

  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setattr(pathlib.Path, 'home', none)
  program_cache.keep_programs()
  assert FOLDER not in os.environ


def test_what_cannot_be_made_is_done_without(home, monkeypatch):
  blocked = home / 'a file'
  blocked.write_text('in the way')
  monkeypatch.setenv('XDG_CACHE_HOME', str(blocked))
  program_cache.keep_programs()
  assert FOLDER not in os.environ


def test_what_cannot_be_written_is_done_without(home, monkeypatch):
  monkeypatch.setattr(os, 'access', lambda path, mode: mode != os.W_OK)
  program_cache.keep_programs()
  assert FOLDER not in os.environ
  assert stat.S_ISDIR(program_cache.folder().stat().st_mode)


def test_another_processor_has_another_folder(monkeypatch):
  here = program_cache.folder()
  assert program_cache.folder() == here
  monkeypatch.setattr(program_cache, '_instructions', lambda: 'other flags')
  assert program_cache.folder() != here
  assert program_cache.folder().parent == here.parent


def test_commands_name_it_before_jax_is_imported():
  program = (
    'import os, sys\n'
    'from eejax.cli import main\n'
    "main.main(['eval', 'nowhere', '--data', 'nothing'])\n"
    'import jax\n'
    'print(jax.config.jax_compilation_cache_dir)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == str(program_cache.folder())
