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
"""Tests of a training run's checkpoints."""

import shutil

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from eejax import storage
from eejax.checkpoint.manager import RunCheckpoints
from eejax.checkpoint.retention import KeptSteps
from eejax.errors import ArgumentError, CheckpointError


@flax.struct.dataclass
class State:
  params: dict
  optimizer: optax.OptState
  step: jax.Array
  key: jax.Array


def state_at(step):
  params = {
    'kernel': jnp.full((8, 4), float(step)),
    'scale': jnp.full((3,), step + 1 / 3, jnp.bfloat16),
    'nothing': {},
  }
  return State(
    params=params,
    optimizer=optax.adamw(1e-3).init(params),
    step=jnp.int32(step),
    key=jax.random.key_data(jax.random.key(step)),
  )


def metadata_at(step):
  return {'data': {'document': step * 10, 'buffer': [1, 2]}}


def save(path, *steps, keep=3):
  with RunCheckpoints(path, keep=keep) as checkpoints:
    for step in steps:
      checkpoints.save(step, state_at(step), metadata_at(step))


def restore(path, state=None):
  said = []
  with RunCheckpoints(path, keep=3, warn=said.append) as checkpoints:
    return checkpoints.restore_latest(state or state_at(0)), said


def assert_is(restored, step):
  assert restored.step == step
  assert restored.metadata == metadata_at(step)
  expected = state_at(step)
  assert jax.tree.structure(restored.state) == jax.tree.structure(expected)

  def check(found, wanted):
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))

  jax.tree.map(check, restored.state, expected)


def test_there_is_nothing_yet(tmp_path):
  assert restore(tmp_path / 'run') == (None, [])


def test_the_newest_step_comes_back(tmp_path):
  save(tmp_path, 5, 10)
  restored, said = restore(tmp_path)
  assert_is(restored, 10)
  step, state, metadata = restored
  assert (step, int(state.step), metadata) == (10, 10, metadata_at(10))
  assert said == []


def test_only_so_many_are_kept(tmp_path):
  save(tmp_path, 1, 2, 3, 4, keep=2)
  with RunCheckpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.steps == (3, 4)


def test_a_state_may_be_overwritten_while_it_is_written(tmp_path):
  """Donate what was passed to `save` at once, as a training step does."""
  step = jax.jit(
    lambda s: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s),
    donate_argnums=0,
  )
  big = {'kernel': jnp.zeros((512, 512))}
  with RunCheckpoints(tmp_path, keep=2) as checkpoints:
    checkpoints.save(1, big, {})
    for _ in range(5):
      big = step(big)
    restored = checkpoints.restore_latest(big)
  assert not restored.state['kernel'].any()


def test_a_shape_is_enough_to_restore(tmp_path):
  save(tmp_path, 5)
  restored, _ = restore(tmp_path, jax.eval_shape(lambda: state_at(0)))
  assert_is(restored, 5)


def test_arrays_take_the_shardings_that_are_asked_for(tmp_path):
  devices = jax.devices()[:4]
  mesh = jax.sharding.Mesh(np.array(devices).reshape(2, 2), ('data', 'model'))
  rows = NamedSharding(mesh, PartitionSpec('data', None))
  columns = NamedSharding(mesh, PartitionSpec(None, 'model'))
  values = jnp.arange(32.0).reshape(8, 4)
  with RunCheckpoints(tmp_path, keep=1) as checkpoints:
    checkpoints.save(1, {'kernel': jax.device_put(values, rows)}, {})
    wanted = {
      'kernel': jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=columns)
    }
    restored = checkpoints.restore_latest(wanted)
  assert restored.state['kernel'].sharding == columns
  np.testing.assert_array_equal(restored.state['kernel'], values)


def test_saving_the_newest_step_again_does_nothing(tmp_path):
  save(tmp_path, 5)
  save(tmp_path, 5, 6)
  assert_is(restore(tmp_path)[0], 6)


def data_files(step):
  # Some hold what is held again elsewhere, so one alone may not be missed.
  return list((step / 'state').glob('**/d/*'))


