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
"""Test the steps of a run: read back, and compared on planted models."""

import shutil

import jax
import numpy as np
import optax
import pytest

from eejax.analysis import dynamics as dynamics_lib
from eejax.analysis.dynamics import dynamics
from eejax.analysis.suitability.score import ScoreSettings, Similarity
from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import run_steps
from eejax.checkpoint.manager import RunCheckpoints
from eejax.checkpoint.model import Model
from eejax.data.batch import Batch
from eejax.errors import ArgumentError, CheckpointError
from eejax.testing import tiny
from eejax.testing.planted import PlantedPlan, planted_params, token_batch
from eejax.training import state

LAYERS = 3


@pytest.fixture(scope='module')
def batches():
  random = np.random.default_rng(0)
  return [token_batch(*random.integers(0, 7, (2, 6, 8)))]


def plan(depths):
  return PlantedPlan.settling(depths, num_layers=LAYERS)


class TestPlantedSteps:
  """A run whose tokens settle at depth 1 first and at depth 3 at its end."""

  @pytest.fixture(scope='class')
  def found(self, batches):
    early, late = plan([1] * 7), plan([3] * 7)
    steps = [(10, planted_params(early)), (20, planted_params(late))]
    return dynamics(
      steps,
      batches,
      config=early.config,
      settings=ScoreSettings(Similarity.TOP1),
    )

  def test_the_heat_map_is_the_plan(self, found):
    assert np.array(found.heat_map()) == pytest.approx(
      np.array([[0, 1, 1, 1], [0, 0, 0, 1]])
    )
    assert [s.step for s in found.steps] == [10, 20]
    assert found.depths == (0, 1, 2, 3)

  def test_scores_and_ceilings_follow(self, found):
    early, late = found.steps
    assert late.score.eas.value == 0
    assert early.score.normalised.value == pytest.approx(1)
    assert early.headroom.stable.value == pytest.approx(2 / 3)
    assert late.headroom.stable.value == 0
    assert early.loss > 0

  def test_the_change_is_paired(self, found):
    # Every token changes alike, so there is no doubt left.
    change = found.saved_change
    assert change.value == pytest.approx(-2 / 3)
    assert (change.low, change.high) == pytest.approx((-2 / 3, -2 / 3))


def test_one_step_has_no_change(batches):
  one = plan([0, 1, 2, 3, 1, 2, 3])
  found = dynamics([(5, planted_params(one))], batches, config=one.config)
  assert found.saved_change is None
  with pytest.raises(ArgumentError, match='no step'):
    dynamics([], batches, config=one.config)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run folder with two steps, as training leaves it."""
  folder = tmp_path_factory.mktemp('run')
  config = tiny.tiny_config('')
  optimizer = optax.adam(1e-3)
  with RunCheckpoints(folder / 'checkpoints') as checkpoints:
    for step in (2, 10):
      params = tiny.tiny_params(config, seed=step)
      checkpoints.save(
        step, state.create(params, optimizer=optimizer), {'data': {}}
      )
  checkpoint_folder.save(
    folder / 'model', Model(config, tiny.tiny_params(config, seed=10))
  )
  return folder


class TestRunFolder:
  def test_steps_are_those_that_were_saved(self, run):
    assert run_steps.list_steps(run) == (2, 10)
    config = tiny.tiny_config('')
    for step, params in run_steps.read_steps(run):
      wanted = tiny.tiny_params(config, seed=step)['backbone']
      same = jax.tree.map(
        lambda a, b: bool(np.array_equal(a, b)), params['backbone'], wanted
      )
      assert all(jax.tree.leaves(same))

  def test_a_run_is_opened_and_read(self, run):
    model, steps = dynamics_lib.open_run(run)
    tokens = np.array(tiny.tiny_tokens(model.config, length=8))
    batch = Batch.padding(2, sequence_length=7)
    batch.tokens[:], batch.targets[:] = tokens[:, :-1], tokens[:, 1:]
    batch.weights[:] = 1
    batch.segment_ids[:] = 1
    batch.positions[:] = np.arange(7)
    found = dynamics(steps, [batch], config=model.config)
    assert [s.step for s in found.steps] == [2, 10]
    assert found.steps[0].score.eas != found.steps[1].score.eas

  def test_a_damaged_step_is_named(self, run, tmp_path):
    copy = tmp_path / 'run'
    shutil.copytree(run, copy)
    for file in (copy / 'checkpoints' / '10' / 'state').rglob('*'):
      if file.is_file():
        file.write_bytes(file.read_bytes()[:3])
    with pytest.raises(CheckpointError, match='step 10 of'):
      list(run_steps.read_steps(copy))

  def test_a_run_without_steps_or_model_is_refused(self, run, tmp_path):
    with pytest.raises(ArgumentError, match='keeps no checkpoint'):
      run_steps.list_steps(tmp_path)
    shutil.copytree(run / 'checkpoints', tmp_path / 'checkpoints')
    with pytest.raises(ArgumentError, match='not ended'):
      dynamics_lib.open_run(tmp_path)

  def test_a_run_that_tuned_exits_is_refused(self, run, monkeypatch):
    monkeypatch.setattr(
      run_steps, 'read_steps', lambda run: iter([(1, {'exits': {}})])
    )
    _, steps = dynamics_lib.open_run(run)
    with pytest.raises(ArgumentError, match='trained exits alone'):
      next(steps)
