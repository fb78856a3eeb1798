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
"""Test what every verb is promised: help, exit codes, errors, JSON."""

import errno
import importlib
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

import eejax.cli
from eejax.cli import main, output
from eejax.cli.gin import config as gin_config
from eejax.errors import (
  ArgumentError,
  CheckpointError,
  EejaxError,
  WriteError,
)
from eejax.version import __version__


def refuse_odd(text):
  if int(text) % 2:
    raise ArgumentError(f'{text} is odd; give an even number.')
  return int(text)


@pytest.fixture
def verb(monkeypatch):
  """Install a verb `bake` whose `run` a test may replace."""
  module = types.ModuleType('eejax.cli.bake')
  module.HELP = 'Bake a cake.'
  module.EXAMPLE = 'eejax bake --heat 200'

  def add_arguments(parser):
    parser.add_argument('--heat', type=int, default=180, help='degrees')
    parser.add_argument('--even', type=refuse_odd)

  module.add_arguments = add_arguments
  module.run = lambda args: {'heat': args.heat}
  module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  monkeypatch.setattr(main, 'VERBS', (*main.VERBS, 'bake'))
  monkeypatch.delenv(main.DEBUG_VARIABLE, raising=False)
  yield module
  output.set_verbosity(output.Verbosity.NORMAL)


def run(capsys, *argv):
  code = main.main(argv)
  captured = capsys.readouterr()
  return code, captured.out, captured.err


def failing(error):
  def run(args):
    raise error

  return run


class TestHelp:
  def test_overview_lists_the_verbs_with_their_help(self, verb, capsys):
    code, out, err = run(capsys, '--help')
    assert code == 0
    assert 'bake' in out
    assert 'Bake a cake.' in out
    assert not err

  def test_without_arguments_it_is_an_error(self, capsys):
    code, out, err = run(capsys)
    assert code == 2
    assert 'usage: eejax VERB' in err
    assert not out

  def test_version(self, capsys):
    assert run(capsys, '--version') == (0, f'eejax {__version__}\n', '')

  def test_a_verb_shows_its_example_and_the_common_flags(self, verb, capsys):
    code, out, _ = run(capsys, 'bake', '--help')
    assert code == 0
    for text in ('Bake a cake.', verb.EXAMPLE, '--heat', '--json', '--quiet'):
      assert text in out

  def test_every_module_that_offers_help_is_a_verb(self):
    folder = pathlib.Path(eejax.cli.__file__).parent
    offering = {
      path.stem
      for path in folder.glob('*.py')
      if '\nHELP = ' in path.read_text()
    }
    listed = {
      main._module_name(v).rpartition('.')[2] for v in main.available_verbs()
    }
    assert offering == listed

  @pytest.mark.parametrize('name', main.available_verbs())
  def test_a_real_verb_is_complete(self, name, capsys):
    module = importlib.import_module(main._module_name(name))
    assert '\n' not in module.HELP
    assert module.EXAMPLE.startswith(f'eejax {name}')
    code, out, _ = run(capsys, name, '--help')
    assert code == 0
    assert module.EXAMPLE in out

  @pytest.mark.parametrize(
    'argv',
    [['--help'], *([name, '--help'] for name in main.available_verbs())],
    ids=' '.join,
  )
  def test_help_imports_nothing_heavy(self, argv):
    program = (
      'import sys\n'
      'from eejax.cli.main import main\n'
      f'code = main({argv!r})\n'
      'heavy = {"jax", "flax", "tensorflow", "torch", "orbax", "gin"}\n'
      'print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)\n'
    )
    done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True
    )
    assert done.stderr.strip() == '0 []'


class TestVerbs:
  def test_unknown_verb_names_the_nearest(self, verb, capsys):
    code, out, err = run(capsys, 'bakke')
    assert code == 2
    assert err == "eejax: there is no verb 'bakke'; did you mean bake?\n"
    assert not out

  def test_a_verb_without_module_is_not_there(self, verb, monkeypatch, capsys):
    monkeypatch.setattr(main, 'VERBS', ('bake', 'levitate'))
    assert 'levitate' not in run(capsys, '--help')[1]
    assert run(capsys, 'levitate')[0] == 2

  def test_option_before_the_verb(self, verb, capsys):
    code, _, err = run(capsys, '--json', 'bake')
    assert code == 2
    assert 'eejax VERB --json' in err

  def test_success(self, verb, capsys):
    assert run(capsys, 'bake') == (0, '', '')


class TestArguments:
  @pytest.mark.parametrize('argv', [['--heat', 'hot'], ['--haet', '3'], ['x']])
  def test_wrong_arguments_exit_2_with_one_line(self, verb, capsys, argv):
    code, out, err = run(capsys, 'bake', *argv)
    assert code == 2
    assert err.startswith('eejax bake: ')
    assert err.count('\n') == 1
    assert argv[0] in err
    assert not out

  def test_flags_are_not_abbreviated(self, verb, capsys):
    assert run(capsys, 'bake', '--hea', '3')[0] == 2

  def test_the_words_of_our_own_checks_reach_the_user(self, verb, capsys):
    code, _, err = run(capsys, 'bake', '--even', '3')
    assert code == 2
    assert '--even: 3 is odd; give an even number' in err

  def test_gin_bindings_reach_a_verb_that_takes_them(self, verb, capsys):
    verb.add_arguments = gin_config.add_gin_arguments
    verb.run = lambda args: {'bindings': args.gin_bindings}
    code, out, _ = run(
      capsys, 'bake', '--gin.a/b.c=1', "--gin.D='x = y'", '--json'
    )
    assert code == 0
    assert json.loads(out) == {'bindings': ['a/b.c=1', "D='x = y'"]}
    code, _, err = run(capsys, 'bake', '--gin.a.b')
    assert code == 2
    assert '--gin.a.b has no value' in err

  def test_gin_bindings_are_refused_elsewhere(self, verb, capsys):
    code, _, err = run(capsys, 'bake', '--gin.a.b=1')
    assert code == 2
    assert '--gin.a.b=1' in err


