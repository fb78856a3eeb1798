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
"""Test the letters of every leaf, and the table from letters to the mesh."""

import jax
import pytest
from jax.sharding import PartitionSpec

from eejax import axes
from eejax.axes import Kind
from eejax.errors import ArgumentError
from eejax.models.quantized import quantize_backbone
from eejax.parallel.mesh import MeshConfig, make_mesh
from eejax.parallel.sharding import path_names
from eejax.testing import tiny

MESH = {'stage': 2, 'data': 1, 'fsdp': 2, 'model': 2}


def leaves(quantized=False):
  """Return shapes by path of a model that has every kind of parameter."""
  config = tiny.tiny_config(
    tiny.EVERY_KIND_OF_EXIT,
    qkv_bias=True,
    mlp_bias=True,
    output_bias=True,
    qk_norm=True,
    vocab_size=32,
  )
  tree = jax.eval_shape(lambda: tiny.tiny_params(config))
  if quantized:
    tree = jax.eval_shape(quantize_backbone, tree)
  found, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_names(path): leaf for path, leaf in found}


def cut(path, shape, kind=Kind.PARAMETER):
  letters = axes.parameter_axes(path.split('/'), ndim=len(shape))
  return axes.partition(letters, shape=shape, mesh=MESH, kind=kind)


class TestParameters:
  @pytest.mark.parametrize('quantized', [False, True])
  def test_every_leaf_has_letters(self, quantized):
    for path, leaf in leaves(quantized).items():
      assert axes.parameter_axes(path, ndim=leaf.ndim) is not None, path

  @pytest.mark.parametrize('quantized', [False, True])
  def test_every_stack_begins_with_its_blocks(self, quantized):
    for path, leaf in leaves(quantized).items():
      letters = axes.parameter_axes(path, ndim=leaf.ndim)
      assert ('L' in letters) == ('blocks' in path), path

  @pytest.mark.parametrize('quantized', [False, True])
  def test_every_matrix_is_cut(self, quantized):
    for path, leaf in leaves(quantized).items():
      if 'kernel' not in path or 'gate' in path[:-2] or 'bottleneck' in path:
        continue
      letters = axes.parameter_axes(path, ndim=leaf.ndim)
      spec = axes.partition(
        letters, shape=leaf.shape, mesh=MESH, kind=Kind.PARAMETER
      )
      if path[-1] != 'scale':
        assert 'model' in spec and 'fsdp' in spec, path

  @pytest.mark.parametrize(
    'path, shape, expected',
    [
      # Every stage has a part of an exit, and of its moments.
      ('exits/e/output/kernel', (8, 32), (('stage', 'fsdp'), 'model')),
      ('mu/exits/e/mlp/down/kernel', (32, 8), ('model', ('stage', 'fsdp'))),
      # What does not divide by both is not shared out over the stages.
      ('exits/e/output/kernel', (6, 32), ('fsdp', 'model')),
      ('exits/e/norm/scale', (8,), (None,)),
      ('backbone/head/kernel', (8, 32), ('fsdp', 'model')),
    ],
  )
  def test_exits_lie_in_parts_on_the_stages(self, path, shape, expected):
    spec = axes.parameter_spec(path.split('/'), shape=shape, mesh=MESH)
    assert spec == PartitionSpec(*expected)

  @pytest.mark.parametrize('quantized', [False, True])
  def test_every_leaf_of_experts_has_letters(self, quantized):
    config = tiny.tiny_config('2:mlp', **tiny.KINDS_OF_BLOCK['experts'])
    tree = jax.eval_shape(lambda: tiny.tiny_params(config))
    if quantized:
      tree = jax.eval_shape(quantize_backbone, tree)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
      letters = axes.parameter_axes(path_names(path), ndim=leaf.ndim)
      assert letters is not None, path

  def test_experts_are_shared_out_and_their_scales_with_them(self):
    mesh = {'fsdp': 2, 'expert': 2, 'model': 2}
    place = lambda path, shape: axes.partition(
      axes.parameter_axes(path.split('/'), ndim=len(shape)),
      shape=shape,
      mesh=mesh,
      kind=Kind.PARAMETER,
    )
    kernel = 'backbone/blocks/mlp/experts/gate/kernel'
    assert place(kernel, (3, 4, 16, 12)) == PartitionSpec(
      None, 'expert', 'fsdp', 'model'
    )
    assert place(f'{kernel}/scale', (3, 4, 12)) == PartitionSpec(
      None, 'expert', 'model'
    )

  def test_a_moment_of_the_optimizer_lies_with_its_parameter(self):
    path = 'opt_state/1/0/mu/backbone/blocks/mlp/up/kernel'
    assert cut(path, (4, 16, 20)) == PartitionSpec('stage', 'fsdp', 'model')

  def test_a_scale_of_int8_lies_with_its_kernel(self):
    path = 'backbone/blocks/attention/query/kernel/scale'
    assert cut(path, (4, 4, 6)) == PartitionSpec('stage', 'model', None)

  def test_a_pipeline_may_fold_the_stack(self):
    path = 'backbone/blocks/mlp/up/kernel'
    assert axes.parameter_axes(path.split('/'), ndim=4) == ('P', 'L', 'D', 'F')

  def test_what_is_no_parameter_has_no_letters(self):
    assert axes.parameter_axes(['opt_state', '0', 'count'], ndim=0) is None
    assert axes.parameter_axes(['head', 'kernel'], ndim=1) is None

  def test_gate_of_an_exit_and_of_an_mlp_are_told_apart(self):
    assert cut('exits/exit_1/gate/output/kernel', (16, 2)) == PartitionSpec(
      None, None
    )
    assert cut('exits/exit_1/mlp/gate/kernel', (16, 20)) == PartitionSpec(
      'fsdp', 'model'
    )


