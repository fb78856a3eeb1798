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
"""Hold what no linter holds: licences, names, sizes, the tests' places."""

import ast
import configparser
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / 'eejax'
TESTS = REPOSITORY / 'tests'

HEADER = (PACKAGE / 'errors.py').read_text().partition('"""')[0]

# Names that say nothing about what a module holds.
EMPTY_NAMES = {'utils', 'util', 'helpers', 'helper', 'misc', 'common'}

# Folders of tests that mirror a folder beside the package, not inside it.
BESIDE = {'launch', 'gin', 'docs', 'benchmarks'}

LONGEST_MODULE = 600
LONGEST_FUNCTION = 80


def python_files():
  folders = ('eejax', 'tests', 'benchmarks', 'launch')
  return sorted(p for f in folders for p in (REPOSITORY / f).rglob('*.py'))


def lacks_header(text):
  return not text.startswith(HEADER)


def long_functions(text):
  """Return the names of functions with too many lines, docstring aside."""
  found = []
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      lines = node.end_lineno - node.lineno + 1
      docstring = ast.get_docstring(node, clean=False)
      if docstring is not None:
        lines -= docstring.count('\n') + 1
      if lines > LONGEST_FUNCTION:
        found.append(node.name)
  return found


def test_there_are_files_to_check():
  assert PACKAGE / 'config' / 'model.py' in python_files()
  assert TESTS / 'style_test.py' in python_files()
  assert 'Apache License, Version 2.0' in HEADER


def test_every_file_has_the_licence_header():
  assert [p for p in python_files() if lacks_header(p.read_text())] == []


def test_every_package_has_an_init_file():
  # The finder of setup.cfg leaves a folder out that has none.
  folders = {p.parent for p in PACKAGE.rglob('*.py')}
  assert [f for f in folders if not (f / '__init__.py').is_file()] == []


def test_folders_of_tests_are_no_packages():
  # Two of them would be one package of the same name to Python.
  assert list(TESTS.rglob('__init__.py')) == []
  assert not (REPOSITORY / 'gin' / '__init__.py').exists()


def test_an_installation_carries_every_data_file():
  config = configparser.ConfigParser()
  config.read(REPOSITORY / 'setup.cfg')
  carried = {
    target: pattern.strip()
    for target, pattern in config['options.data_files'].items()
  }
  assert carried
  for name in ('gin', 'configs', 'assets'):
    for path in sorted((REPOSITORY / name).rglob('*')):
      if path.is_dir():
        continue
      folder = path.parent.relative_to(REPOSITORY).as_posix()
      pattern = carried.get(f'share/eejax/{folder}')
      assert pattern, f'name {folder} in [options.data_files] of setup.cfg'
      assert path in REPOSITORY.glob(pattern), path


def test_names_say_something():
  assert [p for p in python_files() if p.stem in EMPTY_NAMES] == []


def test_tests_mirror_the_package():
  for path in sorted(TESTS.rglob('*.py')):
    if path.name == 'conftest.py':
      continue
    assert path.name.endswith('_test.py'), path
    folder = path.parent.relative_to(TESTS)
    beside = folder.parts and folder.parts[0] in BESIDE
    assert beside or (PACKAGE / folder).is_dir(), path


def test_modules_and_functions_stay_readable():
  for path in sorted(PACKAGE.rglob('*.py')):
    text = path.read_text()
    assert text.count('\n') <= LONGEST_MODULE, path
    assert long_functions(text) == [], path


class TestTheChecksCanFail:
  def test_header(self):
    text = (PACKAGE / 'errors.py').read_text()
    assert not lacks_header(text)
    assert lacks_header(text.partition('\n')[2])

  @pytest.mark.parametrize('lines, found', [(79, []), (80, ['f'])])
  def test_function_length(self, lines, found):
    docstring = '  """Say.\n\n  More.\n  """\n'
    text = 'def f():\n' + docstring + '  x = 1\n' * lines
    assert long_functions(text) == found