class TestFailures:
  @pytest.mark.parametrize(
    'error, code, words',
    [
      (EejaxError('the oven is cold.'), 1, 'the oven is cold.'),
      (ArgumentError('no such cake.'), 2, 'no such cake.'),
      (CheckpointError('it is cut short.'), 2, 'it is cut short.'),
      (WriteError('it was not written.'), 1, 'it was not written.'),
      (KeyboardInterrupt(), 130, 'interrupted.'),
      (FileNotFoundError(2, 'No such file', 'a/b'), 1, 'no such file: a/b.'),
      (OSError(errno.ENOSPC, 'No space', 'c'), 1, 'the disk is full: c; '),
      (ValueError('write: No space left on device'), 1, 'the disk is full; '),
      (RuntimeError('RESOURCE_EXHAUSTED: 9 GiB'), 1, 'the memory does not'),
      (ZeroDivisionError('by\nzero'), 1, 'ZeroDivisionError (by zero); set'),
      (AssertionError(), 1, 'stopped by AssertionError'),
    ],
    ids=lambda value: type(value).__name__,
  )
  def test_each_is_one_sentence_with_its_code(
    self, verb, capsys, error, code, words
  ):
    verb.run = failing(error)
    got, out, err = run(capsys, 'bake', '--json')
    assert got == code
    assert err.startswith('eejax bake: ')
    assert words in err
    assert err.count('\n') == 1
    assert not out

  def test_a_full_disk_is_seen_behind_another_error(self, verb, capsys):
    def save(args):
      try:
        raise OSError(errno.ENOSPC, 'No space')
      except OSError as error:
        raise RuntimeError('cannot save') from error

    verb.run = save
    assert 'the disk is full' in run(capsys, 'bake')[2]

  def test_what_gin_appends_is_left_out(self, verb, capsys):
    import gin

    # An earlier run in this process may have locked it.
    gin.clear_config()

    @gin.configurable(module='main_test')
    def knead():
      raise ArgumentError('the dough is dry.')

    verb.run = lambda args: knead()
    code, _, err = run(capsys, 'bake')
    assert code == 2
    assert err == 'eejax bake: the dough is dry.\n'

  def test_debugging_shows_the_traceback(self, verb, capsys, monkeypatch):
    monkeypatch.setenv(main.DEBUG_VARIABLE, '1')
    verb.run = failing(ZeroDivisionError('by zero'))
    code, _, err = run(capsys, 'bake')
    assert code == 1
    assert 'Traceback' in err

  def test_a_closed_pipe_ends_without_a_traceback(self):
    program = (
      'import sys\n'
      'from eejax.cli import main\n'
      'main._overview = lambda: "x" * 1_000_000\n'
      'sys.exit(main.main(["--help"]))\n'
    )
    child = subprocess.Popen(
      [sys.executable, '-c', program],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    child.stdout.close()
    assert child.stderr.read() == b''
    child.stderr.close()
    assert child.wait() == 1


class TestJson:
  def test_exactly_one_object_on_stdout(self, verb, capsys):
    def noisy(args):
      print('chatter')
      output.show('a result for people')
      output.say('a note')
      return {
        'loss': float('nan'),
        'best': np.float32(np.inf),
        'n': np.int32(3),
      }

    verb.run = noisy
    code, out, err = run(capsys, 'bake', '--json')
    assert code == 0
    assert json.loads(out) == {'loss': None, 'best': None, 'n': 3}
    assert out.count('\n') == 1
    assert 'chatter' in err
    assert 'a note' in err

  def test_a_verb_that_returns_nothing_gives_an_empty_object(
    self, verb, capsys
  ):
    verb.run = lambda args: None
    assert run(capsys, 'bake', '--json')[1] == '{}\n'

  def test_what_cannot_be_written_is_a_failure_without_output(
    self, verb, capsys
  ):
    verb.run = lambda args: {'x': object()}
    code, out, _ = run(capsys, 'bake', '--json')
    assert code == 1
    assert not out

  def test_quiet_says_nothing(self, verb, capsys):
    def noisy(args):
      output.say('a note')
      with output.progress('baking', total=2) as bar:
        bar.update()

    verb.run = noisy
    assert run(capsys, 'bake', '--quiet') == (0, '', '')


def test_python_m_eejax_answers():
  done = subprocess.run(
    [sys.executable, '-m', 'eejax', '--version'],
    capture_output=True,
    text=True,
    env={**os.environ},
  )
  assert done.stdout == f'eejax {__version__}\n'
  assert done.returncode == 0
