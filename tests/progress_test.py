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
"""Test what is shown of long work."""

import io
import sys
import time

from eejax import progress
from eejax.progress import SILENT, TerminalProgress

TERMINAL = TerminalProgress()


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_pipe_gets_a_line_now_and_then(capsys, monkeypatch):
  clock = iter(range(0, 1000, 4))
  monkeypatch.setattr(progress.time, 'monotonic', lambda: float(next(clock)))
  with TERMINAL.bar('tuning', total=10, unit='step') as bar:
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


def test_short_work_prints_nothing_to_a_pipe(capsys):
  with TERMINAL.bar('tuning', total=2) as bar:
    bar.update(2)
  assert capsys.readouterr().err == ''


def test_a_terminal_gets_a_bar(monkeypatch):
  terminal = Terminal()
  monkeypatch.setattr(sys, 'stderr', terminal)
  with TERMINAL.bar('tuning', total=4, unit='step') as bar:
    bar.update(4, loss=1.25)
  drawn = terminal.getvalue()
  assert '4/4' in drawn
  assert 'step/s' in drawn
  assert 'loss=1.25' in drawn


def test_silence_draws_nothing_even_on_a_terminal(monkeypatch):
  terminal = Terminal()
  monkeypatch.setattr(sys, 'stderr', terminal)
  with SILENT.bar('tuning', total=4) as bar:
    bar.start_at(1)
    bar.update(4)
  with SILENT.waiting('compiling'):
    SILENT.say('hello')
  assert terminal.getvalue() == ''


def test_resumed_work_does_not_count_into_the_rate(monkeypatch):
  clock = iter([0.0, 10.0, 10.0, 10.0])
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  bar = TERMINAL.bar('tuning', total=200, unit='step')
  bar.start_at(100)
  bar._done += 20
  assert bar.line() == 'tuning: 120/200 steps, 2 steps/s, 40 s left'


def test_track_yields_everything_and_counts(monkeypatch):
  terminal = Terminal()
  monkeypatch.setattr(sys, 'stderr', terminal)
  assert list(TERMINAL.track([1, 2, 3], 'reading', unit='file')) == [1, 2, 3]
  assert '3/3' in terminal.getvalue()


def test_waiting_speaks_up_only_after_a_while(capsys, monkeypatch):
  with TERMINAL.waiting('compiling'):
    pass
  assert capsys.readouterr().err == ''
  monkeypatch.setattr(progress, 'PATIENCE_S', 0.02)
  with TERMINAL.waiting('compiling'):
    time.sleep(0.2)
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith('compiling: ')
  assert lines[-1].startswith('compiling: took ')