def truncate(file):
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGES = {
  'short files': lambda step: [truncate(f) for f in data_files(step)],
  'lost files': lambda step: [f.unlink() for f in data_files(step)],
  'short names': lambda step: truncate(step / 'state/_METADATA'),
  'no arrays': lambda step: shutil.rmtree(step / 'state'),
  'no index': lambda step: (step / 'state/manifest.ocdbt').unlink(),
  'no names': lambda step: (step / 'state/_METADATA').unlink(),
  'no metadata': lambda step: shutil.rmtree(step / 'metadata'),
  'short metadata': lambda step: truncate(step / 'metadata/metadata'),
  'nothing at all': lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_the_one_before_a_broken_one_is_used(tmp_path, damage):
  save(tmp_path, 5, 10)
  damage(tmp_path / '10')
  restored, said = restore(tmp_path)
  assert_is(restored, 5)
  (sentence,) = said
  assert 'step 10' in sentence and 'step 5 is used' in sentence
  assert '\n' not in sentence
  # The run comes to the same step again and saves it.
  save(tmp_path, 10)
  restored, said = restore(tmp_path)
  assert_is(restored, 10)
  assert said == []
  assert (tmp_path / 'broken-10').is_dir()


def test_two_broken_ones(tmp_path):
  save(tmp_path, 5, 10, 15)
  for step in ('10', '15'):
    DAMAGES['no index'](tmp_path / step)
  restored, said = restore(tmp_path)
  assert_is(restored, 5)
  assert len(said) == 2


def test_a_step_that_was_being_written(tmp_path):
  save(tmp_path, 5)
  shutil.copytree(tmp_path / '5', tmp_path / '10.orbax-checkpoint-tmp')
  restored, said = restore(tmp_path)
  assert_is(restored, 5)
  assert said == []


def test_none_is_whole(tmp_path):
  save(tmp_path, 5, 10)
  for step in ('5', '10'):
    DAMAGES['short files'](tmp_path / step)
  with pytest.raises(CheckpointError, match='none of the checkpoints'):
    restore(tmp_path)
  assert (tmp_path / '5').exists() and (tmp_path / '10').exists()


def test_a_state_of_another_model_destroys_nothing(tmp_path):
  save(tmp_path, 5)
  other = state_at(0)
  other.params['kernel'] = jnp.zeros((8, 5))
  with pytest.raises(CheckpointError, match='step 5'):
    restore(tmp_path, other)
  assert_is(restore(tmp_path)[0], 5)


def test_a_full_disk_is_told(tmp_path, monkeypatch):
  with RunCheckpoints(tmp_path, keep=2) as checkpoints:

    def fail(*args, **kwargs):
      raise ValueError('x' * 500 + '[OS error 28: No space left on device]')

    monkeypatch.setattr(checkpoints._manager, 'save', fail)
    with pytest.raises(CheckpointError, match='the disk is full'):
      checkpoints.save(5, state_at(5), {})


def test_the_warning_reaches_stderr_by_default(tmp_path, capfd, caplog):
  save(tmp_path, 5, 10)
  DAMAGES['no metadata'](tmp_path / '10')
  with RunCheckpoints(tmp_path, keep=3) as checkpoints:
    checkpoints.restore_latest(state_at(0))
  (record,) = caplog.records
  assert 'step 5 is used' in record.getMessage()


def test_orbax_says_nothing(tmp_path, capfd):
  save(tmp_path, 5, 10)
  DAMAGES['short metadata'](tmp_path / '10')
  restore(tmp_path)
  out, err = capfd.readouterr()
  assert (out, err) == ('', '')


def test_more_than_the_newest_are_kept(tmp_path):
  keep = KeptSteps(newest=1, every_steps=4, best=1)
  losses = [5.0, 2.0, 3.0, 4.0, None, 3.5]
  with RunCheckpoints(tmp_path, keep=keep) as checkpoints:
    for step, loss in enumerate(losses, start=1):
      measured = None if loss is None else {'exit_1/loss': loss, 'other': 0.0}
      checkpoints.save(step, state_at(step), {}, measured=measured)
  with RunCheckpoints(tmp_path, keep=keep) as checkpoints:
    assert checkpoints.steps == (2, 4, 6)  # the best, the fourth, the newest
    checkpoints.save(7, state_at(7), {}, measured={'exit_1/loss': 1.0})
  with RunCheckpoints(tmp_path, keep=keep) as checkpoints:
    assert checkpoints.steps == (4, 7)


def test_the_best_are_found_by_what_is_measured(tmp_path):
  keep = KeptSteps(best=1, metric='exit_9/loss')
  with RunCheckpoints(tmp_path, keep=keep) as checkpoints:
    with pytest.raises(ArgumentError, match='name one of exit_1/loss'):
      checkpoints.save(1, state_at(1), {}, measured={'exit_1/loss': 1.0})


def test_a_run_goes_back_to_a_step(tmp_path):
  save(tmp_path, 1, 2, 3)
  with RunCheckpoints(tmp_path, keep=3) as checkpoints:
    with pytest.raises(ArgumentError, match=r'step 7.*: 1, 2, 3'):
      checkpoints.go_back(7)
  goes_back(tmp_path)


@pytest.mark.store
def test_a_run_goes_back_in_a_store(bucket):
  save(bucket, 1, 2, 3)
  goes_back(bucket)


def goes_back(path):
  with RunCheckpoints(path, keep=3) as checkpoints:
    checkpoints.go_back(1)
    assert_is(checkpoints.restore_latest(state_at(0)), 1)
    checkpoints.save(2, state_at(5), metadata_at(5))
  names = {p.name for p in storage.as_path(path).iterdir() if p.is_dir()}
  assert names == {'1', '2', 'abandoned-2', 'abandoned-3'}
