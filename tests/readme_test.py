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
"""Hold the README to what there is: its commands run, its files exist.

Commands run as they are written, in a folder that has the files they name,
with flags behind them that make them short; later ones use what earlier ones
made.
"""

import functools
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from lm_eval.tasks import TaskManager

import eejax
from eejax.checkpoint.model import Model
from eejax.cli import main, quickstart
from eejax.data.tokenizer import train_bpe
from eejax.testing import tiny

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
README = (REPOSITORY / 'README.md').read_text(encoding='utf-8')
MISSING = 'not there yet'
# Verbs that the README's commands do not name: a script runs it.
BEHIND_SCRIPTS = {'quickstart'}

SHORT_TEXT = '--sequence-length 32 --max-tokens 256'
SHORT_RUN = (
  '--steps 2 --batch-size 2 --sequence-length 16 --data notes.txt '
  '--gin.DataConfig.unit=%TextUnit.PARAGRAPH'
)
# What makes a command short. A new verb gets an entry here, '' if it is quick.
SHORTLY = {
  'import': '',
  # Facts of a machine, for timing this one compiles much.
  'probe': f'{SHORT_TEXT} --hardware cpu_2_cores',
  'analyse': f'{SHORT_TEXT} --leave-out free_running,kv_damage',
  # A shallow model compiles sooner.
  'add-exits': '--exits 1:mlp:gate,2:mlp:gate',
  'tune': f'{SHORT_RUN} --gin.tune.held_out_batches=1',
  'pretrain': (
    f'{SHORT_RUN} --gin_file=models/tiny.gin --exits 1:norm,2:mlp '
    '--gin.pretrain.held_out_batches=1'
  ),
  'eval': SHORT_TEXT,
  'lm-eval': '--limit 1 --num_fewshot 0',
  'generate': '--max-new-tokens 4 --window 2',
  'verify': (
    '--prompt alpha --max-new-tokens 4 --batch-size 1 --threshold 0 '
    '--draft-length 1'
  ),
  'bench': (
    '--prompt alpha --max-new-tokens 4 --batch-sizes 1 --thresholds 0.5 '
    '--repeats 1 --window 2'
  ),
  'calibrate': (
    '--unit paragraph --prompt-tokens 8 --max-new-tokens 4 --sequences 16 '
    '--search-sequences 8 --report-sequences 2 --batch-size 8 --risk 0.5 '
    '--window 2 --allow-slower'
  ),
  'plan': '--batch 8 --best 2',
  'export': '',
  'serve': '--compile-only --port 0 --slots 1 --max-length 16',
}
# What a verb says, with exit code 1, where this machine runs a model of this
# size no faster with exits.
NEVER = '\0'
MAY_SAY_NO = {'calibrate': 'no thresholds save time'}


# MARK: Reading the README


def fenced(text, language):
  """Return the blocks of code in a language."""
  return re.findall(rf'^```{language}\n(.*?)^```', text, re.M | re.S)


def spans(text):
  """Return what stands in backquotes outside blocks."""
  outside = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
  return re.findall(r'`([^`\n]+)`', outside)


def eejax_commands(text):
  """Return every `eejax VERB ...` in order, as lists of words."""
  lines = [line for block in fenced(text, 'sh') for line in block.splitlines()]
  found = [*lines, *spans(text)]
  return [
    shlex.split(line, comments=True)
    for line in found
    if re.match(r'eejax [a-z]', line)
  ]


def script_commands(text):
  """Return every `launch/NAME.sh ...`, as lists of words."""
  lines = [line for block in fenced(text, 'sh') for line in block.splitlines()]
  commands = [
    shlex.split(line, comments=True)
    for line in (*lines, *spans(text))
    if line.startswith('launch/') and '.sh' in line
  ]
  return [list(words) for words in dict.fromkeys(map(tuple, commands))]


