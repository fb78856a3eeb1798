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
"""Test the loop: what it writes, how it stops, and that it resumes exactly."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eejax.data.batch import PackedBatches
from eejax.data.memory_source import InMemoryDocuments, Passes
from eejax.errors import ArgumentError, EejaxError
from eejax.testing import tiny
from eejax.training import loop, metrics, run_folder
from eejax.training.freeze import Regime
from eejax.training.loop import Ending, Task
from eejax.training.loop_config import LoopConfig
from eejax.training.objective import Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.reporting import ProgressReporter
from eejax.training.step import StepConfig
from eejax.training.weight_schedules import Curriculum, ExitWeights

STEPS = 11
SETTINGS = LoopConfig(steps=STEPS, log_every=3, eval_every=4, save_every=4)
ROTATIONAL = Objective(
  regime=Regime.JOINT,
  exit_weights=ExitWeights(curriculum=Curriculum.ROTATIONAL),
)


def make_batches(passes=Passes.ENDLESS):
  random = np.random.default_rng(0)
  documents = [
    random.integers(3, 29, size=random.integers(3, 25)) for _ in range(20)
  ]
  source = InMemoryDocuments(documents, passes=passes, seed=3)
  return PackedBatches(source, sequence_length=8, batch_size=2)


def make_task(objective=ROTATIONAL, rate=1e-2, **settings):
  config = tiny.tiny_config()
  return Task(
    config=config,
    params=tiny.tiny_params(config),
    objective=objective,
    optimizer=clipped_adamw(rate),
    settings=StepConfig(**settings),
    learning_rate=rate if callable(rate) else optax.constant_schedule(rate),
  )


def train(folder, task=None, settings=SETTINGS, reporter=None):
  return loop.train(
    task or make_task(layer_dropout=0.3),
    folder=pathlib.Path(folder),
    settings=settings,
    batches=make_batches(),
    held_out=[next(make_batches(Passes.ONCE))],
    reporter=reporter,
  )


def lines(folder, kind=None):
  """Return the records that a resumed run must repeat bit for bit."""
  return [
    r
    for r in metrics.read_records(folder)
    if r['kind'] != metrics.TIMING and kind in (None, r['kind'])
  ]


class Interruption(ProgressReporter):
  """Do something once so many steps have been reported."""

  def __init__(self, after, action):
    super().__init__()
    self.left = after
    self.action = action

  def advance(self, count, values):
    self.left -= count
    if self.left <= 0:
      self.left = np.inf
      self.action()


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """Return the folder and the outcome of a run nobody disturbed."""
  folder = tmp_path_factory.mktemp('straight')
  return folder, train(folder)


class TestAnUndisturbedRun:
  def test_it_ends(self, straight):
    _, outcome = straight
    assert outcome.ending is Ending.FINISHED
    assert outcome.step == STEPS

  def test_every_step_is_recorded_once(self, straight):
    folder, _ = straight
    steps = [r['step'] for r in lines(folder, metrics.TRAIN)]
    assert steps == list(range(1, STEPS + 1))

  def test_exits_take_turns_in_the_records(self, straight):
    folder, _ = straight
    names = [e.name for e in tiny.tiny_config().exits]
    for record in lines(folder, metrics.TRAIN):
      shown = [n for n in names if f'{n}/loss' in record]
      assert shown == [names[(record['step'] - 1) % 3]]
      assert record[f'{shown[0]}/weight'] == 1.0
      assert record['learning_rate'] == pytest.approx(1e-2)

  def test_held_out_text_is_measured_at_every_exit(self, straight):
    folder, outcome = straight
    records = lines(folder, metrics.HELD_OUT)
    assert [r['step'] for r in records] == [0, 4, 8, STEPS]
    for name in ('final', 'exit_1', 'exit_2', 'exit_3'):
      assert f'{name}/loss' in records[-1]
      assert records[-1][f'{name}/loss'] == outcome.held_out[f'{name}/loss']
    assert 'exit_1/agreement' in records[-1]
    assert 'exit_3/gate_accuracy' in records[-1]

  def test_speed_is_recorded_without_compilation(self, straight):
    folder, _ = straight
    steps = [
      r['step']
      for r in metrics.read_records(folder)
      if r['kind'] == metrics.TIMING
    ]
    # The first record says when the run began.
    assert steps[0] == 0 and steps[1:] and 1 not in steps
    last = metrics.read_records(folder)[-1]
    speed = [r for r in metrics.read_records(folder) if 'step_s' in r][-1]
    assert 0 < speed['goodput'] < 1 and last['step'] == STEPS

  def test_tensorboard_has_the_same(self, straight):
    folder, _ = straight
    written = list((folder / 'tensorboard').glob('events.*'))
    assert len(written) == 1
    content = written[0].read_bytes()
    assert b'held_out/exit_2/loss' in content
    assert b'train/grad_norm' in content

  def test_checkpoints_are_kept_to_the_limit(self, straight):
    folder, _ = straight
    kept = {p.name for p in (folder / 'checkpoints').iterdir()}
    assert kept == {'8', str(STEPS)}

  def test_the_start_is_not_changed(self):
    task = make_task()
    assert not any(x.is_deleted() for x in jax.tree.leaves(task.params))

  def test_going_on_from_the_end_does_nothing(self, straight):
    folder, outcome = straight
    before = lines(folder)
    again = train(folder)
    assert again.ending is Ending.FINISHED
    assert again.held_out == outcome.held_out
    assert lines(folder) == before
    jax.tree.map(
      np.testing.assert_array_equal, again.trainable, outcome.trainable
    )


def assert_same_run(folder, straight):
  expected, outcome = straight
  resumed = train(folder)
  assert resumed.ending is Ending.FINISHED
  assert lines(folder) == lines(expected)
  jax.tree.map(
    np.testing.assert_array_equal, resumed.trainable, outcome.trainable
  )


class TestResuming:
  @pytest.mark.parametrize('after', (1, 3, 6, 9))
  def test_after_a_crash(self, straight, tmp_path, after):
    def crash():
      raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
      train(tmp_path, reporter=Interruption(after, crash))
    assert lines(tmp_path) != lines(straight[0])
    assert_same_run(tmp_path, straight)

  @pytest.mark.parametrize('is_lost', [False, True], ids=['there', 'lost'])
  def test_from_the_disk_of_the_host(self, straight, tmp_path, is_lost):
    """Saved at 4 in the folder, and at 2 and 6 on the host's own disk."""
    folder, own = tmp_path / 'run', tmp_path / 'own'
    settings = dataclasses.replace(
      SETTINGS, log_every=1, local_every=2, local_folder=str(own)
    )
    heard = []

    class Listener(ProgressReporter):
      def say(self, text):
        heard.append(text)

    def crash():
      raise KeyboardInterrupt

    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
      train(folder, settings=settings, reporter=Interruption(7, crash))
    kept = [int(p.parent.name) for p in own.glob('*/process_0/*/index.json')]
    assert sorted(kept) == [2, 6]
    if is_lost:
      shutil.rmtree(own)
    resumed = train(folder, settings=settings, reporter=Listener())
    source = '4.' if is_lost else "6, from the hosts' own disks."
    assert f'continuing at step {source}' in heard
    expected, outcome = straight
    assert lines(folder) == lines(expected)
    jax.tree.map(
      np.testing.assert_array_equal, resumed.trainable, outcome.trainable
    )
    assert not list(own.glob('*/process_0'))  # nothing is left of a whole run

  def test_after_kill_9(self, straight, tmp_path):
    script = (
      'import importlib.util, os, signal, sys\n'
      "os.environ['JAX_PLATFORMS'] = 'cpu'\n"
      'import jax\n'
      "jax.config.update('jax_num_cpu_devices', 8)\n"
      f"spec = importlib.util.spec_from_file_location('t', {__file__!r})\n"
      't = importlib.util.module_from_spec(spec)\n'
      'spec.loader.exec_module(t)\n'
      'kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n'
      't.train(sys.argv[1], reporter=t.Interruption(6, kill))\n'
    )
    killed = subprocess.run(
      [sys.executable, '-c', script, str(tmp_path)],
      capture_output=True,
      text=True,
      timeout=600,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # Which step was saved last depends on how fast the disk was.
    assert lines(tmp_path) != lines(straight[0])
    # A line may be cut short by such an end.
    with (tmp_path / metrics.FILE).open('a') as file:
      file.write('{"step": 7, "kind": "tra')
    assert_same_run(tmp_path, straight)

  @pytest.mark.parametrize('number', (signal.SIGTERM, signal.SIGINT))
  def test_after_a_polite_request(self, straight, tmp_path, number):
    handlers = signal.getsignal(number)
    request = Interruption(6, lambda: os.kill(os.getpid(), number))
    outcome = train(tmp_path, reporter=request)
    assert outcome.ending is Ending.INTERRUPTED
    assert outcome.step == 6
    assert (tmp_path / 'checkpoints' / '6').is_dir()
    assert signal.getsignal(number) is handlers
    assert_same_run(tmp_path, straight)

  def test_a_broken_checkpoint_is_passed_over(self, straight, tmp_path):
    heard = []

    class Listener(ProgressReporter):
      def say(self, text):
        heard.append(text)

    outcome = train(tmp_path, settings=LoopConfig(steps=8, save_every=4))
    assert outcome.step == 8
    newest = tmp_path / 'checkpoints' / '8' / 'state'
    for file in newest.rglob('*'):
      if file.is_file():
        file.write_bytes(b'')
    expected, _ = straight
    train(tmp_path, reporter=Listener())
    assert any('step 8' in text and 'broken' in text for text in heard)
    assert 'continuing at step 4.' in heard
    assert lines(tmp_path, metrics.TRAIN) == lines(expected, metrics.TRAIN)

  def test_other_data_is_refused(self, tmp_path):
    train(tmp_path, settings=LoopConfig(steps=2))
    other = PackedBatches(
      InMemoryDocuments([np.arange(3, 20)], passes=Passes.ENDLESS),
      sequence_length=8,
      batch_size=2,
    )
    with pytest.raises(EejaxError, match='fingerprint'):
      loop.train(
        make_task(layer_dropout=0.3),
        folder=tmp_path,
        settings=SETTINGS,
        batches=other,
      )


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
  task = make_task(rate=float('inf'))
  with pytest.raises(EejaxError, match='not a finite number at step [12];.*'):
    train(tmp_path, task)
  assert not list((tmp_path / 'checkpoints').glob('[0-9]*'))


def test_numbers_may_be_lost_after_a_checkpoint(tmp_path):
  rates = lambda step: jnp.where(step < 5, 1e-3, jnp.inf)
  task = make_task(rate=rates)
  with pytest.raises(EejaxError, match='the checkpoint at step 4 is kept'):
    train(tmp_path, task)


@pytest.mark.parametrize('regime', list(Regime))
def test_every_regime_learns(tmp_path, regime):
  objective = Objective(regime=regime)
  settings = LoopConfig(steps=30, eval_every=0, save_every=0)
  outcome = train(tmp_path, make_task(objective), settings)
  first, last = lines(tmp_path, metrics.HELD_OUT)
  names = [e.name for e in tiny.tiny_config().exits]
  trained = {
    Regime.STANDARD: ['final'],
    Regime.JOINT: ['final', *names],
    Regime.TUNE: names,
  }[regime]
  for name in trained:
    assert last[f'{name}/loss'] < first[f'{name}/loss'], name
  if regime is Regime.TUNE:
    assert last['final/loss'] == first['final/loss']
  assert outcome.step == 30


def test_tuning_without_the_final_head_measures_exits_alone(tmp_path):
  objective = Objective(regime=Regime.TUNE, gate_weight=0.0)
  train(tmp_path, make_task(objective), LoopConfig(steps=2))
  record = lines(tmp_path, metrics.HELD_OUT)[-1]
  assert 'exit_3/loss' in record
  assert 'final/loss' not in record and 'exit_3/agreement' not in record


def begin_run(folder, identity):
  """Leave what a run leaves that has taken a step."""
  with run_folder.claim(folder, identity=identity):
    (folder / metrics.FILE).touch()


class TestRunFolder:
  def test_the_same_configuration_may_come_back(self, tmp_path):
    for _ in range(2):
      with run_folder.claim(tmp_path / 'run', identity={'a': (1, 2)}) as held:
        assert held == tmp_path / 'run'

  def test_another_configuration_is_refused_by_name(self, tmp_path):
    before = {'a': 1, 'b.c': 'x', 'b.d': [1, 2], 'e': 5}
    after = {'a': 1, 'b.c': 'y', 'b.d': [1, 3], 'e': 5}
    begin_run(tmp_path, before)
    with pytest.raises(ArgumentError) as caught:
      with run_folder.claim(tmp_path, identity=after):
        pass
    words = str(caught.value)
    assert "b.c was 'x' and is now 'y'" in words
    assert 'b.d was [1, 2] and is now [1, 3]' in words
    assert 'e was' not in words

  def test_what_ended_before_its_first_step_binds_nobody(self, tmp_path):
    with pytest.raises(ZeroDivisionError):
      with run_folder.claim(tmp_path, identity={'a': 1}):
        raise ZeroDivisionError
    begin_run(tmp_path, {'a': 2})
    with pytest.raises(ArgumentError, match='a was 2 and is now 1'):
      with run_folder.claim(tmp_path, identity={'a': 1}):
        pass

  def test_long_lists_of_differences_are_cut(self, tmp_path):
    begin_run(tmp_path, {str(i): 0 for i in range(9)})
    with pytest.raises(ArgumentError, match='and 4 more'):
      with run_folder.claim(tmp_path, identity={str(i): 1 for i in range(9)}):
        pass

  def test_a_setting_that_was_taken_away_is_named(self, tmp_path):
    begin_run(tmp_path, {'a': 1})
    with pytest.raises(ArgumentError, match='a was 1 and is now not there'):
      with run_folder.claim(tmp_path, identity={}):
        pass

  def test_a_setting_of_a_later_version_is_no_difference(self, tmp_path):
    with run_folder.claim(tmp_path, identity={'a': 1}):
      pass
    with run_folder.claim(tmp_path, identity={'a': 1, 'new': 2}) as held:
      assert held == tmp_path

  def test_a_run_of_another_version_says_what_to_do(self, tmp_path):
    (tmp_path / 'config.json').write_text('{"STEPS": 3}')
    with pytest.raises(ArgumentError, match='another version.*remove .*json'):
      with run_folder.claim(tmp_path, identity={'steps': 3}):
        pass
    (tmp_path / 'config.json').unlink()
    with run_folder.claim(tmp_path, identity={'steps': 3}):
      pass

  def test_two_processes_do_not_share_a_folder(self, tmp_path):
    with run_folder.claim(tmp_path, identity={}):
      with pytest.raises(EejaxError, match='another process is training'):
        with run_folder.claim(tmp_path, identity={}):
          pass
    with run_folder.claim(tmp_path, identity={}):
      pass

  def test_a_file_is_no_folder(self, tmp_path):
    file = tmp_path / 'run'
    file.touch()
    with pytest.raises(ArgumentError, match='is a file'):
      with run_folder.claim(file, identity={}):
        pass


@pytest.mark.parametrize(
  'fields',
  [
    {'steps': 0},
    {'steps': 1, 'log_every': 0},
    {'steps': 1, 'eval_every': -1},
    {'steps': 1, 'save_every': -1},
    {'steps': 1, 'keep': 0},
  ],
)
def test_bad_loops(fields):
  name = list(fields)[-1]
  with pytest.raises(ArgumentError, match=f'{name} must be at least'):
    LoopConfig(**fields)
