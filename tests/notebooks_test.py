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
"""Hold each notebook to its source, and execute it with small numbers.

EEJAX_WRITE_NOTEBOOKS=1 makes the notebooks of their sources anew.
"""

import os
import pathlib

import jupytext
import nbclient
import nbformat
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
FOLDER = REPOSITORY / 'notebooks'
NAMES = sorted(p.stem for p in FOLDER.glob('*.py'))
BADGE = (
  'https://colab.research.google.com/github/eejax/eejax/blob/main/notebooks/'
)

# What each is executed with.
SMALL = {
  'does_early_exit_pay': (
    'MAX_TOKENS = 512\nPROMPTS = 2\nNEW_TOKENS = 8\nREPEATS = 1'
  ),
  'add_and_tune_exits': (
    'STEPS = 2\nBATCH_SIZE = 2\nSEQUENCE_LENGTH = 32\nMAX_TOKENS = 512'
  ),
  'decode_losslessly': (
    "PROMPTS = ['def main', 'class Reader']\nNEW_TOKENS = 8\nREPEATS = 1"
  ),
  'calibrate_and_serve': (
    "EXITS = '6:mlp:gate'\nSTEPS = 2\nBATCH_SIZE = 4\nSEQUENCE_LENGTH = 32\n"
    'RISK = 0.9\nDELTA = 0.5\nSEQUENCES = 16\nSEARCH_SEQUENCES = 8\n'
    'REPORT_SEQUENCES = 2\nPROMPT_TOKENS = 8\nNEW_TOKENS = 4\n'
    'MAX_TOKENS = 1024\nMAX_LENGTH = 32'
  ),
  'analysis_figures': 'MAX_TOKENS = 512\nSEQUENCE_LENGTH = 64',
}
# Pictures that each shows.
PICTURES = {
  'does_early_exit_pay': 2,
  'add_and_tune_exits': 3,
  'decode_losslessly': 2,
  'calibrate_and_serve': 4,
  'analysis_figures': 7,
}
# The others compile for minutes; `eejax.analyse` is in no other notebook, nor
# in the one that tests/library_test.py makes of the README.
QUICK = 'analysis_figures'


def source_of(name):
  return jupytext.read(FOLDER / f'{name}.py')


def made_of(name):
  """Return a notebook as it is made of its source: no outputs, ids by place."""
  notebook = source_of(name)
  notebook.metadata.pop('jupytext', None)
  notebook.metadata['colab'] = {'provenance': []}
  for index, cell in enumerate(notebook.cells):
    cell.id = f'cell-{index}'
  return notebook


@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_is_made_of_its_source(name):
  path = FOLDER / f'{name}.ipynb'
  expected = made_of(name)
  if os.environ.get('EEJAX_WRITE_NOTEBOOKS'):
    nbformat.write(expected, path)
  found = nbformat.read(path, as_version=4)
  assert found == nbformat.from_dict(expected)
  nbformat.validate(found)
  assert not any(cell.get('outputs') for cell in found.cells)


@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_opens_in_colab_and_has_parameters(name):
  notebook = made_of(name)
  assert f'{BADGE}{name}.ipynb' in notebook.cells[0].source
  assert notebook.metadata['accelerator'] == 'GPU'
  (install,) = [c for c in notebook.cells if "'pip', 'install'" in c.source]
  assert "find_spec('eejax') is None" in install.source
  assert "BACKBONE = 'default'" in parameters_of(notebook).source
  assert 'print(' not in ''.join(cell.source for cell in notebook.cells)


def parameters_of(notebook):
  (cell,) = [
    c for c in notebook.cells if 'parameters' in c.metadata.get('tags', [])
  ]
  return cell


def test_every_notebook_has_small_numbers():
  assert set(NAMES) == set(SMALL) == set(PICTURES)
  assert {p.stem for p in FOLDER.glob('*.ipynb')} == set(NAMES)
  for name in NAMES:
    known = names_set(parameters_of(made_of(name)).source)
    assert names_set(SMALL[name]) <= known


def names_set(source):
  return {line.split(' = ')[0] for line in source.splitlines() if ' = ' in line}


@pytest.mark.parametrize(
  'name',
  [pytest.param(n, marks=[pytest.mark.slow] * (n != QUICK)) for n in NAMES],
)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
  # The kernel is a process of its own.
  monkeypatch.setenv('PYTHONPATH', str(REPOSITORY))
  notebook = made_of(name)
  place = notebook.cells.index(parameters_of(notebook))
  small = nbformat.v4.new_code_cell(SMALL[name])
  notebook.cells.insert(place + 1, small)
  client = nbclient.NotebookClient(
    notebook, timeout=900, resources={'metadata': {'path': str(tmp_path)}}
  )
  client.execute()
  pictures = [
    output
    for cell in notebook.cells
    for output in cell.get('outputs', ())
    if 'image/png' in output.get('data', {})
  ]
  assert len(pictures) == PICTURES[name]
