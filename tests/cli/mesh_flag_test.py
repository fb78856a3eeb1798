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
"""Test the flag that names the devices of a verb."""

import argparse

import pytest

from eejax.cli import main, mesh_flag
from eejax.errors import ArgumentError


def devices(mesh):
  return mesh_flag.devices(argparse.Namespace(mesh=mesh))


def test_axes_become_devices():
  assert devices(None) is None
  assert dict(devices('fsdp=2,model=2').shape) == {
    'stage': 1,
    'data': 2,
    'fsdp': 2,
    'expert': 1,
    'model': 2,
  }


def test_stages_are_one_sentence():
  with pytest.raises(ArgumentError, match='without pipeline stages') as caught:
    devices('stage=2')
  assert '. ' not in str(caught.value)


def test_a_verb_that_writes_files_runs_in_one_process(monkeypatch, capsys):
  monkeypatch.setenv('EEJAX_COORDINATOR', 'localhost:1')
  monkeypatch.setenv('EEJAX_NUM_PROCESSES', '2')
  monkeypatch.setenv('EEJAX_PROCESS_ID', '0')
  assert main.main(['bench', 'default', '--mesh', 'model=2']) == 2
  assert 'this verb runs in one process' in capsys.readouterr().err
