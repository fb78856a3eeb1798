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
"""Test runs on a mesh and on several processes, from the command line."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from eejax.checkpoint import folder as checkpoint_folder
from eejax.cli import main
from eejax.training import metrics

STEPS = 16
SAVE_EVERY = 5
# Sockets, files and jax's runtime; a hang must not take the suite with it.
PATIENCE = 240
LOST = (
  'was lost, so all hosts stop; start all of them again, and the run goes on '
  'from its last checkpoint.'
)
MODEL = [
  '--gin.ModelConfig.vocab_size=320',
  '--gin.ModelConfig.num_layers=2',
  '--gin.ModelConfig.embed_dim=16',
  '--gin.ModelConfig.num_heads=2',
  '--gin.ModelConfig.num_kv_heads=2',
  '--gin.ModelConfig.head_dim=8',
  '--gin.ModelConfig.mlp_dim=24',
  '--gin.ModelConfig.max_length=32',
  '--exits',
  '1:norm',
  '--gin.CURRICULUM=%Curriculum.ALL',
]
RUN = [
  '--steps',
  str(STEPS),
  '--batch-size',
  '8',
  '--sequence-length',
  '8',
  '--gin.DataConfig.unit=%TextUnit.PARAGRAPH',
  # Whoever reads them, rows are the same.
  '--gin.DataConfig.num_shards=4',
  '--gin.LoopConfig.log_every=1',
  '--gin.LoopConfig.eval_every=0',
  f'--gin.LoopConfig.save_every={SAVE_EVERY}',
]
PIPELINE = [
  '--gin.StepConfig.pipeline=@PipelineConfig()',
  '--gin.MICROBATCHES=2',
]


@pytest.fixture(scope='module')
def text(tmp_path_factory):
  file = tmp_path_factory.mktemp('data') / 'text.txt'
  words = 'the cat sat on the mat and the dog sat on the log'
  file.write_text(''.join(f'{i} {words[i % 9 :]}\n\n' for i in range(300)))
  return file


def pretrain(run, text, *more):
  return ['pretrain', *MODEL, *RUN, *common('pretrain', run, text), *more]


def common(verb, run, text):
  return [
    f'--gin.{verb}.held_out_batches=1',
    '--data',
    str(text),
    '--run',
    str(run),
    '--json',
  ]


def losses(run, name='loss'):
  """Return the loss of every step, by its number."""
  records = metrics.read_records(run)
  return {r['step']: r[name] for r in records if r['kind'] == metrics.TRAIN}


def held_out(run, name):
  """Return a held-out mean before and after the run."""
  records = metrics.read_records(run)
  found = [r[name] for r in records if r['kind'] == metrics.HELD_OUT]
  return found[0], found[-1]


@pytest.fixture(scope='module')
def whole(text, tmp_path_factory):
  """Return a run of one process on a mesh of 8 devices."""
  run = tmp_path_factory.mktemp('whole')
  assert main.main(pretrain(run, text, '--mesh', 'data=4,model=2')) == 0
  return run


class Hosts:
  """Run one command as several processes that find one another."""

  def __init__(self, arguments, folder, count, devices, *, own=None, wait=100):
    with socket.create_server(('', 0)) as first:
      port = min(first.getsockname()[1], 65000)
    self.logs = [folder / f'host-{rank}.log' for rank in range(count)]
    self.results = [folder / f'host-{rank}.json' for rank in range(count)]
    self.processes = []
    for rank, log in enumerate(self.logs):
      environ = {
        **os.environ,
        'EEJAX_COORDINATOR': f'localhost:{port}',
        'EEJAX_NUM_PROCESSES': str(count),
        'EEJAX_PROCESS_ID': str(rank),
        'EEJAX_JOIN_TIMEOUT': str(wait),
        'JAX_NUM_CPU_DEVICES': str(devices),
        'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      }
      command = [sys.executable, '-m', 'eejax', *arguments]
      command += (own or {}).get(rank, [])
      if command[-1] == 'ABSENT':
        continue
      with log.open('w') as said, self.results[rank].open('w') as result:
        self.processes.append(
          subprocess.Popen(command, env=environ, stdout=result, stderr=said)
        )

  def wait(self):
    """Return the exit codes, and what each has said."""
    try:
      codes = [p.wait(timeout=PATIENCE) for p in self.processes]
    finally:
      for process in self.processes:
        process.kill()
    return codes, [log.read_text() for log in self.logs if log.exists()]

  def until_step(self, run, step):
    """Wait until a step is recorded."""
    deadline = time.monotonic() + PATIENCE
    while not any(number >= step for number in losses(run)):
      time.sleep(0.01)
      assert time.monotonic() < deadline
      assert all(p.poll() is None for p in self.processes), self.wait()[1]


def steps_of(run):
  folders = pathlib.Path(run, 'checkpoints').glob('[0-9]*')
  return sorted(int(f.name) for f in folders if f.name.isdigit())


class TestOneProcess:
  def test_the_result_is_a_whole_checkpoint(self, whole):
    loaded = checkpoint_folder.load(whole / 'model')
    assert loaded.config.exit_depths == (1,)
    assert sorted(losses(whole)) == list(range(1, STEPS + 1))
    first, last = held_out(whole, 'final/loss')
    assert last < first

  @pytest.mark.slow
  def test_gin_alone_sets_stage_model_and_data(self, whole, text, tmp_path):
    mesh = [
      '--gin.MESH=@MeshConfig()',
      '--gin.MeshConfig.data=2',
      '--gin.MeshConfig.stage=2',
      '--gin.MeshConfig.model=2',
      '--gin.MeshConfig.simulated_devices=8',
    ]
    command = pretrain(tmp_path / 'run', text, *mesh, *PIPELINE)
    assert main.main(command) == 0
    assert losses(tmp_path / 'run') == pytest.approx(losses(whole), rel=1e-4)

  def test_tune_keeps_a_backbone_in_int8(self, whole, text, tmp_path):
    command = [
      'tune',
      '--checkpoint',
      str(whole / 'model'),
      '--gin.tune.backbone=%FrozenBackbone.INT8',
      '--mesh',
      'fsdp=4,model=2',
      *RUN,
      *common('tune', tmp_path / 'run', text),
    ]
    assert main.main(command) == 0
    first, last = held_out(tmp_path / 'run', 'exit_1/loss')
    assert last < first
    before = checkpoint_folder.load(whole / 'model')
    after = checkpoint_folder.load(tmp_path / 'run' / 'model')
    jax.tree.map(
      np.testing.assert_array_equal,
      before.params['backbone'],
      after.params['backbone'],
    )

  @pytest.mark.parametrize(
    ('more', 'words'),
    [
      (['--mesh', 'model=3'], 'needs a multiple of 3 devices and there are 8'),
      (['--mesh', 'data=8', '--batch-size', '12'], 'make it a multiple of 8'),
      (['--mesh', 'stage=4'], '4 stages cannot share 2 blocks'),
      (['--mesh', 'stage=2'], 'no pipeline is set'),
      (['--mesh', 'nowhere'], 'there is no mesh'),
    ],
  )
  def test_a_mesh_that_does_not_fit(self, text, tmp_path, capsys, more, words):
    assert main.main(pretrain(tmp_path / 'run', text, *more)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said
    assert not (tmp_path / 'run').exists()

  def test_too_little_memory_is_said_before(
    self, text, tmp_path, capsys, monkeypatch
  ):
    monkeypatch.setattr(
      'eejax.parallel.memory.available_bytes', lambda mesh: 1000
    )
    run = tmp_path / 'run'
    assert main.main(pretrain(run, text, '--mesh', 'fsdp=8')) == 1
    assert 'the model with its optimizer takes' in capsys.readouterr().err
    assert not (run / 'checkpoints').exists()


class TestSeveralProcesses:
  def test_a_lost_host_ends_all_and_they_go_on(self, whole, text, tmp_path):
    run = tmp_path / 'run'
    own = [
      '--gin.LoopConfig.local_every=1',
      f"--gin.LoopConfig.local_folder='{tmp_path / 'own'}'",
    ]
    command = pretrain(run, text, '--mesh', 'data=2,model=2', *own)
    hosts = Hosts(command, tmp_path, count=2, devices=2)
    hosts.until_step(run, SAVE_EVERY + 2)
    hosts.processes[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    codes, said = hosts.wait()
    assert time.monotonic() - start < 30
    assert codes == [1, -signal.SIGKILL]
    # From the verb, or from the thread that ends a process which hangs.
    last = said[0].strip().splitlines()[-1].removeprefix('eejax pretrain: ')
    assert last.removeprefix('eejax: ') == f'host 1 {LOST}'
    assert said[0].count(LOST) == 1
    assert not (run / 'model').exists()
    hosts = Hosts(command, tmp_path, count=2, devices=2)
    codes, said = hosts.wait()
    assert codes == [0, 0], said
    # Not from the run's folder: each has steps of its own.
    began = re.search(r"step (\d+), from the hosts' own disks", said[0])
    assert began is not None and int(began[1]) > SAVE_EVERY
    assert json.loads(hosts.results[0].read_text())['steps'] == STEPS
    assert sorted(losses(run)) == list(range(1, STEPS + 1))
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)
    found = checkpoint_folder.load(run / 'model').params
    expected = checkpoint_folder.load(whole / 'model').params
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4),
      found,
      expected,
    )

  @pytest.mark.slow
  def test_four_hosts_with_stages_stop_together(self, whole, text, tmp_path):
    run = tmp_path / 'run'
    command = pretrain(run, text, '--mesh', 'stage=2,model=2', *PIPELINE)
    hosts = Hosts(command, tmp_path, count=4, devices=2)
    hosts.until_step(run, 2)
    hosts.processes[2].send_signal(signal.SIGTERM)
    codes, said = hosts.wait()
    assert codes == [1, 1, 1, 1]
    stopped = steps_of(run)
    assert stopped[-1] < STEPS
    for log in said:
      last = log.strip().splitlines()[-1]
      assert f'stopped at step {stopped[-1]} of {STEPS} as asked' in last
    # Other hosts and other devices go on.
    codes, said = Hosts(command, tmp_path, count=2, devices=4).wait()
    assert codes == [0, 0], said
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)

  @pytest.mark.slow
  def test_hosts_decode_together(self, whole, tmp_path, capsys):
    command = ['generate', str(whole / 'model'), '--prompt', 'the cat']
    command += ['--threshold', '0.05', '--max-new-tokens', '5', '--json']
    assert main.main(command) == 0
    alone = json.loads(capsys.readouterr().out)
    mesh = ['--mesh', 'data=2,model=2']
    hosts = Hosts([*command, *mesh], tmp_path, count=2, devices=2)
    codes, said = hosts.wait()
    assert codes == [0, 0], said
    for path in hosts.results:
      (row,) = json.loads(path.read_text())['results']
      assert row['tokens'] == alone['results'][0]['tokens']

  def test_a_host_that_never_joins_is_named(self, text, tmp_path):
    command = pretrain(tmp_path / 'run', text)
    own = {1: ['ABSENT']}
    codes, said = Hosts(
      command, tmp_path, count=2, devices=1, own=own, wait=1
    ).wait()
    assert codes == [1]
    assert said[0].strip().splitlines()[-1] == (
      'eejax pretrain: host 1 never joined within 1 s; see why not, or give '
      'them more time with EEJAX_JOIN_TIMEOUT.'
    )
    assert not (tmp_path / 'run').exists()

  def test_hosts_with_other_settings_are_refused(self, text, tmp_path):
    command = pretrain(tmp_path / 'run', text)
    own = {1: ['--learning-rate', '0.5']}
    codes, said = Hosts(command, tmp_path, count=2, devices=1, own=own).wait()
    assert codes == [1, 1]
    for log in said:
      last = log.strip().splitlines()[-1]
      assert 'host 1 was started with another configuration' in last
      assert 'learning_rate.peak is 0.5 there' in last
    assert not (tmp_path / 'run').exists()
