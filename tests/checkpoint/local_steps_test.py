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
"""Test the steps that a process keeps on a disk of its own."""

import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eejax.checkpoint import local_steps
from eejax.checkpoint.local_steps import LocalSteps
from eejax.errors import CheckpointError
from eejax.parallel import sharding
from eejax.parallel.mesh import MeshConfig, make_mesh


def make_state(value=1.0, mesh=None):
  """Return arrays that are cut, whole, narrow, and a count."""
  kernel = value * jnp.arange(32, dtype=jnp.float32).reshape(8, 4)
  tree = {
    'exits': {'e': {'mlp': {'up': {'kernel': kernel}}}},
    'scale': jnp.full((4,), value, jnp.bfloat16),
    'count': jnp.asarray(3, jnp.int32),
  }
  mesh = mesh or make_mesh(MeshConfig(fsdp=4))
  return jax.device_put(tree, sharding.shardings(tree, mesh=mesh))


def like(state):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
  )


@pytest.fixture
def steps(tmp_path):
  return LocalSteps(tmp_path / 'process_0', warn=pytest.fail)


def test_a_state_comes_back_where_it_was(steps):
  state = make_state()
  steps.save(5, state, {'data': {'document': 7}})
  assert steps.newest(like=like(state)) == 5
  found = steps.restore(5, like=like(state))
  assert (found.step, found.metadata) == (5, {'data': {'document': 7}})
  for got, want in zip(
    jax.tree.leaves(found.state), jax.tree.leaves(state), strict=True
  ):
    assert got.sharding == want.sharding and got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_every_part_is_written_once(steps):
  state = make_state()
  steps.save(5, state, {})
  steps.wait()
  size = (steps.folder / '5' / 'shards').stat().st_size
  assert size == sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def test_a_state_may_change_while_it_is_written(steps):
  state = make_state()
  where = like(state)
  steps.save(5, state, {})
  jax.tree.map(lambda leaf: leaf.delete(), state)
  found = steps.restore(steps.newest(like=where), like=where)
  np.testing.assert_array_equal(found.state['scale'], make_state()['scale'])


def test_the_newest_two_stay(steps):
  for step in (3, 6, 9):
    steps.save(step, make_state(step), {})
  steps.wait()
  assert steps.steps == (6, 9)
  assert LocalSteps(steps.folder).steps == (6, 9)
  steps.clear()
  assert steps.steps == () and not steps.folder.exists()


def test_a_step_that_another_process_lacks_is_passed_over(steps, monkeypatch):
  state = make_state()
  for step in (3, 6):
    steps.save(step, state, {})
  monkeypatch.setattr(
    local_steps.multihost, 'gather', lambda mine: [mine, [1, 3]]
  )
  assert steps.newest(like=like(state)) == 3
  monkeypatch.setattr(local_steps.multihost, 'gather', lambda mine: [mine, []])
  assert steps.newest(like=like(state)) is None


@pytest.mark.parametrize('name', ['shards', 'index.json'])
def test_one_that_is_cut_short_is_passed_over(steps, name):
  state = make_state()
  for step in (3, 6):
    steps.save(step, state, {})
  steps.wait()
  path = steps.folder / '6' / name
  path.write_bytes(path.read_bytes()[:-7])
  assert steps.newest(like=like(state)) == 3


def test_other_devices_or_shapes_are_no_use(steps):
  state = make_state()
  steps.save(3, state, {})
  other = make_state(mesh=make_mesh(MeshConfig(fsdp=2)))
  assert steps.newest(like=like(other)) is None
  wider = {**state, 'count': jnp.zeros((2,), jnp.int32)}
  assert steps.newest(like=like(wider)) is None


def test_a_changed_byte_is_told(steps):
  state = make_state()
  steps.save(3, state, {})
  steps.wait()
  path = steps.folder / '3' / 'shards'
  data = bytearray(path.read_bytes())
  data[9] ^= 1
  path.write_bytes(bytes(data))
  step = steps.newest(like=like(state))
  with pytest.raises(CheckpointError, match='step 3 in .* is damaged'):
    steps.restore(step, like=like(state))


def test_a_full_disk_ends_no_run(tmp_path, monkeypatch):
  said = []
  steps = LocalSteps(tmp_path / 'process_0', warn=said.append)
  steps.save(3, make_state(), {})
  steps.wait()

  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(json, 'dumps', full)
  steps.save(6, make_state(), {})
  steps.wait()
  monkeypatch.undo()
  steps.save(9, make_state(), {})
  steps.wait()
  assert steps.steps == (3,)
  (sentence,) = said
  assert 'full' in sentence and 'the run goes on' in sentence
