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
"""Run the Python lines of the README, as a notebook and as a script.

The script, with `--slow`, runs them as they stand; the notebook runs them
shortened, on a tiny model.
"""

import pathlib
import re

import numpy as np
import pytest

import eejax
from eejax.checkpoint.model import Model
from eejax.data.tokenizer import train_bpe
from eejax.testing import tiny

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
README = (REPOSITORY / 'README.md').read_text(encoding='utf-8')
(LINES,) = re.findall(r'^```python\n(.*?)^```', README, re.M | re.S)

WORDS = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta']

# What stands in the README -> what makes it short.
SHORTER = {
  "load('default')": "load('tiny')",
  "read_text('stdlib')": "read_text('notes.txt', unit='paragraph')",
  'probe(model, text)': (
    "probe(model, text, max_tokens=600, hardware='cpu_2_cores')"
  ),
  '3:mlp:gate,6:mlp:gate': '1:mlp:gate,2:mlp:gate',
  'steps=500': 'steps=2, batch_size=2, sequence_length=16',
  'risk=0.05': (
    'risk=0.5, sequences=16, search_sequences=8, prompt_tokens=8, '
    'max_new_tokens=4, batch_size=8, window=2'
  ),
  'max_new_tokens=64': 'max_new_tokens=4',
  'policies=[policy])': (
    "policies=[policy], prompts=['alpha'], max_new_tokens=4, repeats=1, "
    'batch_sizes=[1])'
  ),
  'verify(run.model)': (
    "verify(run.model, prompts=['alpha'], max_new_tokens=4, batch_sizes=[1])"
  ),
}


def shortened(lines):
  for long, short in SHORTER.items():
    assert lines.count(long) == 1, long
    lines = lines.replace(long, short)
  return lines


@pytest.fixture
def place(tmp_path, monkeypatch):
  """Return a working folder with a tiny model and a text."""
  random = np.random.default_rng(0)
  documents = [' '.join(random.choice(WORDS, 40)) for _ in range(200)]
  (tmp_path / 'notes.txt').write_text('\n\n'.join(documents))
  tokenizer = train_bpe(documents, vocab_size=300)
  tokenizer.save(tmp_path / 'tokenizer')
  config = tiny.tiny_config(
    '',
    vocab_size=300,
    max_length=96,
    bos_id=tokenizer.bos_id,
    eos_ids=tokenizer.eos_ids,
  )
  model = Model(
    config, tiny.tiny_params(config), tokenizer_folder=tmp_path / 'tokenizer'
  )
  eejax.save(model, tmp_path / 'tiny')
  monkeypatch.chdir(tmp_path)
  return tmp_path


def check_made(place):
  assert eejax.load(place / 'checkpoints' / 'tuned').config.exits
  policy = eejax.Policy.load(place / 'policy.json')
  assert policy.certificate or policy.note


def test_as_a_notebook(place, monkeypatch):
  import nbclient
  import nbformat

  # The kernel is a process of its own.
  monkeypatch.setenv('PYTHONPATH', str(REPOSITORY))
  cells = [
    nbformat.v4.new_code_cell(line)
    for line in [*shortened(LINES).splitlines(), 'verdict', 'out']
    if line.strip()
  ]
  notebook = nbformat.v4.new_notebook(cells=cells)
  client = nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': str(place)}}
  )
  client.execute()
  shown = [
    output['data']['text/html']
    for cell in notebook.cells[-2:]
    for output in cell.outputs
    if 'text/html' in output.get('data', {})
  ]
  assert len(shown) == 2
  assert 'Forecast' in shown[0]
  assert 'class="token' in shown[1]
  check_made(place)


@pytest.mark.slow
def test_as_a_script(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  exec(compile(LINES, 'README.md', 'exec'), {})
  check_made(tmp_path)
