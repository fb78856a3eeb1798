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
"""Parameters as decoding reads them, made once, outside jit.

Blocks become arguments of their own (a slice of a stack taken inside jit is a
second copy of the model), input projections are fused, everything is cast
or quantised, and each output matrix stands once, `[D, V]`.

On a mesh projections stay apart: devices that share a fused kernel's rows
would have queries of some heads and keys of others.
"""

import typing
from collections.abc import Iterator, Mapping

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from eejax.config import EarlyExitConfig
from eejax.decoding.loop import device_placement
from eejax.decoding.loop.plan import DecodePlan
from eejax.errors import ArgumentError
from eejax.models.exits import output_kernel, output_matrix_name
from eejax.models.kernel_layout import flatten_block, flatten_head
from eejax.models.quantized import quantize_block
from eejax.models.stacking import fuse, num_blocks
from eejax.ops.matmul import FlatKernel, flatten
from eejax.ops.quant import Quantization, Quantized
from eejax.parallel import sharding
from eejax.types import Array, DTypeLike, Float, Int, Params, PyTree


# Unchecked, for lowering a program fills trees with what are no arrays.
@typing.no_type_check
@flax.struct.dataclass
class Prepared:
  """Parameters of a model, ready for decoding.

  Attributes:
    table: embedding, its dtype is the compute dtype.
    position_table: of learned positions; None where there are none.
    blocks: one tree a block, projections fused, their kernels int8 or not.
    final_norm: the norm before the final head.
    exits: head and gate of each exit, by the exit's name.
    kernels: output matrices by `output_matrix_name`; shared ones stand once.
    frequent_ids: tokens that a scored vocabulary is made of, where it is.
    config: the model.
    kv_quantization: how caches hold keys and values.
    mesh: the devices that it lies on; None for the default device alone.
  """

  table: Float[Array, 'V D']
  blocks: tuple[Params, ...]
  final_norm: Params
  exits: dict[str, Params]
  kernels: dict[str, FlatKernel]
  position_table: Float[Array, 'P D'] | None = flax.struct.field(
    kw_only=True, default=None
  )
  frequent_ids: Int[Array, 'N'] | None = flax.struct.field(
    kw_only=True, default=None
  )
  config: EarlyExitConfig = flax.struct.field(pytree_node=False)
  kv_quantization: Quantization = flax.struct.field(
    pytree_node=False, default=Quantization.NONE
  )
  mesh: Mesh | None = flax.struct.field(pytree_node=False, default=None)

  @property
  def dtype(self) -> DTypeLike:
    """Return the compute dtype."""
    return self.table.dtype


def prepare(
  params: Params,
  *,
  config: EarlyExitConfig,
  dtype: DTypeLike = jnp.float32,
  quantization: Quantization = Quantization.NONE,
  kv_quantization: Quantization = Quantization.NONE,
  mesh: Mesh | None = None,
) -> Prepared:
  """Return `params` laid out for decoding.

  Args:
    params: the parameter tree; blocks may be stacked or a sequence, and
      fewer than the model has. Leaves may be views of files, of which each
      device of a mesh then reads its own part.
    config: the model with its exits.
    dtype: what everything but gates and int8 kernels is cast to.
    quantization: how kernels of the backbone's blocks are stored.
    kv_quantization: how caches hold keys and values.
    mesh: devices with the axes of `eejax.axes`; None takes those that `params`
      lie on.

  Raises:
    ArgumentError: the mesh has stages, or does not divide the heads.
  """
  if mesh is None:
    mesh = sharding.mesh_of(params)
  if mesh is not None:
    device_placement.check_mesh(mesh, config=config)
  outer = {k: v for k, v in params['backbone'].items() if k != 'blocks'}
  placed = device_placement.place_parameters(
    {'backbone': outer, 'exits': params['exits']}, mesh=mesh
  )
  embedding = placed['backbone']['embedding']
  cast = lambda tree: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
  table = embedding['table'].astype(dtype)
  prepared = Prepared(
    table=table,
    position_table=cast(embedding.get('positions')),
    blocks=tuple(
      _prepare_block(block, config, dtype, quantization, mesh)
      for block in _blocks(params['backbone']['blocks'])
    ),
    final_norm=cast(placed['backbone']['final_norm']),
    exits={
      e.name: _prepare_exit(placed['exits'].get(e.name, {}), dtype)
      for e in config.exits
    },
    kernels=_output_matrices(placed, table, config),
    config=config,
    kv_quantization=kv_quantization,
    mesh=mesh,
  )
  return device_placement.place_prepared(prepared, mesh=mesh)


def _blocks(blocks: PyTree) -> Iterator[PyTree]:
  """Yield one block after another, of a stack or a sequence."""
  if not isinstance(blocks, Mapping):
    yield from blocks
    return
  for number in range(num_blocks(blocks)):
    yield jax.tree.map(lambda leaf, i=number: leaf[i], blocks)


def check_plan(params: Prepared, plan: DecodePlan) -> None:
  """Check that the blocks a plan runs were loaded.

  Raises:
    ArgumentError: they were not.
  """
  if plan.depth > len(params.blocks):
    raise ArgumentError(
      f'this asks for {plan.depth} blocks, and {len(params.blocks)} were '
      'loaded; load the whole model, or exit earlier with threshold 0.'
    )


def _prepare_block(
  block: PyTree,
  config: EarlyExitConfig,
  dtype: DTypeLike,
  quantization: Quantization,
  mesh: Mesh | None,
) -> PyTree:
  """Return a block fused and cast, its kernels quantised before they are."""
  at = {'backbone': {'blocks': block}}
  block = device_placement.place_parameters(at, mesh=mesh)['backbone']['blocks']
  if quantization is Quantization.INT8:
    block = quantize_block(block)
  is_quantized = lambda leaf: isinstance(leaf, Quantized)
  cast = lambda leaf: leaf if is_quantized(leaf) else leaf.astype(dtype)
  block = jax.tree.map(cast, block, is_leaf=is_quantized)
  if mesh is None:
    block = fuse(block, state_space=config.model.state_space)
  return device_placement.place_prepared(flatten_block(block), mesh=mesh)


def _output_matrices(
  params: Params,
  table: Float[Array, 'V D'],
  config: EarlyExitConfig,
) -> dict[str, FlatKernel]:
  """Return output matrices; one that is the embedding's lies as it does."""
  model, matrices = config.model, {}
  tied = {'final', 'embedding'} if model.tied_head else {'embedding'}
  for exit in (None, *config.exits):
    name = output_matrix_name(exit, config=model)
    if name in tied:
      matrices[name] = FlatKernel(table, table.shape[::-1])
    elif name not in matrices:
      kernel = output_kernel(params, exit=exit, config=model)
      matrices[name] = flatten(kernel.astype(table.dtype))
  return matrices


def _prepare_exit(exit_params: Params, dtype: DTypeLike) -> Params:
  """Cast an exit's head; its gate stays exact, its matrix stands elsewhere."""
  head = {
    name: jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
    for name, tree in exit_params.items()
    if name not in ('gate', 'output')
  }
  prepared = flatten_head(head)
  if 'gate' in exit_params:
    exact = lambda leaf: leaf.astype(jnp.float32)
    prepared['gate'] = jax.tree.map(exact, exit_params['gate'])
  return prepared
