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
"""Test what launch/t5x_environment.sh would do, and what it says it lacks.

The Python is a stand-in that knows its version alone.
"""

import os
import pathlib
import shlex
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / 'launch' / 't5x_environment.sh'
STAND_IN = '#!/bin/bash\n[[ $1 == -c ]] && echo {version}\n'


@pytest.fixture
def python(tmp_path):
  """Return a function that makes an interpreter of a version."""

  def make(version='3.12'):
    path = tmp_path / f'python{version}'
    path.write_text(STAND_IN.format(version=version))
    path.chmod(0o755)
    return str(path)

  return make


@pytest.fixture
def sources(tmp_path):
  """Return a folder with checkouts of what no index has."""
  for name in ('t5x', 'airio', 'jestimator'):
    (tmp_path / 'sources' / name / name).mkdir(parents=True)
  return tmp_path / 'sources'


def run(*arguments, python, **environment):
  return subprocess.run(
    ['bash', str(SCRIPT), *map(str, arguments)],
    capture_output=True,
    text=True,
    env={'PATH': os.environ['PATH'], 'EEJAX_PYTHON': python, **environment},
  )


def test_it_takes_pinned_commits_without_what_they_ask_for(python):
  done = run('--dry-run', '/tmp/there', python=python())
  assert done.returncode == 0, done.stderr
  venv, packages, pinned, check = done.stdout.splitlines()
  assert venv.split()[1:] == ['-m', 'venv', '/tmp/there']
  assert 'jax==0.12.0.1' in packages
  assert shlex.split(packages)[-2:] == ['--editable', f'{REPOSITORY}[train]']
  assert '--no-deps' in pinned
  for part in (
    'google-research/t5x@cc342d4',
    'google/airio@69897df',
    'google-research/jestimator@326824a',
  ):
    assert f'git+https://github.com/{part}' in pinned
  assert 'eejax.t5x_adapter' in check


@pytest.mark.parametrize('by', ['flag', 'variable'])
def test_it_takes_folders_that_are_named(by, python, sources):
  words = ['--sources', sources] if by == 'flag' else []
  more = {} if by == 'flag' else {'EEJAX_T5X_SOURCES': str(sources)}
  done = run('--dry-run', *words, python=python(), **more)
  assert done.returncode == 0, done.stderr
  pinned = done.stdout.splitlines()[2].split()
  assert pinned[-3:] == [
    str(sources / name) for name in ('jestimator', 'airio', 't5x')
  ]
  assert 'github' not in done.stdout


@pytest.mark.parametrize(
  'words, version, code, sentence',
  [
    (['--sources'], '3.12', 2, '--sources needs a folder'),
    (['--no'], '3.12', 2, '--no is no option'),
    (['a', 'b'], '3.12', 2, 'name one folder, not a and b'),
    ([], '3.11', 1, 'is no Python 3.12'),
    (['--sources', '/nowhere'], '3.12', 1, '/nowhere has no checkout of t5x'),
  ],
)
def test_what_is_wrong_is_one_sentence(words, version, code, sentence, python):
  done = run(*words, python=python(version))
  assert done.returncode == code
  assert sentence in done.stderr
  assert done.stderr.count('\n') == 1
  assert done.stdout == ''


def test_where_nothing_can_be_fetched_it_says_what_to_name(tmp_path, python):
  lacking = tmp_path / 'lacking'
  lacking.write_text(
    '#!/bin/bash\n'
    '[[ $1 == -c ]] && { echo 3.12; exit; }\n'
    'if [[ $2 == venv ]]; then\n'
    '  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && exit\n'
    'fi\n'
    '[[ $* == *--no-deps* ]] && exit 1\n'
    'exit 0\n'
  )
  lacking.chmod(0o755)
  done = run(tmp_path / 'made', python=str(lacking))
  assert done.returncode == 1
  assert 'EEJAX_T5X_SOURCES' in done.stderr.splitlines()[-1]
