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
"""Test where t5x lays parameters out, on a mesh that does not fit them."""

import jax
import pytest
from jax.sharding import PartitionSpec

from eejax.testing import tiny

pytestmark = pytest.mark.t5x


def mesh_axes(make_model, cls, **sizes):
  from t5x import train_state

  from eejax.t5x_adapter.partitioner import logical_axis_rules

  config = tiny.tiny_config('2:bottleneck_mlp(8)', **sizes)
  model = make_model(config=config)
  shapes = jax.eval_shape(
    lambda: train_state.FlaxOptimTrainState.create(
      model.optimizer_def, model.get_initial_variables(jax.random.key(0), {})
    )
  )
  partitioner = cls(num_partitions=1, logical_axis_rules=logical_axis_rules())
  # On CPUs t5x takes every device of a process for `model`: eight of them.
  assert dict(partitioner.mesh.shape) == {'data': 1, 'model': 8}
  return partitioner.get_mesh_axes(shapes)


def test_what_divides_is_cut_and_what_does_not_stays_whole(make_model):
  from eejax.t5x_adapter.partitioner import EarlyExitPartitioner

  found = mesh_axes(
    make_model, EarlyExitPartitioner, num_heads=8, mlp_dim=24, vocab_size=29
  )
  backbone = found.params['backbone']
  attention = backbone['blocks']['attention']
  assert attention['query']['kernel'] == PartitionSpec(
    None, None, 'model', None
  )
  assert 'model' not in tuple(attention['key']['kernel'])
  assert 'model' not in tuple(backbone['embedding']['table'])
  bottleneck = found.params['exits']['exit_2']['bottleneck']
  assert 'model' in tuple(bottleneck['down']['kernel'])
  assert 'model' in tuple(backbone['blocks']['mlp']['up']['kernel'])


def test_moments_lie_where_their_parameters_lie(make_model):
  from eejax.t5x_adapter.partitioner import EarlyExitPartitioner

  found = mesh_axes(make_model, EarlyExitPartitioner, num_heads=8)
  specs = jax.tree_util.tree_leaves_with_path(
    found.param_states, is_leaf=lambda x: isinstance(x, PartitionSpec)
  )
  ends = {
    jax.tree_util.keystr(path): spec
    for path, spec in specs
    if isinstance(spec, PartitionSpec)
  }
  queries = [s for p, s in ends.items() if 'query' in p]
  keys = [s for p, s in ends.items() if "'key'" in p]
  assert queries and all('model' in tuple(s) for s in queries)
  assert keys and not any('model' in tuple(s) for s in keys)