class TestPartition:
  def test_heads_are_preferred_to_the_sequence(self):
    spec = lambda letters, shape: axes.partition(
      letters, shape=shape, mesh=MESH, kind=Kind.ACTIVATION
    )
    assert spec(('B', 'T', 'D'), (4, 8, 16)) == PartitionSpec(
      ('data', 'fsdp'), 'model', None
    )
    assert spec(('B', 'T', 'N', 'H'), (4, 8, 4, 6)) == PartitionSpec(
      ('data', 'fsdp'), None, 'model', None
    )

  def test_what_does_not_divide_stays_whole(self):
    spec = cut('head/kernel', (16, 29))
    assert spec == PartitionSpec('fsdp', None)

  def test_rows_that_only_partly_divide_are_cut_as_far_as_they_do(self):
    spec = axes.partition(
      ('B',), shape=(6,), mesh={'data': 2, 'fsdp': 2}, kind=Kind.ACTIVATION
    )
    assert spec == PartitionSpec('data')

  def test_no_mesh_axis_is_used_twice(self):
    for path, leaf in leaves().items():
      letters = axes.parameter_axes(path, ndim=leaf.ndim)
      spec = axes.partition(
        letters, shape=leaf.shape, mesh=MESH, kind=Kind.PARAMETER
      )
      used = [axis for axis in spec if axis is not None]
      assert len(used) == len(set(used)), path


class TestConstrain:
  def test_without_a_mesh_it_does_nothing(self):
    x = jax.numpy.ones((2, 4, 8))
    assert axes.constrain(x, ('B', 'T', 'D')) is x
    assert axes.batch_shards(8) == 1

  def test_on_a_mesh_it_lays_out(self):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    with jax.set_mesh(mesh):
      x = jax.jit(lambda x: axes.constrain(x, ('B', 'T', 'D')))(
        jax.numpy.ones((4, 4, 8))
      )
      assert axes.batch_shards(8) == 4
      assert axes.batch_shards(2) == 2
    assert x.sharding.spec == PartitionSpec(('data', 'fsdp'), 'model')

  def test_what_a_shard_map_handles_is_left_to_it(self):
    mesh = make_mesh(MeshConfig(stage=2, data=2, model=2))

    def inside(x):
      assert axes.ambient() == {'data': 2, 'fsdp': 1, 'expert': 1, 'model': 2}
      return axes.constrain(x, ('B', 'T', 'D'))

    with jax.set_mesh(mesh):
      mapped = jax.shard_map(
        inside,
        axis_names={'stage'},
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
      )
      x = jax.jit(mapped)(jax.numpy.ones((4, 4, 8)))
    assert x.shape == (4, 4, 8)


class TestOtherRules:
  def test_they_hold_within_and_no_longer(self):
    mesh = {'data': 2, 'fsdp': 2, 'model': 2}
    kernel = lambda: axes.partition(
      ('D', 'F'), shape=(8, 8), mesh=mesh, kind=Kind.PARAMETER
    )
    before = kernel()
    with axes.sharding_rules({'D': ('fsdp', 'data'), 'F': ()}):
      assert kernel() == PartitionSpec(('fsdp', 'data'), None)
      with axes.sharding_rules({'F': ('model',)}):
        assert kernel() == PartitionSpec(('fsdp', 'data'), 'model')
    assert kernel() == before == PartitionSpec('fsdp', 'model')

  def test_what_is_computed_from_a_batch_stays(self):
    with axes.sharding_rules({'D': ('model',)}):
      found = axes.partition(
        ('B', 'D'), shape=(4, 8), mesh=MESH, kind=Kind.ACTIVATION
      )
    assert found == PartitionSpec(('data', 'fsdp'), None)

  @pytest.mark.parametrize(
    ('changes', 'message'),
    [
      ({'Q': ('fsdp',)}, "no dimension .* letter 'Q'; there are .*V"),
      ({'L': ('fsdp',)}, "no dimension .* letter 'L'"),
      ({'D': ('rows',)}, 'the rule of D is .* some of data, fsdp'),
      ({'D': ('stage',)}, 'the rule of D is'),
      ({'D': 'fsdp'}, 'the rule of D is'),
    ],
  )
  def test_what_cannot_be_is_named(self, changes, message):
    with (
      pytest.raises(ArgumentError, match=message),
      axes.sharding_rules(changes),
    ):
      pass