def rows_of_tables(text):
  """Return the cells of every row of every table."""
  return [
    [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
    for line in text.splitlines()
    if line.startswith('|')
  ]


def verbs_that_are_missing(text):
  """Return the verbs that a table says are not there yet."""
  rows = [row for row in rows_of_tables(text) if row[-1] == MISSING]
  return {verb.strip() for row in rows for verb in row[0].split(',')}


def named_paths(text):
  """Return what should be in the repository: links, and spans like paths."""
  links = re.findall(r'\]\((?!https?:)([^)#]+)', text)
  tops = {p.name for p in REPOSITORY.iterdir() if p.is_dir()} - {'runs'}
  words = [word for span in spans(text) for word in span.split()]
  blocks = [word for b in fenced(text, 'sh') for word in b.split()]
  paths = [
    word
    for word in (*words, *blocks)
    if '/' in word and word.split('/')[0] in tops
  ]
  return sorted({*links, *paths})


def is_in_repository(path):
  return (REPOSITORY / path).exists()


# MARK: Commands of eejax


@pytest.fixture
def place(tmp_path, monkeypatch):
  """Return a working folder with what a reader of the README has."""
  random = np.random.default_rng(0)
  words = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta']
  documents = [' '.join(random.choice(words, 40)) for _ in range(400)]
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
  (tmp_path / 'models').mkdir()
  eejax.export_folder(model, tmp_path / 'models' / 'Llama-3.2-1B')
  (tmp_path / 'configs').symlink_to(REPOSITORY / 'configs')
  # Reading the names of lm-eval's own tasks takes long.
  few = functools.partial(TaskManager, include_defaults=False)
  monkeypatch.setattr('lm_eval.tasks.TaskManager', few)
  monkeypatch.chdir(tmp_path)
  return tmp_path


def run_shortly(words):
  """Run a command of the README and return its exit code."""
  verb = words[1]
  assert verb in SHORTLY, f'say in SHORTLY how {verb} is made short'
  return main.main([*words[1:], *shlex.split(SHORTLY[verb])])


def test_commands_run_in_order(place, capsys):
  commands = eejax_commands(README)
  assert len(commands) >= 8
  for words in commands:
    code = run_shortly(words)
    out, err = capsys.readouterr()
    said_no = code == 1 and MAY_SAY_NO.get(words[1], NEVER) in err
    assert code == 0 or said_no, f'{shlex.join(words)}\n{err}'
    assert out.strip(), shlex.join(words)
  for made in ('runs/tuned/model', 'runs/first/model', 'models/tuned'):
    assert (place / made).is_dir()
  assert (place / 'models' / 'tuned' / 'exits.safetensors').is_file()


def test_the_verbs_named_are_the_verbs_there_are():
  named = {words[1] for words in eejax_commands(README)}
  there = set(main.available_verbs())
  assert named | BEHIND_SCRIPTS == there
  assert verbs_that_are_missing(README).isdisjoint(there)
  assert set(SHORTLY) <= there


# MARK: Scripts and files


STAND_IN = """#!/bin/bash
if [[ $1 == -c && $2 == *version_info* ]]; then
  echo 3.12
elif [[ $1 == -m && $2 != pip ]]; then
  printf '%s\\n' "${@:2}" >"$LAST_CALL"
fi
"""


def last_call_of(words, folder):
  """Run a script with a Python that installs nothing; return what it ran."""
  root = folder / 'checkout'
  shutil.copytree(REPOSITORY / 'launch', root / 'launch')
  for name in ('setup.cfg', 'pyproject.toml'):
    shutil.copy(REPOSITORY / name, root)
  python = folder / 'environment' / 'bin' / 'python'
  python.parent.mkdir(parents=True)
  python.write_text(STAND_IN)
  python.chmod(0o755)
  log = folder / 'last_call'
  done = subprocess.run(
    words,
    cwd=root,
    capture_output=True,
    text=True,
    env={
      'PATH': os.environ['PATH'],
      'VIRTUAL_ENV': str(folder / 'environment'),
      'LAST_CALL': str(log),
    },
  )
  assert done.returncode == 0, done.stderr
  return log.read_text().splitlines()


def parse_for_quickstart(words):
  return main.build_parser(quickstart, 'eejax quickstart').parse_args(words)


@pytest.mark.parametrize('words', script_commands(README), ids=shlex.join)
def test_scripts_run_with_their_flags(words, tmp_path):
  script = REPOSITORY / words[0]
  assert os.access(script, os.X_OK)
  assert subprocess.run(['bash', '-n', script]).returncode == 0
  called = last_call_of(words, tmp_path)
  if called[0] == 'eejax':
    assert called[1] == 'quickstart'
    parse_for_quickstart(called[2:])
  else:
    assert called[0] == 'pytest'
    # It is for the script, and takes the choice of tests away.
    assert '--slow' not in called
    assert ('not slow' in called) is ('--slow' not in words)


def test_other_flags_are_known():
  text = README[README.index('## Two commands') : README.index('## Verbs')]
  flags = [s for s in spans(text) if s.startswith('--')]
  assert flags
  for flag in flags:
    parse_for_quickstart(shlex.split(flag))
  for verb in main.available_verbs():
    parser = main.build_parser(main._import(verb), f'eejax {verb}')
    assert '--json' in parser.format_help()


def test_files_and_links_exist():
  paths = named_paths(README)
  assert 'docs/decisions.md' in paths and 'launch/test.sh' in paths
  assert [p for p in paths if not is_in_repository(p)] == []
  for path in paths:
    if path.endswith('.py'):
      compile((REPOSITORY / path).read_text(), path, 'exec')


# MARK: The checks can fail


class TestTheChecksCanFail:
  @pytest.mark.parametrize(
    'command, code',
    [
      ('eejax import models/Llama-3.2-1B checkpoints/llama', 0),
      ('eejax import models/Llama-3.2-1B checkpoints/llama --no-such', 2),
      ('eejax probe models/Llama-3.2-1B --data notes.txt', 0),
      ('eejax probe models/Llama-3.2-1B --data absent.txt', 2),
    ],
  )
  def test_wrong_flags_and_absent_files(self, place, capsys, command, code):
    (words,) = eejax_commands(f'| a step | `{command}` | works |')
    assert run_shortly(words) == code

  def test_verbs(self):
    table = '| a | b |\n|---|---|\n| dance, sing | | not there yet |'
    assert verbs_that_are_missing(table) == {'dance', 'sing'}
    commands = eejax_commands('```sh\neejax dance --json  # now\n```')
    assert commands == [['eejax', 'dance', '--json']]
    with pytest.raises(AssertionError, match='SHORTLY'):
      run_shortly(commands[0])

  def test_paths(self):
    text = '[a](docs/absent.md), `eejax/no.py`, `not/ours`, [b](https://x.y/z)'
    assert named_paths(text) == ['docs/absent.md', 'eejax/no.py']
    assert not is_in_repository('docs/absent.md')

  def test_scripts(self, tmp_path):
    text = '```sh\nlaunch/test.sh --hasty  # all\n```\n`launch/test.sh`'
    commands = script_commands(text)
    assert commands == [['launch/test.sh', '--hasty'], ['launch/test.sh']]
    assert '--hasty' in last_call_of(commands[0], tmp_path)
