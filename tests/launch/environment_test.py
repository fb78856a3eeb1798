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
"""Test how the launch scripts find a Python and make an environment.

The interpreters are stand-ins that record what they are asked to do.
"""

import os
import pathlib
import shutil
import subprocess

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

# Answers as a Python of version $VERSION would; `-m venv` makes another one of
# its kind, and `-m pip` is recorded beside the checkout.
STAND_IN = """#!/bin/bash
log={log}
if [[ $1 == -c && $2 == *version_info* ]]; then
  [[ {version} == 3.1[123] ]] && echo {version} || exit 1
elif [[ $1 == -c && $2 == *ensurepip* ]]; then
  exit {ensurepip}
elif [[ $1 == -c && $2 == 'import torch' ]]; then
  exit 1
elif [[ $1 == -m && $2 == venv ]]; then
  folder=${{@: -1}}
  mkdir -p "$folder/bin"
  cp "$0" "$folder/bin/python"
  echo "venv {version}" >>"$log"
elif [[ $1 == -m && $2 == pip && $3 == install ]]; then
  echo "pip ${{@: -1}}" >>"$log"
  [[ -n ${{PIP_LACKS:-}} && $* == *"$PIP_LACKS"* ]] && exit 1
  exit "${{PIP_FAILS:-0}}"
elif [[ $1 == -m && $2 != pip ]]; then
  echo "run ${{@:2}}" >>"$log"
fi
"""
BROKEN_SHIM = '#!/bin/bash\necho "pyenv: not found" >&2\nexit 127\n'


class Machine:
  """A checkout, a PATH with chosen interpreters, and a log of their calls."""

  def __init__(self, folder: pathlib.Path):
    self.bin = folder / 'bin'
    self.root = folder / 'a checkout'
    self.log = folder / 'log'
    self.bin.mkdir()
    self.root.mkdir()
    self.log.touch()
    for name in ('setup.cfg', 'pyproject.toml'):
      shutil.copy(REPOSITORY / name, self.root)
    for name in ('launch', '.ci'):
      shutil.copytree(REPOSITORY / name, self.root / name)
    tools = ('bash', 'cat', 'cksum', 'cp', 'cut', 'dirname', 'du', 'grep')
    for tool in (*tools, 'head', 'mkdir', 'rm'):
      (self.bin / tool).symlink_to(shutil.which(tool))

  def add_python(self, name, version, *, folder=None, ensurepip=True):
    path = (folder or self.bin) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
      STAND_IN.format(
        log=self.log, version=version, ensurepip=0 if ensurepip else 1
      )
    )
    path.chmod(0o755)

  def add_broken(self, name):
    (self.bin / name).write_text(BROKEN_SHIM)
    (self.bin / name).chmod(0o755)

  def run(self, script, *arguments, **environment):
    return subprocess.run(
      [str(self.root / script), *arguments],
      capture_output=True,
      text=True,
      cwd=self.root.parent,
      env={'PATH': str(self.bin), **environment},
    )

  def calls(self):
    lines = self.log.read_text().splitlines()
    self.log.write_text('')
    return lines


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path)


def test_makes_an_environment_installs_once_and_runs(machine):
  machine.add_python('python3.12', '3.12')
  done = machine.run('launch/quickstart.sh', '--json', 'a b')
  assert done.returncode == 0, done.stderr
  assert machine.calls() == [
    'venv 3.12',
    f'pip {machine.root}',
    'run eejax quickstart --json a b',
  ]
  assert done.stdout == ''
  machine.run('launch/quickstart.sh')
  assert machine.calls() == ['run eejax quickstart']


def test_tests_share_the_environment_and_add_extras_once(machine):
  machine.add_python('python3', '3.11')
  machine.run('launch/quickstart.sh')
  machine.calls()
  machine.run('launch/test.sh', 'tests/cli', '-x')
  calls = machine.calls()
  assert calls[0] == f'pip {machine.root}[train,test]'
  assert calls[1:4] == ['run ruff check', 'run ruff format --check', 'run mypy']
  assert calls[4].startswith('run mypy benchmarks ')
  assert calls[5].startswith('run pytest -n 2 ')
  assert calls[5].endswith('-m not slow tests/cli -x')
  machine.run('launch/test.sh', '--slow')
  calls = machine.calls()
  assert calls[0] == 'run ruff check'
  assert 'slow' not in calls[-1]
  machine.run('launch/quickstart.sh')
  assert machine.calls() == ['run eejax quickstart']


def test_a_changed_setup_installs_again(machine):
  machine.add_python('python3', '3.11')
  machine.run('launch/test.sh')
  machine.calls()
  with (machine.root / 'setup.cfg').open('a') as file:
    file.write('\n# more\n')
  machine.run('launch/quickstart.sh')
  assert machine.calls()[0] == f'pip {machine.root}'
  machine.run('launch/test.sh')
  assert machine.calls()[0] == f'pip {machine.root}[train,test]'


def test_a_failed_installation_is_tried_again(machine):
  machine.add_python('python3', '3.11')
  done = machine.run('launch/quickstart.sh', PIP_FAILS='1')
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1].startswith('eejax: pip could not install')
  machine.calls()
  assert machine.run('launch/quickstart.sh').returncode == 0
  assert machine.calls()[0] == f'pip {machine.root}'


