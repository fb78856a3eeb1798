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
"""Test that a mesh changes where things are computed, and nothing else."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eejax.checkpoint.manager import RunCheckpoints
from eejax.config.experts import ExpertsConfig
from eejax.data.batch import PackedBatches
from eejax.data.memory_source import InMemoryDocuments, Passes
from eejax.data.sharded import ShardedBatches
from eejax.errors import EejaxError
from eejax.models import decoder
from eejax.models.quantized import quantize_backbone
from eejax.parallel import memory, multihost, sharding
from eejax.parallel.mesh import make_mesh, parse_mesh
from eejax.testing import tiny
from eejax.training import freeze, loop, metrics, step
from eejax.training.device_placement import DevicePlacement
from eejax.training.freeze import Regime
from eejax.training.loop import Task
from eejax.training.loop_config import LoopConfig
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Objective
from eejax.training.optimizers import clipped_adamw
from eejax.training.step import StepConfig

MESHES = ('fsdp=8', 'data=2,model=4', 'data=2,fsdp=2,model=2')
ROWS, LENGTH = 8, 8
EXPERTS = ExpertsConfig(4, 2, 12, shared_dim=8, balance_weight=0.1)
HEADS = 64  # vocabulary: it divides on every mesh, and no other size is 64


def make_config(exits='1:norm,2:mlp:untied,3:norm:gate', **fields):
  return tiny.tiny_config(exits, vocab_size=HEADS, **fields)


def make_batch(config):
  tokens = np.asarray(
    tiny.tiny_tokens(config, batch_size=ROWS, length=LENGTH + 1)
  )
  weights = np.ones((ROWS, LENGTH), np.float32)
  weights[0, 5:] = 0  # shares of the rows do not weigh the same
  return TokenBatch(
    tokens=tokens[:, :-1],
    targets=tokens[:, 1:],
    weights=weights,
    positions=np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
    segment_ids=np.ones((ROWS, LENGTH), np.int32),
  )


def gradients_on(
  words,
  *,
  regime=Regime.JOINT,
  prepare=None,
  experts=None,
  mixer=None,
  **settings,
):
  """Return gradients, sums and the compiled step; no mesh for None."""
  config = make_config(experts=experts, state_space=mixer)
  params = tiny.tiny_params(config)
  trainable, frozen = freeze.split(params, regime=regime)
  if prepare is not None:
    frozen = prepare(frozen)
  placement = DevicePlacement(
    None if words is None else make_mesh(parse_mesh(words))
  )
  objective = Objective(
    regime=regime,
    distillation_weight=0.3 if regime is Regime.TUNE else 0.0,
    chunk_size=16,
  )

  def gradients(trainable, frozen, batch):
    return step.gradients(
      trainable,
      frozen,
      batch,
      step=0,
      config=config,
      objective=objective,
      settings=StepConfig(**settings),
    )

  batch = make_batch(config)
  with placement.active():
    if placement.mesh is not None:
      batch = jax.device_put(batch, sharding.batch_sharding(placement.mesh))
    trainable = placement.place(trainable)
    frozen = placement.place(frozen)
    compiled = jax.jit(gradients).lower(trainable, frozen, batch).compile()
    grads, sums = compiled(trainable, frozen, batch)
  return grads, sums, compiled


def assert_close(found, expected, tolerance=1e-5):
  expected_leaves = jax.tree.leaves(expected)
  leaves, _ = jax.tree_util.tree_flatten_with_path(found)
  for (path, a), b in zip(leaves, expected_leaves, strict=True):
    a, b = np.asarray(a), np.asarray(b)
    scale = max(np.max(np.abs(b)), 1e-6)
    assert np.max(np.abs(a - b)) <= tolerance * scale, path


@pytest.fixture(scope='module')
def joint():
  return gradients_on(None)


@pytest.fixture(scope='module')
def of_experts():
  return gradients_on(None, experts=EXPERTS)


class TestAStep:
  @pytest.mark.parametrize('words', MESHES)
  def test_loss_and_gradients_are_those_of_one_device(self, joint, words):
    grads, sums, _ = gradients_on(words)
    assert_close(grads, joint[0])
    assert_close(sums, joint[1])

  def test_experts_that_are_shared_out_are_those_of_one_device(
    self, of_experts
  ):
    words = 'data=2,expert=2,model=2'
    grads, sums, compiled = gradients_on(words, experts=EXPERTS)
    assert_close(grads, of_experts[0])
    assert_close(sums, of_experts[1])
    assert float(sums.balance) > 0
    # No device ever has the kernels of all experts.
    assert not re.search(r'f32\[4,4,16,12\]', compiled.as_text())

  def test_a_mixer_is_cut_along_its_channels(self):
    mixer = tiny.KINDS_OF_RECURRENT_BLOCK['hybrid']['state_space']
    grads, sums, _ = gradients_on('data=2,fsdp=2,model=2', mixer=mixer)
    alone = gradients_on(None, mixer=mixer)
    assert_close(grads, alone[0])
    assert_close(sums, alone[1])

  def test_microbatches_are_cut_across_the_devices(self, joint):
    words = 'data=4,stage=2'
    grads, sums, compiled = gradients_on(words, microbatches=2)
    assert_close(grads, joint[0])
    assert_close(sums, joint[1])
    # No token, the only integers there are, goes to another device.
    moved = r's32\[[\d,]*\]\S* (all-gather|all-to-all|collective-permute)\('
    assert not re.search(moved, compiled.as_text())

  def test_exits_of_a_frozen_backbone_in_int8(self):
    how = {'regime': Regime.TUNE, 'prepare': quantize_backbone}
    alone = gradients_on(None, **how)
    grads, _, _ = gradients_on('fsdp=2,model=2,data=2', **how)
    assert_close(grads, alone[0])

  def test_gradients_lie_with_their_parameters(self):
    mesh = make_mesh(parse_mesh('data=2,fsdp=2,model=2'))
    config = make_config()
    task = make_task(config, mesh)
    placement = DevicePlacement(mesh)
    with placement.active():
      state = placement.create_state(task.params, optimizer=task.optimizer)
      compiled = placement.compile_step(
        step.make_train_step(
          config,
          objective=task.objective,
          optimizer=task.optimizer,
          settings=task.settings,
        ),
        state,
      )
      batch = jax.device_put(make_batch(config), sharding.batch_sharding(mesh))
      after, measured = compiled(state, {}, batch)
    expected = sharding.shardings(after, mesh=mesh)
    jax.tree.map(
      lambda leaf, where: (
        leaf.sharding.is_equivalent_to(where, leaf.ndim)
        or pytest.fail(f'{leaf.sharding} is not {where}')
      ),
      after,
      expected,
    )
    moments = optax.tree_utils.tree_get(after.opt_state, 'mu')
    moment = moments['backbone']['blocks']['mlp']['up']
    parts = moment['kernel'].addressable_shards
    assert parts[0].data.shape == (4, 8, 10)  # of [4, 16, 20]
    assert measured.grad_norm.is_fully_replicated


class TestTheVocabulary:
  """Each device multiplies by its own part of every output matrix."""

  @pytest.fixture(scope='class')
  def text(self):
    return gradients_on('data=2,model=4')[2].as_text()

  def shapes(self, text, operation):
    found = re.findall(rf'= \(?(\S+?)\[([\d,]*)\]\S* {operation}\(', text)
    return [tuple(map(int, s.split(','))) if s else () for _, s in found]

  def test_no_output_matrix_is_gathered(self, text):
    gathered = self.shapes(text, 'all-gather')
    assert gathered  # else the pattern has become wrong
    assert not [s for s in gathered if HEADS in s]

  def test_no_logits_are_whole(self, text):
    found = re.findall(r'f32\[([\d,]+)\]', text)
    shapes = {tuple(map(int, s.split(','))) for s in found}
    of_part = [s for s in shapes if s[-1] == HEADS // 4 and len(s) == 3]
    # 4 rows of a device, 2 columns at a time, a quarter of the vocabulary.
    assert (4, 2, HEADS // 4) in of_part
    tokens = {int(np.prod(s[:-1])) for s in shapes if s[-1] == HEADS}
    assert max(tokens, default=0) <= 1


def make_batches(num_shards=4, own=range(4), seed=3):
  random = np.random.default_rng(0)
  documents = [
    random.integers(3, HEADS, size=random.integers(3, 25)) for _ in range(40)
  ]
  source = InMemoryDocuments(documents, passes=Passes.ENDLESS, seed=seed)
  parts = {
    i: PackedBatches(
      source,
      sequence_length=LENGTH,
      batch_size=ROWS // num_shards,
      shard_index=i,
      num_shards=num_shards,
    )
    for i in own
  }
  return ShardedBatches(parts, num_shards=num_shards)


def make_task(config, mesh, regime=Regime.JOINT):
  params = tiny.tiny_params(config)
  if mesh is not None:
    params = DevicePlacement(mesh).place(params)
  return Task(
    config=config,
    params=params,
    objective=Objective(regime=regime),
    optimizer=clipped_adamw(1e-2),
    learning_rate=optax.constant_schedule(1e-2),
    mesh=mesh,
  )


def train(folder, words, steps, regime=Regime.JOINT):
  mesh = None if words is None else make_mesh(parse_mesh(words))
  return loop.train(
    make_task(make_config('1:norm,2:mlp'), mesh, regime),
    folder=folder,
    settings=LoopConfig(steps=steps, log_every=1, save_every=2, keep=9),
    batches=make_batches(),
    held_out=[next(make_batches(seed=5))],
  )


def records(folder):
  return [
    {k: v for k, v in r.items() if k != 'kind'}
    for r in metrics.read_records(folder)
    if r['kind'] != metrics.TIMING
  ]


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  folder = tmp_path_factory.mktemp('alone')
  return folder, train(folder, None, 4)


class TestARun:
  def test_it_goes_on_on_another_mesh_with_the_losses_of_one_device(
    self, alone, tmp_path
  ):
    train(tmp_path, 'data=2,fsdp=2,model=2', 2)
    outcome = train(tmp_path, 'fsdp=4,stage=2', 4)
    assert outcome.step == 4
    found = [r for r in records(tmp_path) if 'learning_rate' in r]
    expected = [r for r in records(alone[0]) if 'learning_rate' in r]
    assert [r['step'] for r in found] == [1, 2, 3, 4]
    for one, other in zip(found, expected, strict=True):
      assert one == pytest.approx(other, rel=2e-4, abs=1e-6)
    assert_close(outcome.trainable, alone[1].trainable, 1e-3)


class TestResharding:
  """A state read onto another mesh is the same, bit for bit."""

  @pytest.fixture(scope='class')
  def start(self):
    config = make_config('1:norm,2:mlp:untied')
    task = make_task(config, None)
    state = DevicePlacement().create_state(
      task.params, optimizer=task.optimizer
    )
    leaves, structure = jax.tree.flatten(state)
    random = np.random.default_rng(0)
    leaves = [
      random.normal(size=x.shape).astype(x.dtype) if x.ndim else np.asarray(x)
      for x in leaves
    ]
    return jax.tree.unflatten(structure, leaves)

  @pytest.mark.parametrize(
    ('first', 'second'),
    [
      ('data=8', 'fsdp=2,model=4'),
      ('fsdp=4,model=2', 'data=2,stage=4'),
      ('stage=2,model=2,data=2', 'fsdp=8'),
    ],
  )
  def test_parameters_and_optimizer(self, start, tmp_path, first, second):
    saved = DevicePlacement(make_mesh(parse_mesh(first))).place(start)
    mesh = make_mesh(parse_mesh(second))
    with RunCheckpoints(tmp_path / 'run') as checkpoints:
      checkpoints.save(1, saved, {})
      wanted = sharding.abstract(start, mesh=mesh)
      restored = checkpoints.restore_latest(wanted).state
    jax.tree.map(np.testing.assert_array_equal, restored, start)
    where = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    assert jax.tree.map(lambda leaf: leaf.sharding, restored) == where

  def test_there_must_be_room_for_it(self, start, tmp_path, monkeypatch):
    mesh = make_mesh(parse_mesh('fsdp=8'))
    with RunCheckpoints(tmp_path / 'run') as checkpoints:
      checkpoints.save(1, start, {})
      checkpoints.wait()
      monkeypatch.setattr(memory, 'available_bytes', lambda mesh: 1000)
      with pytest.raises(EejaxError, match='GiB are free'):
        checkpoints.restore_latest(sharding.abstract(start, mesh=mesh))
      assert checkpoints.steps == (1,)


class TestInitialisation:
  def test_every_part_is_that_of_one_device(self):
    config = make_config()
    make = lambda: decoder.init(config, jax.random.key(7))
    whole = jax.jit(make)()
    mesh = make_mesh(parse_mesh('fsdp=4,model=2'))
    parts = sharding.initialise(make, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    kernel = parts['backbone']['head']['kernel']
    assert kernel.addressable_shards[0].data.shape == (4, 32)

  def test_no_device_makes_more_than_its_part(self):
    make = lambda: decoder.init(make_config(), jax.random.key(7))
    mesh = make_mesh(parse_mesh('fsdp=4,model=2'))
    shapes = jax.eval_shape(make)
    places = sharding.shardings(shapes, mesh=mesh)
    sizes = jax.jit(make, out_shardings=places).lower().compile()
    expected = sharding.bytes_on_device(shapes, places=places)
    found = sizes.memory_analysis().output_size_in_bytes
    assert expected <= found < 1.05 * expected + 1024


class TestRows:
  def test_one_process_feeds_all_rows(self):
    mesh = make_mesh(parse_mesh('data=4,model=2'))
    assert sharding.row_share(mesh) == sharding.RowShare(0, 1)

  def test_shards_of_several_hosts_make_the_batch_of_one(self):
    whole = make_batches()
    hosts = [make_batches(own=range(0, 2)), make_batches(own=range(2, 4))]
    for _ in range(3):
      expected = next(whole).tokens
      found = np.concatenate([next(host).tokens for host in hosts])
      np.testing.assert_array_equal(found, expected)

  def test_a_state_serves_other_numbers_of_hosts(self, monkeypatch):
    hosts = [make_batches(own=range(0, 2)), make_batches(own=range(2, 4))]
    whole = make_batches()
    for batches in (*hosts, whole):
      next(batches)
    alone = whole.state()
    own = [{str(i): alone['shards'][i] for i in r} for r in ([0, 1], [2, 3])]
    monkeypatch.setattr(multihost, 'gather', lambda value: own)
    assert hosts[0].state() == alone
    third = make_batches(own=range(1, 2))
    third.restore(hosts[0].state())
    np.testing.assert_array_equal(next(third).tokens, next(whole).tokens[2:4])

  def test_other_shards_are_refused(self):
    state = make_batches().state()
    with pytest.raises(EejaxError, match='set DataConfig.num_shards = 4'):
      make_batches(num_shards=2, own=range(2)).restore(state)


class TestRoom:
  def test_what_does_not_fit_is_said_before(self, monkeypatch):
    mesh = make_mesh(parse_mesh('fsdp=8'))
    tree = {
      'head': {'kernel': jax.ShapeDtypeStruct((2**20, 2**10), jnp.float32)}
    }
    monkeypatch.setattr(memory, 'available_bytes', lambda mesh: 2**29)
    memory.check_room(tree, mesh=mesh, what='it')  # half a GiB on a device
    monkeypatch.setattr(memory, 'available_bytes', lambda mesh: 2**29 - 1)
    with pytest.raises(EejaxError, match='it takes 0.5 GiB on each device'):
      memory.check_room(tree, mesh=mesh, what='it')

  def test_devices_of_a_processor_share_its_memory(self, monkeypatch):
    monkeypatch.setattr(memory, '_system_bytes', lambda: 800)
    mesh = make_mesh(parse_mesh('fsdp=8'))
    assert memory.available_bytes(mesh) == 100
