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
"""Test that the examples in docstrings show what really happens."""

import doctest
import importlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / 'eejax'


def modules_with_examples():
  for path in sorted(PACKAGE.rglob('*.py')):
    if '>>> ' in path.read_text():
      parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
      name = '.'.join(p for p in parts if p != '__init__')
      needs_seqio = name.startswith('eejax.data.seqio_')
      yield pytest.param(name, marks=[pytest.mark.seqio] * needs_seqio)


@pytest.mark.parametrize('name', modules_with_examples())
def test_examples(name, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  result = doctest.testmod(
    importlib.import_module(name), optionflags=doctest.ELLIPSIS
  )
  assert result.attempted
  assert not result.failed, capsys.readouterr().out
