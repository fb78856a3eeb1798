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
"""Test what is said, drawn and written."""

import dataclasses
import enum
import io
import json
import pathlib
import sys
import time

import numpy as np
import pytest

from eejax.cli import output


@pytest.fixture(autouse=True)
def normal_verbosity():
  yield
  output.set_verbosity(output.Verbosity.NORMAL)


class Terminal(io.StringIO):
  def isatty(self):
    return True


class TestProgress:
  def test_a_pipe_gets_a_line_now_and_then(self, capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(output.time, 'monotonic', lambda: float(next(clock)))
    with output.progress('tuning', total=10, unit='step') as bar:
      for _ in range(10):
        bar.update(loss=2.0)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out
    assert 2 <= len(lines) < 10
    assert lines[0].startswith('tuning: ')
    assert 'steps/s' in lines[0]
    assert 'left' in lines[0]
    assert 'loss 2' in lines[0]
    assert '10/10 steps' in lines[-1]

  def test_short_work_prints_nothing_to_a_pipe(self, capsys):
    with output.progress('tuning', total=2) as bar:
      bar.update(2)
    assert capsys.readouterr().err == ''

  def test_a_terminal_gets_a_bar(self, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    with output.progress('tuning', total=4, unit='step') as bar:
      bar.update(4, loss=1.25)
    drawn = terminal.getvalue()
    assert '4/4' in drawn
    assert 'step/s' in drawn
    assert 'loss=1.25' in drawn

  def test_quiet_draws_nothing_even_on_a_terminal(self, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    output.set_verbosity(output.Verbosity.QUIET)
    with output.progress('tuning', total=4) as bar:
      bar.update(4)
    assert terminal.getvalue() == ''

  def test_resumed_work_does_not_count_into_the_rate(self, monkeypatch):
    clock = iter([0.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(output.time, 'monotonic', lambda: next(clock))
    bar = output.progress('tuning', total=200, unit='step')
    bar.start_at(100)
    bar._done += 20
    assert bar.line() == 'tuning: 120/200 steps, 2 steps/s, 40 s left'

  def test_track_yields_everything_and_counts(self, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    assert list(output.track([1, 2, 3], 'reading', unit='file')) == [1, 2, 3]
    assert '3/3' in terminal.getvalue()

  def test_waiting_speaks_up_only_after_a_while(self, capsys, monkeypatch):
    with output.waiting('compiling'):
      pass
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(output, 'PATIENCE_S', 0.02)
    with output.waiting('compiling'):
      time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith('compiling: ')
    assert lines[-1].startswith('compiling: took ')


class TestWords:
  @pytest.mark.parametrize(
    'value, text',
    [
      (0.01234, '0.0123'),
      (2.0, '2'),
      (1234.4, '1234'),
      (12_345.0, '12.3k'),
      (3.2e9, '3.2G'),
      (-45_000.0, '-45k'),
      (float('nan'), 'nan'),
    ],
  )
  def test_number(self, value, text):
    assert output.number(value) == text

  @pytest.mark.parametrize(
    'seconds, text',
    [
      (4.4, '4 s'),
      (59.7, '1 min 00 s'),
      (185, '3 min 05 s'),
      (3725, '1 h 02 min'),
    ],
  )
  def test_duration(self, seconds, text):
    assert output.duration(seconds) == text

  def test_table_aligns_numbers_right(self):
    rows = [
      {'exit': 'norm', 'loss': 2.5, 'steps': 10},
      {'exit': 'a long name', 'loss': None, 'steps': 5},
    ]
    assert output.table(rows).splitlines() == [
      'exit         loss  steps',
      '-----------  ----  -----',
      'norm          2.5     10',
      'a long name     -      5',
    ]
    assert output.table([]) == ''


class Kind(enum.Enum):
  ROUND = 'round'


@dataclasses.dataclass
class Cake:
  kind: Kind
  path: pathlib.Path


class TestJson:
  def test_plain_takes_what_results_hold(self):
    value = {
      3: Cake(Kind.ROUND, pathlib.Path('a/b')),
      Kind.ROUND: (1, True, None, 'x'),
      'array': np.array([[1.0, np.nan]]),
      'scalar': np.float32(0.5),
      'bad': [float('inf'), -float('inf')],
    }
    assert json.loads(output.dumps(value)) == {
      '3': {'kind': 'round', 'path': 'a/b'},
      'round': [1, True, None, 'x'],
      'array': [[1.0, None]],
      'scalar': 0.5,
      'bad': [None, None],
    }

  def test_text_is_written_as_it_is(self):
    assert output.dumps({'text': 'ünï'}) == '{"text": "ünï"}'

  def test_unknown_things_are_refused(self):
    with pytest.raises(TypeError, match='object cannot be written'):
      output.dumps({'x': object()})
