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
"""Test that the public names are what they say and are imported lazily."""

import ast
import importlib
import inspect
import pathlib

import pytest

import eejax


@pytest.mark.parametrize('name', eejax.__all__)
def test_a_public_name_is_there(name):
  thing = getattr(eejax, name)
  assert name in dir(eejax)
  if name != '__version__':
    home = importlib.import_module(f'eejax.{eejax._HOME_OF[name]}')
    assert inspect.getmodule(thing) is home
    assert inspect.getdoc(thing)


def test_the_three_lists_agree():
  tree = ast.parse(pathlib.Path(eejax.__file__).read_text())
  typed = {
    (node.module, alias.name)
    for block in tree.body
    if isinstance(block, ast.If)
    for node in block.body
    for alias in node.names
  }
  lazy = {(f'eejax.{home}', name) for name, home in eejax._HOME_OF.items()}
  assert typed == lazy
  assert {name for _, name in typed} | {'__version__'} == set(eejax.__all__)


def test_other_names_are_missed():
  with pytest.raises(AttributeError, match='no_such_name'):
    _ = eejax.no_such_name
