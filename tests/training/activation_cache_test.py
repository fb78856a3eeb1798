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
"""Test that exits learn from a cache what they learn from the backbone."""

import jax
import numpy as np
import pytest

from eejax.data.batch import PackedBatches
from eejax.data.memory_source import InMemoryDocuments, Passes
from eejax.errors import CheckpointError, EejaxError
from eejax.parallel.mesh import make_mesh, parse_mesh
from eejax.testing import tiny
from eejax.training import activation_cache, freeze, step
from eejax.training.activation_cache import CachedBatches, Depths
from eejax.training.device_placement import DevicePlacement
from eejax.training.freeze import Regime
from eejax.training.objective import Forward, Objective
from eejax.training.step import StepConfig

IDENTITY = {'backbone': 'abc', 'data': 'x'}
COUNT = 3


def make_batches():
  random = np.random.default_rng(0)
  documents = [random.integers(3, 29, size=20) for _ in range(9)]
  source = InMemoryDocuments(documents, passes=Passes.ONCE)
  return PackedBatches(source, sequence_length=8, batch_size=2)


@pytest.fixture(scope='module')
def config():
  return tiny.tiny_config(tiny.EVERY_KIND_OF_EXIT)


@pytest.fixture(scope='module')
def params(config):
  return tiny.tiny_params(config)


@pytest.fixture(scope='module')
def folder(config, params, tmp_path_factory):
  path = tmp_path_factory.mktemp('cache')
  record(path, config, params)
  return path


def record(path, config, params, **options):
  return activation_cache.record(
    path,
    make_batches(),
    config=config,
    backbone=params['backbone'],
    **{'count': COUNT, 'identity': IDENTITY, 'full_depth': True, **options},
  )


def opened(folder, config, full_depth=True):
  depths = Depths.read_by(config, full_depth=full_depth)
  return CachedBatches(folder, depths=depths, identity=IDENTITY)


def without_blocks(params):
  blocks = {'mlp_norm': params['backbone']['blocks']['mlp_norm']}
  return {**params, 'backbone': {**params['backbone'], 'blocks': blocks}}


ONE_DEVICE = DevicePlacement()


def gradients(params, batch, config, objective, placement=ONE_DEVICE):
  trainable, frozen = freeze.split(params, regime=Regime.TUNE)
  with placement.active():
    found, sums = jax.jit(
      step.gradients, static_argnames=('config', 'objective', 'settings')
    )(
      placement.place(trainable),
      placement.place(frozen),
      placement.batch(batch),
      step=0,
      config=config,
      objective=objective,
      settings=StepConfig(microbatches=2),
    )
  # Nothing is kept where nothing is trained.
  assert not jax.tree.leaves(found['backbone'])
  return found['exits'], sums


def assert_close(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


OBJECTIVE = Objective(regime=Regime.TUNE, distillation_weight=0.4)


class TestLearning:
  @pytest.mark.parametrize('words', [None, 'data=2,model=4'])
  def test_gradients_need_no_block(self, config, params, folder, words):
    mesh = None if words is None else make_mesh(parse_mesh(words))
    placement = DevicePlacement(mesh)
    plain, cached = make_batches(), opened(folder, config)
    for _ in range(COUNT if words is None else 1):
      expected = gradients(params, next(plain), config, OBJECTIVE)
      found = gradients(
        without_blocks(params), next(cached), config, OBJECTIVE, placement
      )
      assert_close(found, expected)

  def test_variants_of_exits_share_a_cache(self, params, folder):
    config = tiny.tiny_config('1:block,3:norm:gate')
    variant = tiny.tiny_params(config)
    variant = {**variant, 'backbone': params['backbone']}
    batch, plain = next(opened(folder, config)), next(make_batches())
    assert batch.streams.shape[1] == 3 and batch.residuals is None
    found = gradients(without_blocks(variant), batch, config, OBJECTIVE)
    expected = gradients(variant, plain, config, OBJECTIVE)
    assert_close(found, expected)


class TestTheFile:
  def test_it_is_read_over_and_over(self, config, folder):
    batches = opened(folder, config)
    first = [next(batches).tokens for _ in range(COUNT)]
    np.testing.assert_array_equal(next(batches).tokens, first[0])

  def test_reading_goes_on_where_it_stopped(self, config, folder):
    batches, again = opened(folder, config), opened(folder, config)
    next(batches)
    again.restore(batches.state())
    np.testing.assert_array_equal(next(again).streams, next(batches).streams)

  def test_a_run_without_a_cache_does_not_go_on_with_one(self, config, folder):
    with pytest.raises(EejaxError, match='began without cached'):
      opened(folder, config).restore(make_batches().state())

  def test_bfloat16_keeps_its_bits(self, config, params, tmp_path):
    held = record(
      tmp_path, config, params, count=1, forward=Forward(dtype='bfloat16')
    )
    assert next(held).streams.dtype.name == 'bfloat16'
    exact = next(opened_like(config, params, tmp_path / 'exact'))
    np.testing.assert_allclose(
      next(held).streams.astype(np.float32), exact.streams, atol=0.05
    )


def opened_like(config, params, path):
  return record(path, config, params, count=1)


class TestWhatDoesNotFit:
  def test_another_backbone(self, config, folder):
    depths = Depths.read_by(config, full_depth=True)
    with pytest.raises(CheckpointError, match='of another backbone'):
      CachedBatches(
        folder, depths=depths, identity={**IDENTITY, 'backbone': 'b'}
      )

  def test_other_depths(self, folder):
    config = tiny.tiny_config('1:mlp')
    with pytest.raises(CheckpointError, match='record them anew'):
      opened(folder, config, full_depth=False)

  def test_a_cache_that_was_cut_short(self, config, params, tmp_path):
    record(tmp_path, config, params, count=1)
    with pytest.raises(EejaxError, match='were to be cached'):
      record(tmp_path, config, params, count=1000)
    assert not activation_cache.is_whole(tmp_path)
    with pytest.raises(CheckpointError, match='no activations'):
      opened(tmp_path, config)
