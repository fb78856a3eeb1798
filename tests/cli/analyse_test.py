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
"""Test eejax analyse from the command line."""

import json

import pytest

from eejax.analysis import sections
from eejax.cli import main
from eejax.errors import EejaxError
from eejax.recipes.analysis import run as analysis_run

VERDICT = {
  'kind': 'no',
  'headline': 'No: it is too slow.',
  'sentences': ['A reason.'],
  'ways': [],
}
SHORT = ('--max-tokens', '96', '--sequence-length', '16')


@pytest.fixture(autouse=True)
def untimed(monkeypatch):
  """Take the verdict as given; what times it has its own tests."""
  monkeypatch.setattr(analysis_run, 'verdict_section', lambda *_, **__: VERDICT)


@pytest.fixture(scope='module')
def checkpoint(save_tiny, tmp_path_factory):
  root = tmp_path_factory.mktemp('analyse')
  save_tiny(root)
  return root / 'model'


@pytest.fixture
def notes(tmp_path):
  path = tmp_path / 'notes.txt'
  path.write_text('alpha beta gamma delta ' * 100)
  return path


def run(capsys, checkpoint, notes, *argv, expect=0):
  argv = ('analyse', checkpoint, '--data', notes, *SHORT, *argv)
  code = main.main([str(word) for word in argv])
  stdout, err = capsys.readouterr()
  assert code == expect, err
  return stdout, err


def test_a_verdict_and_a_page(capsys, checkpoint, notes, tmp_path):
  more = ('--out', tmp_path / 'a', '--sections', 'verdict, suitability')
  stdout, err = run(capsys, checkpoint, notes, *more, '--json')
  values = json.loads(stdout)
  assert (values['verdict'], values['headline']) == ('no', VERDICT['headline'])
  assert values['reasons'] == ['A reason.']
  page = (tmp_path / 'a' / 'report.html').read_text()
  assert values['report'] == str(tmp_path / 'a' / 'report.html')
  assert f'eejax analyse {checkpoint} --data {notes}' in page
  kept = json.loads((tmp_path / 'a' / 'analysis.json').read_text())
  assert set(kept['sections']) == {'verdict', 'suitability'}
  assert '[1/3]' in err


def test_what_failed_is_said(capsys, checkpoint, notes, tmp_path, monkeypatch):
  def fail(captured, settings):
    raise EejaxError('the gates are shut.')

  monkeypatch.setattr(sections, 'gates', fail)
  more = ('--out', tmp_path / 'a', '--sections', 'gates,suitability')
  _, err = run(capsys, checkpoint, notes, *more, expect=1)
  assert 'gates: the gates are shut. The rest is in' in err.splitlines()[-1]


def test_a_manifest_without_models(capsys, checkpoint, notes, tmp_path):
  manifest = tmp_path / 'empty.json'
  manifest.write_text('{"models": []}')
  out = tmp_path / 'a'
  more = ('--manifest', manifest, '--out', out)
  _, err = run(capsys, checkpoint, notes, *more, expect=2)
  assert 'names no model' in err
  assert not out.exists()


def test_a_file_that_is_not_utf8(capsys, checkpoint, notes, tmp_path):
  notes.write_bytes(b'caf\xe9 ' * 100)
  _, err = run(capsys, checkpoint, notes, '--out', tmp_path / 'a', expect=1)
  assert 'notes.txt is not UTF-8 text: byte 3 is wrong' in err
  assert not (tmp_path / 'a').exists()


def test_settings_out_of_range(capsys, checkpoint, notes, tmp_path):
  more = ('--alpha', '2', '--out', tmp_path / 'a')
  _, err = run(capsys, checkpoint, notes, *more, expect=2)
  assert 'alpha must lie in 0 to 1, not 2.0' in err


def test_no_checkpoint(capsys):
  assert main.main(['analyse']) == 2
  assert 'CHECKPOINT must be given' in capsys.readouterr().err
