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
"""Hold the house together: who may import whom.

A module imports modules of lower levels or of its own package, in no cycle,
wherever in the file the import stands. Third-party packages that are heavy or
optional are imported in the places that exist for them.
"""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / 'eejax'

# What a module may import must have a smaller number. `testing` stands beside
# what it may use, and nothing in the package uses it.
LEVELS = {
  'types': 0,
  'config': 0,
  'axes': 0,
  'errors': 0,
  'version': 0,
  'cache_folders': 0,
  'hardware': 0,
  'resources': 0,
  'environment': 0,
  'formatting': 0,
  'progress': 0,
  'serialization': 0,
  'storage': 0,
  'store_folder': 0,
  'store_lock': 0,
  'stats': 1,
  'ops': 1,
  'parallel': 1,
  'models': 2,
  'pipeline': 2,
  'data': 3,
  'checkpoint': 4,
  'training': 5,
  'decoding': 5,
  'testing': 5,
  'capture': 6,
  'planner': 6,
  'evaluation': 6,
  'analysis': 7,
  'report': 8,
  'recipes': 9,
  'serving': 10,
  't5x_adapter': 10,
  'cli': 11,
  # The public names, and `python -m eejax`.
  '': 12,
  '__main__': 12,
}

# Third-party package -> the start of the names of modules that may import it.
CONFINED = {
  'gin': ('eejax.cli.gin.',),
  'absl': ('eejax.cli.',),
  'tensorflow': ('eejax.data.seqio_',),
  'tensorflow_datasets': ('eejax.data.seqio_',),
  'seqio': ('eejax.data.seqio_',),
  't5x': ('eejax.t5x_adapter.',),
  'lm_eval': (
    'eejax.evaluation.tasks.',
    'eejax.recipes.evaluate_tasks.',
    'eejax.cli.lm_eval.',
  ),
  'torch': (),
  'transformers': (),
  # A checkpoint of this kind can run any code when it is read.
  'pickle': (),
}


# MARK: The checker


def module_files(package: pathlib.Path) -> dict[str, pathlib.Path]:
  """Return the file of every module below `package`, by full name."""
  files = {}
  for path in sorted(package.rglob('*.py')):
    parts = path.relative_to(package.parent).with_suffix('').parts
    if parts[-1] == '__init__':
      parts = parts[:-1]
    files['.'.join(parts)] = path
  return files


def imported_names(tree: ast.AST, base: str) -> Iterator[tuple[int, str, str]]:
  """Yield line, module and name of each import; the name may be ''.

  Args:
    tree: a parsed module.
    base: the package that a relative import starts from.
  """
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name, ''
    elif isinstance(node, ast.ImportFrom):
      module = node.module or ''
      if node.level:
        parts = base.split('.')
        above = parts[: len(parts) - node.level + 1]
        module = '.'.join([*above, *([module] if module else [])])
      for alias in node.names:
        yield node.lineno, module, alias.name
    elif isinstance(node, ast.Call) and node.args:
      called = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
      target = node.args[0]
      if called in ('import_module', '__import__') and isinstance(
        target, ast.Constant
      ):
        yield node.lineno, str(target.value), ''


def import_graph(package: pathlib.Path) -> dict[str, dict[str, int]]:
  """Return for each module what it imports, with the line."""
  files = module_files(package)
  graph: dict[str, dict[str, int]] = {}
  for module, path in files.items():
    tree = ast.parse(path.read_text(encoding='utf-8'), str(path))
    is_package = path.name == '__init__.py'
    base = module if is_package else module.rpartition('.')[0]
    graph[module] = {}
    for line, target, name in imported_names(tree, base):
      submodule = f'{target}.{name}'
      graph[module][submodule if submodule in files else target] = line
  return graph


def place(module: str) -> str:
  """Return the package or top-level module that decides a module's level."""
  return (module.split('.') + [''])[1]


def violations(package: pathlib.Path) -> list[str]:
  """Return every breach of the rules, one line each."""
  graph = import_graph(package)
  root = package.name
  found = []
  for module, imports in graph.items():
    if place(module) not in LEVELS:
      found.append(f'{module}: it has no level; give it one in this test')
      continue
    for target, line in sorted(imports.items()):
      where = f'{module}:{line} imports {target}'
      top = target.split('.')[0]
      if top != root:
        homes = CONFINED.get(top)
        if homes is not None and not f'{module}.'.startswith(homes or '-'):
          found.append(f'{where}: {top} is not imported there')
      elif target not in graph:
        found.append(f'{where}: there is no such module')
      elif fault := _level_fault(module, target):
        found.append(f'{where}: {fault}')
  return found + [f'cycle: {" -> ".join(c)}' for c in cycles(graph)]


def _level_fault(module: str, target: str) -> str | None:
  mine, theirs = place(module), place(target)
  if theirs not in LEVELS:
    return None  # reported where it stands
  if mine == theirs or LEVELS[mine] == LEVELS[theirs] == 0:
    return None
  if theirs == 'testing':
    return 'testing is for tests'
  if mine == 'testing' and LEVELS[theirs] > 4:
    return 'testing uses levels 0 to 4'
  if LEVELS[theirs] >= LEVELS[mine]:
    return f'{theirs} is not below {mine}'
  return None


def cycles(graph: dict[str, dict[str, int]]) -> list[list[str]]:
  """Return one cycle for each import that closes one."""
  found, done = [], set()

  def visit(module: str, trail: list[str]) -> None:
    if module in trail:
      found.append([*trail[trail.index(module) :], module])
      return
    if module in done:
      return
    for target in graph[module]:
      if target in graph:
        visit(target, [*trail, module])
    done.add(module)

  for module in graph:
    visit(module, [])
  return found


