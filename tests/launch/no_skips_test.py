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
"""Test that CI notices a test that is left out."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

SKIPPING = """
import pytest

def test_skips():
  pytest.skip('left out for a reason')

@pytest.mark.skip(reason='marked')
def test_marked():
  pass

@pytest.mark.xfail(reason='known', strict=True)
def test_fails_as_expected():
  assert False
"""

ALLOWED = """
import pytest

@pytest.mark.t5x
@pytest.mark.skip(reason='no index has it')
def test_needs_what_no_index_has():
  pass
"""

NEEDING = """
import pytest

pytest.importorskip('a_package_that_nobody_has')
"""


@pytest.mark.parametrize(
  'flags, code, words',
  [
    ([], 0, '4 skipped, 1 xfailed'),
    (['--no-skips'], 1, '1 failed, 1 skipped, 1 xfailed, 2 errors'),
    (
      ['--no-skips', '-n', '1'],
      1,
      '1 failed, 1 skipped, 1 xfailed, 2 errors',
    ),
  ],
)
def test_skips_fail_where_nothing_may_be_left_out(tmp_path, flags, code, words):
  shutil.copy(REPOSITORY / 'tests' / 'conftest.py', tmp_path)
  (tmp_path / 'skipping_test.py').write_text(SKIPPING)
  (tmp_path / 'needing_test.py').write_text(NEEDING)
  (tmp_path / 'allowed_test.py').write_text(ALLOWED)
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider'),
      *('--continue-on-collection-errors', f'--rootdir={tmp_path}', *flags),
      *('-o', 'python_files=*_test.py', '-o', 'markers=t5x'),
      str(tmp_path),
    ],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
  )
  last = done.stdout.splitlines()[-1]
  assert words in last, done.stdout + done.stderr
  assert done.returncode == code
