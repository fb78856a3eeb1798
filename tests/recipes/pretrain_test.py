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
"""Test training from Python with parts of the decoder frozen."""

import shutil

import jax
import numpy as np
import pytest

import eejax
from eejax.checkpoint import folder as checkpoint_folder
from eejax.training.loop_config import LoopConfig

SETTINGS = {'batch_size': 2, 'sequence_length': 16, 'warmup_steps': 1}
# All blocks but the last, and one matrix of that.
FROZEN = (
  'backbone/embedding/.*',
  'backbone/blocks/[012]/.*',
  'backbone/blocks/3/mlp/down/kernel',
)


@pytest.fixture(scope='module')
def start(untrained, tmp_path_factory):
  folder = tmp_path_factory.mktemp('start') / 'model'
  checkpoint_folder.save(folder, untrained)
  return folder


def pretrain(start, text, folder, **more):
  return eejax.pretrain(
    start,
    text,
    folder=folder,
    frozen=FROZEN,
    loop=LoopConfig(steps=4, save_every=2),
    **{**SETTINGS, **more},
  )


def check_frozen(before, after):
  """Assert that what is frozen kept every bit, and that the rest moved."""
  before, after = before.params, after.params
  table = lambda params: params['backbone']['embedding']['table']
  assert np.array_equal(table(before), table(after))
  blocks = zip(
    jax.tree_util.tree_leaves_with_path(before['backbone']['blocks']),
    jax.tree.leaves(after['backbone']['blocks']),
    strict=True,
  )
  for (path, old), new in blocks:
    np.testing.assert_array_equal(old[:3], new[:3])
    is_down = "'down'" in jax.tree_util.keystr(path)
    assert np.array_equal(old[3], new[3]) == is_down, path
  for old, new in zip(
    jax.tree.leaves(before['exits']),
    jax.tree.leaves(after['exits']),
    strict=True,
  ):
    assert not np.array_equal(old, new)


def test_frozen_parts_stay_when_a_run_is_cut_and_resumed(
  untrained, start, training_text, tmp_path
):
  whole = pretrain(start, training_text, tmp_path / 'whole')
  check_frozen(untrained, whole.model)
  # As if it had been killed after two steps.
  cut = tmp_path / 'cut'
  pretrain(start, training_text, cut)
  shutil.rmtree(cut / 'checkpoints' / '4')
  shutil.rmtree(cut / 'model')
  resumed = pretrain(start, training_text, cut)
  jax.tree.map(
    np.testing.assert_array_equal, resumed.model.params, whole.model.params
  )


def test_frozen_parts_stay_on_a_mesh(untrained, start, training_text, tmp_path):
  run = pretrain(
    start, training_text, tmp_path / 'run', batch_size=4, mesh='fsdp=2,model=2'
  )
  check_frozen(untrained, run.model)


def test_a_pattern_that_matches_nothing(start, training_text, tmp_path):
  with pytest.raises(eejax.ArgumentError, match='matches no parameter'):
    eejax.pretrain(
      start,
      training_text,
      folder=tmp_path / 'run',
      frozen=['backbone/blocks/9/.*'],
      steps=1,
      **SETTINGS,
    )
  assert not (tmp_path / 'run').exists()
