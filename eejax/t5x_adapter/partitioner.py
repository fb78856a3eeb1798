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
"""t5x's partitioner with eejax's rule for what does not divide."""

from typing import Any

from flax import traverse_util
from jax.sharding import PartitionSpec
from t5x import partitioning

from eejax.t5x_adapter import axes


class EarlyExitPartitioner(partitioning.PjitPartitioner):
  """Lay parameters out by t5x's rules; what does not divide stays whole."""

  def get_mesh_axes(self, train_state: Any) -> Any:
    """Return where each leaf of a train state lies.

    Args:
      train_state: a state of t5x, arrays or shapes.
    """
    mesh_axes = super().get_mesh_axes(train_state)
    flat = lambda tree: traverse_util.flatten_dict(
      tree.state_dict(), keep_empty_nodes=True, sep='/'
    )
    leaves = flat(train_state)
    mesh = dict(self.mesh.shape)
    specs = {
      path: axes.divisible(spec, shape=leaves[path].shape, mesh=mesh)
      if isinstance(spec, PartitionSpec)
      else spec
      for path, spec in flat(mesh_axes).items()
    }
    return mesh_axes.restore_state(traverse_util.unflatten_dict(specs, sep='/'))


def logical_axis_rules(
  activation_partitioning_dims: int = 1, parameter_partitioning_dims: int = 1
) -> Any:
  """Return t5x's standard rules with those of eejax's own names.

  Args:
    activation_partitioning_dims: as of t5x's `standard_logical_axis_rules`.
    parameter_partitioning_dims: as of the same.
  """
  return partitioning.standard_logical_axis_rules(
    activation_partitioning_dims=activation_partitioning_dims,
    parameter_partitioning_dims=parameter_partitioning_dims,
    additional_rules=axes.additional_rules(),
  )
