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
"""Hold docs/evaluation.md to the flags that there are."""

import pathlib
import re
import shlex

import lm_eval
import pytest
import yaml
from lm_eval._cli.harness import HarnessCLI

from eejax.cli import lm_eval as verb
from eejax.cli import main

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / 'docs/evaluation.md').read_text(encoding='utf-8')
COMMANDS = re.findall(r'^ *(?:\w+=\S+ )?(eejax lm-eval .*)$', PAGE, re.M)
LOOPS = dict(re.findall(r'^for (\w+) in (?:\$\(seq )?(\S+)', PAGE, re.M))
OWN_TASKS = pathlib.Path(lm_eval.__file__).parent / 'tasks'
LOCAL_TASKS = REPOSITORY / 'configs/tasks'


def names_of_tasks():
  """Return the tasks and groups of lm-eval and those of this repository."""
  names = set()
  for folder in (OWN_TASKS, LOCAL_TASKS):
    for path in folder.rglob('*.yaml'):
      text = path.read_text(encoding='utf-8')
      names.update(re.findall(r'^(?:task|group):\s*"?([\w-]+)', text, re.M))
  return names


def parsed(command):
  """Return our arguments of a command, and lm-eval's."""
  for name, first in LOOPS.items():
    command = command.replace(f'${name}', first)
  parser = main.build_parser(verb, 'eejax lm-eval')
  ours, rest = parser.parse_known_args(shlex.split(command)[2:])
  return ours, HarnessCLI()._parser.parse_args(['run', *rest])


def test_the_page_has_commands():
  assert len(COMMANDS) >= 14


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_has_flags_that_there_are(command):
  ours, theirs = parsed(command)
  assert ours.checkpoint == 'runs/tuned/model' and theirs.tasks


def test_the_tasks_named_are_there():
  asked = {
    task
    for command in COMMANDS
    for task in ','.join(parsed(command)[1].tasks).split(',')
  }
  rows = re.findall(r'^\| [^|]+ \| [^|]+ \| (`\w+`[^|]*) \| ', PAGE, re.M)
  told = {task for row in rows for task in re.findall(r'`(\w+)`', row)}
  assert {'humaneval', 'gsm8k', 'mmlu', 'xsum', 'truthfulqa_mc1'} <= told
  assert told <= asked
  assert asked <= names_of_tasks()


def test_examples_told_are_those_of_the_commands():
  numbers = {}
  for command in COMMANDS:
    theirs = parsed(command)[1]
    for task in ','.join(theirs.tasks).split(','):
      numbers.setdefault(task, set()).add(theirs.num_fewshot)
  assert {0, 1} <= numbers['cnn_dailymail_abisee']
  assert 3 in numbers['xsum']
  # None is the task's own: 5 of gsm8k, 0 of humaneval and truthfulqa.
  assert numbers['gsm8k'] == numbers['mmlu'] == {5}
  assert numbers['humaneval'] | numbers['truthfulqa_mc1'] == {None}


def test_the_local_tasks_are_those_of_the_page():
  names = {
    re.search(r'^task: (\w+)', path.read_text(), re.M)[1]
    for path in LOCAL_TASKS.glob('*.yaml')
  }
  assert names == set(re.findall(r'^\| `(local_\w+)` \|', PAGE, re.M))


def test_the_numbers_of_local_questions_are_right():
  for name, told in (('arithmetic_words', (14, 6)), ('python_facts', (12, 4))):
    rows = (LOCAL_TASKS / f'{name}.jsonl').read_text().splitlines()
    count = lambda split, rows=rows: sum(
      yaml.safe_load(row)['split'] == split for row in rows
    )
    assert (count('test'), count('train')) == told