def test_shims_without_a_version_and_wrong_versions_are_passed_over(machine):
  machine.add_broken('python3.13')
  machine.add_python('python3.12', '3.12', ensurepip=False)
  machine.add_python('python3.11', '3.10')
  machine.add_python('python3', '3.11')
  assert machine.run('launch/quickstart.sh').returncode == 0
  assert machine.calls()[0] == 'venv 3.11'


def test_without_a_python_one_sentence_says_what_to_do(machine):
  machine.add_broken('python3')
  machine.add_python('python', '3.14')
  done = machine.run('launch/quickstart.sh')
  assert done.returncode == 1
  assert done.stderr.startswith('eejax: no Python 3.11 to 3.13')
  assert done.stderr.count('\n') == 1
  assert machine.calls() == []


def test_a_chosen_python_is_used_or_refused(machine):
  machine.add_python('python3.13', '3.13')
  machine.add_python('mine', '3.11')
  machine.add_python('old', '3.9')
  done = machine.run('launch/quickstart.sh', EEJAX_PYTHON='old')
  assert done.returncode == 1
  assert 'EEJAX_PYTHON=old' in done.stderr
  assert machine.calls() == []
  machine.run('launch/quickstart.sh', EEJAX_PYTHON='mine')
  assert machine.calls()[0] == 'venv 3.11'


def test_an_active_environment_is_used_as_it_is(machine, tmp_path):
  active = tmp_path / 'active'
  machine.add_python('python', '3.13', folder=active / 'bin')
  done = machine.run('launch/quickstart.sh', VIRTUAL_ENV=str(active))
  assert done.returncode == 0, done.stderr
  assert machine.calls() == [f'pip {machine.root}', 'run eejax quickstart']
  assert not (machine.root / '.venv').exists()


def test_an_active_environment_of_a_wrong_python_is_refused(machine, tmp_path):
  active = tmp_path / 'active'
  machine.add_python('python', '3.10', folder=active / 'bin')
  done = machine.run('launch/quickstart.sh', VIRTUAL_ENV=str(active))
  assert done.returncode == 1
  assert str(active) in done.stderr
  assert machine.calls() == []


def test_what_an_interrupted_run_left_is_made_again(machine):
  machine.add_python('python3', '3.11')
  half = machine.root / '.venv' / 'bin'
  half.mkdir(parents=True)
  (half / 'python').write_text(BROKEN_SHIM)
  (half / 'python').chmod(0o755)
  assert machine.run('launch/quickstart.sh').returncode == 0
  assert machine.calls()[0] == 'venv 3.11'


def test_a_users_own_environment_is_not_erased(machine):
  machine.add_python('python3', '3.11')
  machine.add_python('python', '3.10', folder=machine.root / '.venv' / 'bin')
  done = machine.run('launch/quickstart.sh')
  assert done.returncode == 1
  assert 'remove it' in done.stderr
  assert (machine.root / '.venv' / 'bin' / 'python').exists()


@pytest.mark.parametrize('script', ['quickstart.sh', 'test.sh'])
def test_scripts_are_executable_and_strict(script):
  path = REPOSITORY / 'launch' / script
  assert os.access(path, os.X_OK)
  assert 'set -euo pipefail' in path.read_text()


class TestCi:
  def test_takes_the_small_torch_and_allows_no_skips(self, machine, tmp_path):
    machine.add_python('python3', '3.11')
    done = machine.run('.ci/run', VIRTUAL_ENV=str(tmp_path / 'somewhere'))
    assert done.returncode == 0, done.stderr
    calls = machine.calls()
    assert calls[:4] == [
      'venv 3.11',
      f'pip {machine.root}[train,test,ahead]',
      'pip torch==2.13.0+cpu',
      f'pip {machine.root}[train,test,ahead,parity]',
    ]
    whole, oldest = [c for c in calls if c.startswith('run pytest ')]
    assert whole.endswith(' --no-skips')
    assert calls[-2] == 'pip jaxlib==0.10.0'  # the last of its words
    assert calls[-1] == oldest and 'modes_test' in oldest
    machine.run('.ci/run')
    assert [c for c in machine.calls() if c.startswith('venv')] == []

  def test_takes_what_there_is_where_the_small_torch_is_not(self, machine):
    machine.add_python('python3', '3.11')
    machine.run('.ci/run', PIP_LACKS='+cpu', EEJAX_TORCH='torch==2.6.0')
    calls = machine.calls()
    assert calls[2:5] == [
      'pip torch==2.6.0+cpu',
      'pip https://download.pytorch.org/whl/cpu',
      'pip torch==2.6.0',
    ]

  def test_a_failure_of_the_tests_is_a_failure_of_ci(self, machine):
    machine.add_python('python3', '3.11')
    machine.run('.ci/run')
    python = machine.root / '.venv' / 'bin' / 'python'
    python.write_text(
      python.read_text().replace(
        '#!/bin/bash\n', '#!/bin/bash\n[[ $2 == pytest ]] && exit 5\n'
      )
    )
    assert machine.run('.ci/run').returncode == 5

  def test_is_executable_and_strict(self):
    path = REPOSITORY / '.ci' / 'run'
    assert os.access(path, os.X_OK)
    assert 'set -euo pipefail' in path.read_text()
