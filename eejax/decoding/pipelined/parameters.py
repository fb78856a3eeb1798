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
"""Parameters of a pipeline: every device gets those of its own stage.

A leaf of the tree here is `[P, ...]` and split over the stages, which is to
say that a stage's leaf is `[1, ...]` there. Stages that lack a leaf, or have a
smaller one, hold zeros: a block or head of zeros changes nothing that is
kept. Where the mesh has an axis `model`, the heads of attention, the inner
width of MLPs and the vocabulary of output matrices are split over it.
"""

from collections.abc import Callable, Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eejax.axes import MODEL, STAGE
from eejax.config import EarlyExitConfig, ExitHeadKind, GateKind
from eejax.decoding.pipelined.layout import (
  PipelineLayout,
  PipelineStage,
)
from eejax.models.exits import output_kernel
from eejax.models.stacking import unstack
from eejax.types import Array, DTypeLike, Float, Params, PyTree

# Which dimension of a leaf is split over the axis `model`, by the leaf's path.
_MODEL_DIMENSION = {
  ('attention', 'query', 'kernel'): 1,
  ('attention', 'key', 'kernel'): 1,
  ('attention', 'value', 'kernel'): 1,
  ('attention', 'query', 'bias'): 0,
  ('attention', 'key', 'bias'): 0,
  ('attention', 'value', 'bias'): 0,
  ('attention', 'output', 'kernel'): 0,
  ('mlp', 'gate', 'kernel'): 1,
  ('mlp', 'up', 'kernel'): 1,
  ('mlp', 'gate', 'bias'): 0,
  ('mlp', 'up', 'bias'): 0,
  ('mlp', 'down', 'kernel'): 0,
  ('output_matrix',): 1,
}


@flax.struct.dataclass
class PipelinedParams:
  """A model laid out over stages; leaves are `[P, ...]`.

  Attributes:
    table: a share of the embedding's rows for every stage, padded to be
      equal; its dtype is the compute dtype.
    position_table: of learned positions, on every stage; None where there are
      none.
    blocks: one tree for each block of the longest stage.
    heads: what stands before the output matrix, by the head kind's value.
    gates: gates that are read, by the gate kind's value.
    output_matrix: of the stage's own head.
  """

  table: Float[Array, '*P V_share D']
  blocks: tuple[Params, ...]
  heads: dict[str, Params]
  gates: dict[str, Params]
  output_matrix: Float[Array, '*P D V']
  position_table: Float[Array, '*P S D'] | None = None


def place_params(
  params: Params,
  *,
  config: EarlyExitConfig,
  layout: PipelineLayout,
  mesh: Mesh,
  dtype: DTypeLike = jnp.float32,
) -> PipelinedParams:
  """Lay a model out over a mesh.

  No device ever holds more than its own part; leaves go there from the host.

  Args:
    params: the parameter tree; blocks may be stacked or a sequence.
    config: the model with its exits.
    layout: which stage runs what.
    mesh: has the axis `stage`, of as many devices as the layout has stages.
    dtype: what everything but the gates is cast to.
  """
  host = jax.tree.map(np.asarray, params)
  stages = layout.stages
  lay = lambda trees, dtype=dtype: _lay(trees, mesh=mesh, dtype=dtype)
  blocks = host['backbone']['blocks']
  if isinstance(blocks, Mapping):
    blocks = unstack(blocks)
  of_stage = lambda stage, index: (
    blocks[stage.first + index] if index < stage.num_blocks else None
  )
  return PipelinedParams(
    table=lay(_table_shares(host, layout.num_stages)),
    blocks=tuple(
      lay([of_stage(s, index) for s in stages])
      for index in range(layout.num_blocks)
    ),
    heads={
      kind.value: lay([_head(host, s, kind) for s in stages])
      for kind in layout.head_kinds
    },
    gates={
      kind.value: lay([_gate(host, s, kind) for s in stages], jnp.float32)
      for kind in layout.gate_kinds
    },
    output_matrix=lay([_output_matrix(params, s, config) for s in stages])[
      'output_matrix'
    ],
    position_table=_position_tables(host, layout.num_stages, lay),
  )


def model_partition(mesh: Mesh, *, size: int) -> str | None:
  """Return the axis a dimension of this size is split over, if any."""
  shards = mesh.shape.get(MODEL, 1)
  return MODEL if shards > 1 and size % shards == 0 else None


def _position_tables(
  host: Params, count: int, lay: Callable[..., PyTree]
) -> Array | None:
  embedding = host['backbone']['embedding']
  if 'positions' not in embedding:
    return None
  own = {'positions': embedding['positions']}
  return lay([own] * count)['positions']


def _table_shares(host: Params, num_stages: int) -> list[np.ndarray]:
  table = host['backbone']['embedding']['table']
  share = -(-table.shape[0] // num_stages)
  return [table[i * share : (i + 1) * share] for i in range(num_stages)]


def _head(
  host: Params, stage: PipelineStage, kind: ExitHeadKind
) -> Params | None:
  """Return a stage's head if it is of this kind."""
  if stage.head_kind is not kind:
    return None
  if stage.exit is None:
    return {'norm': host['backbone']['final_norm']}
  exit_params = host['exits'].get(stage.exit.name, {})
  return {
    name: tree
    for name, tree in exit_params.items()
    if name not in ('gate', 'output')
  }


def _gate(host: Params, stage: PipelineStage, kind: GateKind) -> Params | None:
  """Return a stage's gate if it is of this kind."""
  if stage.exit is None or stage.exit.gate is not kind:
    return None
  return host['exits'][stage.exit.name]['gate']


def _output_matrix(
  params: Params, stage: PipelineStage, config: EarlyExitConfig
) -> Params | None:
  if not stage.has_head:
    return None
  matrix = output_kernel(params, exit=stage.exit, config=config.model)
  return {'output_matrix': np.asarray(matrix)}


def _lay(
  trees: Sequence[PyTree | None], *, mesh: Mesh, dtype: DTypeLike
) -> PyTree:
  """Lay one tree a stage over the mesh; None is a tree of zeros."""
  flat = [
    {} if tree is None else dict(jax.tree_util.tree_leaves_with_path(tree))
    for tree in trees
  ]
  template = next(tree for tree in trees if tree is not None)
  return jax.tree_util.tree_map_with_path(
    lambda path, _: _lay_leaf(
      [leaves.get(path) for leaves in flat], path, mesh, dtype
    ),
    template,
  )


def _lay_leaf(
  leaves: Sequence[np.ndarray | None],
  path: tuple,
  mesh: Mesh,
  dtype: DTypeLike,
) -> jax.Array:
  shapes = [leaf.shape for leaf in leaves if leaf is not None]
  shape = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
  sharding = NamedSharding(mesh, _spec(path, shape, mesh))

  def part(index: tuple[slice, ...] | None) -> np.ndarray:
    """Return what one device holds."""
    assert index is not None
    stage = index[0].start or 0
    whole = np.zeros(shape, jnp.dtype(dtype))
    leaf = leaves[stage]
    if leaf is not None:
      whole[tuple(slice(size) for size in leaf.shape)] = leaf
    return whole[index[1:]][None]

  return jax.make_array_from_callback((len(leaves), *shape), sharding, part)


def _spec(path: tuple, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  names = tuple(key.key for key in path if hasattr(key, 'key'))
  split = _MODEL_DIMENSION.get(names[-3:])
  axes = [
    model_partition(mesh, size=size) if dimension == split else None
    for dimension, size in enumerate(shape)
  ]
  return PartitionSpec(STAGE, *axes)
