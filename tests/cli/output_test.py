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
"""Test what is said to a person, and when not."""

import pytest

from eejax.cli import output


@pytest.fixture(autouse=True)
def normal_verbosity():
  yield
  output.set_verbosity(output.Verbosity.NORMAL)


def test_quiet_silences_notes_and_progress(capsys):
  output.say('a note')
  assert capsys.readouterr().err == 'a note\n'
  output.set_verbosity(output.Verbosity.QUIET)
  output.say('a note')
  with output.progress('tuning', total=4) as bar:
    bar.update(4)
  assert list(output.track([1, 2], 'reading')) == [1, 2]
  assert capsys.readouterr().err == ''