# MARK: The package


def test_the_package_keeps_the_rules():
  assert violations(PACKAGE) == []


def test_the_checker_sees_the_package():
  graph = import_graph(PACKAGE)
  assert 'eejax.config' in graph['eejax.models.decoder']
  assert 'eejax.ops.softcap' in graph['eejax.models.decoder']
  assert 'gin' in graph['eejax.cli.gin.config']  # inside a function


def test_the_core_needs_no_optional_package():
  """Import every module that a core installation can run."""
  confined = (
    'eejax.data.seqio_',
    'eejax.t5x_adapter',
    'eejax.evaluation.tasks',
  )
  modules = [m for m in module_files(PACKAGE) if not m.startswith(confined)]
  modules.remove('eejax.__main__')
  program = (
    'import importlib, sys\n'
    f'for module in {modules!r}:\n'
    '  importlib.import_module(module)\n'
    'heavy = {"tensorflow", "seqio", "torch", "transformers", "t5x"}\n'
    'print(sorted(heavy & set(sys.modules)))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert done.stderr == ''
  assert done.stdout.strip() == '[]'


@pytest.mark.parametrize('module', ['eejax', 'eejax.cli.main'])
def test_the_entrances_are_light(module):
  program = (
    f'import sys, {module}\n'
    'heavy = {"jax", "flax", "orbax", "tensorflow", "torch", "gin", "numpy"}\n'
    'print(sorted(heavy & set(sys.modules)))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert done.stderr == ''
  assert done.stdout.strip() == '[]'


# MARK: The checker can fail


@pytest.fixture
def house(tmp_path):
  """Return a function that writes a small package from {module: source}."""

  def build(**sources):
    package = tmp_path / 'eejax'
    base = {'__init__': '', 'ops.__init__': '', 'ops.norm': 'import jax\n'}
    for name, source in {**base, **sources}.items():
      path = package.joinpath(*name.split('.')).with_suffix('.py')
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(source)
    return violations(package)

  return build


def test_a_sound_house_has_no_violation(house):
  assert (
    house(
      **{
        'config': 'from eejax.errors import Oops\n',
        'errors': 'class Oops(Exception): pass\n',
        'models.decoder': 'from eejax.ops import norm\n',
        'models.exits': 'from eejax.models.decoder import f\n',
        'data.seqio_tasks': 'def f():\n  import seqio, tensorflow\n',
        'cli.gin.config': 'import gin\nfrom absl import logging\n',
        't5x_adapter.model': 'import t5x\n',
        'testing.tiny': 'from eejax.models import decoder\n',
      }
    )
    == []
  )


@pytest.mark.parametrize(
  'module, source, words',
  [
    ('ops.bad', 'import eejax.models.decoder\n', 'models is not below ops'),
    ('ops.bad', 'from ..models import decoder\n', 'models is not below ops'),
    ('ops.bad', 'def f():\n  from eejax import models\n', 'not below ops'),
    ('ops.bad', 'from eejax.parallel import mesh\n', 'parallel is not below'),
    ('config', 'import eejax.ops.norm\n', 'ops is not below config'),
    ('config', 'from eejax import __version__\n', ' is not below config'),
    ('training.bad', 'import eejax.decoding.loop\n', 'decoding is not below'),
    ('analysis.bad', 'import eejax.report.page\n', 'report is not below'),
    ('models.bad', 'import eejax.testing.tiny\n', 'testing is for tests'),
    ('testing.bad', 'import eejax.decoding.loop\n', 'levels 0 to 4'),
    ('ops.bad', 'import eejax.ops.gone\n', 'no such module'),
    ('gossip.bad', 'import os\n', 'it has no level'),
    ('training.bad', 'import gin\n', 'gin is not imported there'),
    ('training.bad', 'def f():\n  from absl import x\n', 'absl is not'),
    ('data.bad', 'import seqio\n', 'seqio is not imported there'),
    ('data.bad', 'import tensorflow as tf\n', 'tensorflow is not'),
    ('data.bad', 'if 0:\n  import tensorflow_datasets\n', 'tensorflow_datas'),
    ('cli.bad', 'import torch.nn\n', 'torch is not imported there'),
    ('cli.bad', 'from transformers import x\n', 'transformers is not'),
    ('cli.bad', 'import t5x\n', 't5x is not imported there'),
    ('checkpoint.bad', 'import pickle\n', 'pickle is not imported there'),
    ('ops.bad', "f = importlib.import_module('torch')\n", 'torch is not'),
  ],
)
def test_each_rule_can_be_broken(house, module, source, words):
  others = {
    'models.__init__': '',
    'models.decoder': '',
    'parallel.mesh': '',
    'decoding.loop': '',
    'report.page': '',
    'testing.tiny': '',
  }
  found = house(**others, **{module: source})
  assert len(found) == 1, found
  assert words in found[0]
  if 'no level' not in words:
    assert found[0].startswith(f'eejax.{module}:')


def test_a_cycle_is_found_even_through_functions(house):
  found = house(
    **{
      'models.a': 'from eejax.models import b\n',
      'models.b': 'def f():\n  from eejax.models.c import g\n',
      'models.c': 'from . import a\n',
    }
  )
  circle = ['eejax.models.a', 'eejax.models.b', 'eejax.models.c']
  assert found == [f'cycle: {" -> ".join([*circle, circle[0]])}']


def test_a_module_that_imports_itself_is_a_cycle(house):
  found = house(**{'models.a': 'import eejax.models.a\n'})
  assert found == ['cycle: eejax.models.a -> eejax.models.a']
