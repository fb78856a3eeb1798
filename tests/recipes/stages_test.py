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
"""Test stages that are kept, continued and made anew."""

import json

import pytest

from eejax.errors import ArgumentError, EejaxError
from eejax.progress import TerminalProgress
from eejax.recipes import stages

TITLES = {'one': ('doing one', 1), 'two': ('doing two', 1)}


class Command:
  """Run two stages and note which ones were really run."""

  def __init__(self, folder):
    self.folder = folder
    self.ran = []
    self.fails = False

  def __call__(self, *, first=1, second=1):
    self.ran = []
    run = stages.Stages(self.folder, titles=TITLES, progress=TerminalProgress())
    a = run.run('one', self.one, inputs=first, products=['made'])
    b = run.run('two', lambda: self.two(a), inputs=second)
    self.seconds = run.seconds
    return a, b

  def one(self):
    self.ran.append('one')
    made = self.folder / 'made'
    self.found = sorted(p.name for p in made.glob('*'))
    made.mkdir(exist_ok=True)
    (made / 'half').write_text('x')
    if self.fails:
      raise KeyboardInterrupt
    return {'value': (1, 2)}

  def two(self, a):
    self.ran.append('two')
    return a['value'][1] + 1


@pytest.fixture
def command(tmp_path):
  return Command(tmp_path)


def test_what_is_done_is_not_done_again(command):
  assert command() == ({'value': [1, 2]}, 3)
  assert command.ran == ['one', 'two']
  seconds = dict(command.seconds)
  assert command() == ({'value': [1, 2]}, 3)
  assert command.ran == []
  assert command.seconds == seconds


def test_an_input_that_changes_makes_it_and_all_that_follows_anew(command):
  command()
  command(second=2)
  assert command.ran == ['two']
  command(first=2, second=2)
  assert command.ran == ['one', 'two']


def test_products_of_other_inputs_are_removed(command):
  command()
  command(first=2)
  assert command.found == []


def test_a_missing_product_is_made_again(command):
  command()
  (command.folder / 'made' / 'half').unlink()
  (command.folder / 'made').rmdir()
  command()
  assert command.ran == ['one']


def test_an_interrupted_stage_finds_what_it_had(command):
  command.fails = True
  with pytest.raises(KeyboardInterrupt):
    command()
  command.fails = False
  command()
  assert command.found == ['half']
  assert command.ran == ['one', 'two']


def test_an_interrupted_stage_with_other_inputs_begins_anew(command):
  command.fails = True
  with pytest.raises(KeyboardInterrupt):
    command()
  command.fails = False
  command(first=2)
  assert command.found == []


def test_a_record_cut_short_does_not_count(command):
  command()
  file = command.folder / 'stages' / 'two.json'
  file.write_text(file.read_text()[:-9])
  command()
  assert command.ran == ['two']


def test_force_forgets_everything(command):
  command()
  stages.forget(command.folder)
  command()
  assert command.ran == ['one', 'two']


def test_progress_is_told(command, capsys):
  command()
  told = capsys.readouterr().err
  assert '[1/2] doing one (about 2 s left in all)' in told
  assert '[2/2] doing two' in told
  command()
  assert '[2/2] doing two: done before' in capsys.readouterr().err


class TestClaimed:
  def test_another_process_is_kept_out(self, tmp_path):
    with (
      stages.claimed(tmp_path / 'run'),
      pytest.raises(EejaxError, match='at work'),
      stages.claimed(tmp_path / 'run'),
    ):
      pass

  def test_a_folder_of_something_else_is_refused(self, tmp_path):
    (tmp_path / 'thesis.txt').write_text('precious')
    with (
      pytest.raises(ArgumentError, match='something else'),
      stages.claimed(tmp_path),
    ):
      pass

  def test_a_file_is_refused(self, tmp_path):
    (tmp_path / 'file').write_text('x')
    with (
      pytest.raises(ArgumentError, match='is a file'),
      stages.claimed(tmp_path / 'file'),
    ):
      pass

  def test_it_may_be_claimed_again(self, tmp_path):
    for _ in range(2):
      with stages.claimed(tmp_path / 'run') as folder:
        assert (folder / 'stages').is_dir()


def test_a_fingerprint_tells_changes(tmp_path):
  (tmp_path / 'a.txt').write_text('one')
  before = stages.fingerprint(tmp_path)
  assert stages.fingerprint(tmp_path) == before
  (tmp_path / 'a.txt').write_text('other')
  assert stages.fingerprint(tmp_path) != before
  json.dumps(before)
