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
"""Runs in a bucket: the same as here, whatever happens to them."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import eejax
from eejax import storage, store_folder
from eejax.checkpoint import folder as checkpoint_folder
from eejax.errors import CheckpointError, StoreError
from eejax.training.loop_config import LoopConfig

pytestmark = [
  pytest.mark.store,
  # TensorStore's threads report what was abandoned to a loop that is gone.
  pytest.mark.filterwarnings(
    'ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning'
  ),
]

SHORT = {
  'batch_size': 2,
  'sequence_length': 16,
  'held_out_batches': 1,
  'loop': LoopConfig(steps=6, save_every=2, log_every=1, eval_every=3),
}


@pytest.fixture(scope='module')
def model(untrained, store):
  place = f'{store.address}/model'
  checkpoint_folder.save(place, untrained)
  return place


@pytest.fixture(scope='module')
def local(untrained, training_text, tmp_path_factory):
  place = tmp_path_factory.mktemp('runs') / 'run'
  return eejax.tune(untrained, training_text, folder=place, **SHORT)


def trained(run):
  """Return all numbers of a run: its model's, and those of its metrics."""
  text = (storage.as_path(run.folder) / 'metrics.jsonl').read_text()
  records = [json.loads(line) for line in text.splitlines()]
  return run.model.params['exits'], [
    r for r in records if r['kind'] != 'timing'
  ]


def assert_nothing_is_lost(run, local):
  exits, records = trained(run)
  expected, expected_records = trained(local)
  jax.tree.map(np.testing.assert_array_equal, exits, expected)
  assert records == expected_records


def test_a_model_is_read_as_it_was_written(model, untrained):
  held = eejax.load(model)
  jax.tree.map(np.testing.assert_array_equal, held.params, untrained.params)
  assert held.tokenizer.fingerprint == untrained.tokenizer.fingerprint
  file = next(
    name
    for name in store_folder.list_files(storage.as_path(model))
    if name.startswith('exits/exit_3/mlp.up.kernel/0')
  )
  copy = storage.as_path(f'{model}-cut')
  store_folder.copy(storage.as_path(model), copy)
  (copy / file).write_bytes(b'0')
  with pytest.raises(CheckpointError, match='has 1 bytes'):
    eejax.load(copy)


def test_a_run_in_a_store_that_fails_now_and_then(
  model, local, training_text, bucket, store
):
  with store.failing(every=97):
    run = eejax.tune(model, training_text, folder=bucket, **SHORT)
  assert_nothing_is_lost(run, local)
  files = store_folder.list_files(storage.as_path(bucket))
  assert any(name.startswith('tensorboard/events') for name in files)
  assert {n.split('/')[1] for n in files if n.startswith('checkpoints/')} == {
    '4',
    '6',
  }


def test_a_store_that_refuses_a_checkpoint(
  model, local, training_text, bucket, store
):
  def fourth(method, path):
    return method in ('POST', 'PUT') and '/checkpoints/4/' in path

  with store.refusing(fourth):
    with pytest.raises(
      CheckpointError, match='the one of step 2 stays.*refuses'
    ):
      eejax.tune(model, training_text, folder=bucket, **SHORT)
  run = eejax.tune(model, training_text, folder=bucket, **SHORT)
  assert_nothing_is_lost(run, local)


def test_a_store_that_refuses_metrics(model, training_text, bucket, store):
  sent = []

  def third(method, path):
    if method != 'POST' or 'metrics.jsonl' not in path:
      return False
    sent.append(path)  # at the start, and before each checkpoint
    return len(sent) > 2

  with store.refusing(third):
    with pytest.raises(StoreError, match=r'metrics.jsonl .* of step 2 stays'):
      eejax.tune(model, training_text, folder=bucket, **SHORT)


KILLED = """
import sys
import eejax
from eejax.training.loop_config import LoopConfig
model, text, folder = sys.argv[1:]
eejax.tune(
  model,
  eejax.read_text(text, unit='paragraph'),
  folder=folder,
  batch_size=2,
  sequence_length=16,
  held_out_batches=1,
  loop=LoopConfig(steps=6, save_every=2, log_every=1, eval_every=3),
)
"""


def test_a_run_that_is_killed_while_it_saves(
  model, local, training_text, bucket, store
):
  command = [sys.executable, '-c', KILLED, model, training_text.source, bucket]
  process = subprocess.Popen(command, env={**os.environ, 'PYTHONPATH': '.'})

  def kill(method, path):
    if method in ('POST', 'PUT') and '/checkpoints/4/' in path:
      process.send_signal(signal.SIGKILL)
    return False

  with store.refusing(kill):
    assert process.wait(timeout=120) == -signal.SIGKILL
  run = eejax.tune(model, training_text, folder=bucket, **SHORT)
  assert_nothing_is_lost(run, local)
