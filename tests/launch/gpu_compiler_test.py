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
"""Test what launch/gpu_compiler.sh would do, and what it says is wrong."""

import pathlib
import shlex
import subprocess

import pytest

SCRIPT = (
  pathlib.Path(__file__).resolve().parents[2] / 'launch' / 'gpu_compiler.sh'
)


def run(*words):
  return subprocess.run([SCRIPT, *words], capture_output=True, text=True)


def test_the_plug_in_comes_without_the_libraries_it_asks_for():
  done = run('some/folder', '--dry-run')
  assert done.returncode == 0, done.stderr
  venv, packages, plugin, check = map(shlex.split, done.stdout.splitlines())
  assert venv[1:] == ['-m', 'venv', 'some/folder']
  version = next(word for word in packages if word.startswith('jax=='))
  assert '--no-deps' in plugin and '--no-deps' not in packages
  # A plug-in loads into the jax of its own version alone.
  assert f'jax-cuda13-plugin=={version[5:]}' in plugin
  assert f'jax-cuda13-pjrt=={version[5:]}' in plugin
  assert check[:2] == ['env', 'JAX_PLATFORMS=cpu']
  compile(check[-1], 'check', 'exec')


@pytest.mark.parametrize(
  ('words', 'sentence'),
  [
    (['--wrong'], '--wrong is no option of this script; see --help.'),
    (['one', 'two'], 'name one folder, not one and two.'),
  ],
)
def test_what_is_wrong_is_one_sentence(words, sentence):
  done = run(*words)
  assert done.returncode == 2
  assert done.stderr == f'eejax: {sentence}\n' and done.stdout == ''


def test_help_says_how_it_is_called():
  done = run('--help')
  assert done.returncode == 0 and 'launch/gpu_compiler.sh FOLDER' in done.stdout
