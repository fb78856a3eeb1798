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
"""A model laid over stages, and gradients taken off them again.

Blocks `[L, ...]` become `[P, n, ...]`, n those of the longest stage; what a
shorter one lacks is never run. Exits become slots: a slot is a kind of head,
and each stage has at most one exit in it, so a device holds the heads of its
own exits alone while it works. Between steps every stage keeps a part of each
exit and of its moments (`eejax.axes.parameter_spec`): before a step each
stage sends its parts to the owners, and gets its parts of the gradients after
it. The embedding, the final norm and the final head are whole on every stage,
and their gradients are summed over the stages.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from eejax.axes import EXITS, STAGE, stage_dimension
from eejax.config import EarlyExitConfig, ExitConfig
from eejax.errors import ArgumentError
from eejax.parallel.sharding import path_names
from eejax.pipeline.balance import StagePlacement
from eejax.pipeline.stage import StageParams
from eejax.types import Params, PyTree

BLOCKS = 'blocks'
_WHOLE, _SPLIT = PartitionSpec(), PartitionSpec(STAGE)
# The parts of a backbone that stages share.
SHARED = ('embedding', 'final_norm', 'head')


@dataclasses.dataclass(frozen=True)
class Slot:
  """Describe exits of one kind, at most one on each piece of depth.

  Attributes:
    name: key of its parameters.
    kind: what they have in common; the depth means nothing.
    exits: index of the exit on each piece, -1 for none.
  """

  name: str
  kind: ExitConfig
  exits: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class StageLayout:
  """Say which stage has what.

  Attributes:
    config: the model with its exits.
    placement: which piece has which blocks and exits.
    stages: P; piece p is the round p // P of stage p % P.
    slots: the exits by kind; none where exits take no part.
  """

  config: EarlyExitConfig
  placement: StagePlacement
  stages: int
  slots: tuple[Slot, ...]

  @property
  def places(self) -> int:
    """Return how many pieces there are."""
    return len(self.placement.ends)

  @property
  def rounds(self) -> int:
    """Return how many pieces each stage has."""
    return self.places // self.stages

  @property
  def longest(self) -> int:
    """Return the blocks of the longest piece."""
    return max(self.placement.blocks)

  @property
  def is_even(self) -> bool:
    """Return whether all pieces have as many blocks."""
    return min(self.placement.blocks) == self.longest

  def block_table(self) -> np.ndarray:
    """Return which block of the model each piece runs, -1 for none."""
    table = np.full((self.places, self.longest), -1, np.int32)
    pieces = zip(self.placement.starts, self.placement.blocks, strict=True)
    for row, (start, count) in zip(table, pieces, strict=True):
      row[:count] = np.arange(start, start + count)
    return table


def make_slots(
  exits: Sequence[ExitConfig], exit_places: Sequence[int], *, places: int
) -> tuple[Slot, ...]:
  """Return exits grouped by kind, at most one of a slot on each piece."""
  found: list[tuple[ExitConfig, list[int]]] = []
  for index, (e, place) in enumerate(zip(exits, exit_places, strict=True)):
    kind = dataclasses.replace(e, depth=1)
    for other, row in found:
      if other == kind and row[place] < 0:
        row[place] = index
        break
    else:
      row = [-1] * places
      row[place] = index
      found.append((kind, row))
  return tuple(
    Slot(f'slot_{i}', kind, tuple(row)) for i, (kind, row) in enumerate(found)
  )


# MARK: Onto stages


def to_stages(
  params: Params, *, layout: StageLayout, mesh: jax.sharding.Mesh | None
) -> StageParams:
  """Return a tree of parameters, or a part of one, as a pipeline has them.

  Args:
    params: with `backbone`, `exits` or both.
    layout: which stage has what.
    mesh: has an axis `stage`; None is the ambient one.
  """
  own: Params = {}
  shared: Params = {}
  if 'backbone' in params:
    backbone = params['backbone']
    if 'blocks' in backbone:
      own[BLOCKS] = _lay_blocks(backbone['blocks'], layout, mesh)
    shared = {k: backbone[k] for k in SHARED if k in backbone}
  if 'exits' in params:
    for slot in layout.slots:
      trees = _exit_trees(params['exits'], layout, slot)
      kinds = {jax.tree.structure(t) for t in trees if t is not None}
      if len(kinds) > 1:
        raise ArgumentError(
          'in a pipeline, exits of one kind are frozen together; freeze the '
          'same parameters of all of them, or use no stages.'
        )
      if any(jax.tree.leaves(t) for t in trees if t is not None):
        own[slot.name] = _lay_slot(trees, layout, mesh)
  return StageParams(own, shared)


def _exit_trees(exits: Params, layout: StageLayout, slot: Slot) -> list:
  """Return the parameters on each piece, None where it has no such exit."""
  names = [e.name for e in layout.config.exits]
  return [exits.get(names[i], {}) if i >= 0 else None for i in slot.exits]


def _lay_blocks(blocks: PyTree, layout: StageLayout, mesh) -> PyTree:
  if layout.is_even:
    return jax.tree.map(functools.partial(_cut, layout=layout), blocks)
  table = jnp.asarray(layout.block_table())

  def take(blocks):
    def one(leaf, rows):
      found = jnp.take(leaf, jnp.maximum(rows, 0), axis=0)
      has = (rows >= 0).reshape(-1, *[1] * (leaf.ndim - 1))
      return jnp.where(has, found, jnp.zeros((), leaf.dtype))

    return jax.tree.map(
      lambda leaf: _by_round(lambda place: one(leaf, table[place]), layout),
      blocks,
    )

  return _over_stages(take, mesh, out_specs=_SPLIT)(blocks)


def _cut(leaf: jax.Array, *, layout: StageLayout) -> jax.Array:
  """Cut L into rounds and stages, stages first."""
  shape = (layout.rounds, layout.stages, layout.longest, *leaf.shape[1:])
  pieces = jnp.swapaxes(leaf.reshape(shape), 0, 1)
  return pieces if layout.rounds > 1 else jnp.squeeze(pieces, 1)


def _lay_slot(trees: list, layout: StageLayout, mesh) -> PyTree:
  example = next(t for t in trees if t is not None)
  cuts = _cuts(example, mesh)
  given = [{} if t is None else t for t in trees]

  def send(cut: int, *leaves) -> jax.Array:
    if cut < 0:
      pick = lambda place: lax.switch(place, [lambda x=x: x for x in leaves])
      return _by_round(pick, layout)
    parts = jnp.stack(leaves).reshape(
      layout.rounds, layout.stages, *leaves[0].shape
    )
    whole = [
      lax.all_to_all(p, STAGE, split_axis=0, concat_axis=cut + 1, tiled=True)
      for p in parts
    ]
    return whole[0] if layout.rounds == 1 else jnp.stack(whole, axis=1)

  def select(trees):
    nothing = jax.tree.map(jnp.zeros_like, next(t for t in trees if t))
    full = [t or nothing for t in trees]
    return jax.tree.map(send, cuts, *full)

  specs = _specs(example, cuts)
  in_specs = ([specs if t else {} for t in given],)
  return _over_stages(select, mesh, in_specs=in_specs, out_specs=_SPLIT)(given)


def _cuts(exit_params: PyTree, mesh) -> PyTree:
  """Return along which dimension each leaf is kept in parts, -1 for none."""
  given = jax.sharding.get_abstract_mesh() if mesh is None else mesh

  def cut(path, leaf) -> int:
    names = (EXITS, *path_names(path))
    found = stage_dimension(names, shape=leaf.shape, mesh=dict(given.shape))
    return -1 if found is None else found

  return jax.tree_util.tree_map_with_path(cut, exit_params)


def _specs(exit_params: PyTree, cuts: PyTree) -> PyTree:
  """Return where the stages have their parts of each leaf."""
  return jax.tree.map(
    lambda leaf, cut: PartitionSpec(
      *(STAGE if i == cut else None for i in range(leaf.ndim))
    ),
    exit_params,
    cuts,
  )


def _by_round(pick: Callable, layout: StageLayout) -> PyTree:
  """Return what this stage has in each round, with leading `[1, (rounds)]`."""
  here = lax.axis_index(STAGE)
  found = [pick(r * layout.stages + here) for r in range(layout.rounds)]
  if layout.rounds == 1:
    return jax.tree.map(lambda x: x[None], found[0])
  return jax.tree.map(lambda *leaves: jnp.stack(leaves)[None], *found)


# MARK: Off them again


def from_stages(
  gradients: StageParams, *, like: Params, layout: StageLayout, mesh
) -> Params:
  """Return gradients in the tree that `to_stages` was given."""
  result: Params = {}
  if 'backbone' in like:
    result['backbone'] = dict(gradients.shared)
    if BLOCKS in gradients.own:
      blocks = _gather_blocks(gradients.own[BLOCKS], layout, mesh)
      result['backbone']['blocks'] = blocks
  if 'exits' in like:
    result['exits'] = {
      name: jax.tree.map(jnp.zeros_like, tree)
      for name, tree in like['exits'].items()
    }
    for slot in layout.slots:
      if slot.name in gradients.own:
        result['exits'].update(
          _gather_slot(gradients.own[slot.name], slot, layout, mesh)
        )
  return result


def _gather_blocks(blocks: PyTree, layout: StageLayout, mesh) -> PyTree:
  if layout.is_even:
    return jax.tree.map(functools.partial(_uncut, layout=layout), blocks)
  table = jnp.asarray(layout.block_table())
  depth = layout.placement.ends[-1]

  def put(blocks):
    here = lax.axis_index(STAGE)

    def scatter(leaf):
      pieces = leaf if layout.rounds == 1 else leaf[0]
      total = jnp.zeros((depth, *pieces.shape[2:]), leaf.dtype)
      for r in range(layout.rounds):
        rows = table[r * layout.stages + here]
        # Rows a piece does not have fall out of range.
        rows = jnp.where(rows < 0, depth, rows)
        total = total.at[rows].add(pieces[r], mode='drop')
      return _summed(total, layout)

    return jax.tree.map(scatter, blocks)

  return _over_stages(put, mesh, in_specs=_SPLIT, out_specs=_WHOLE)(blocks)


def _uncut(leaf: jax.Array, *, layout: StageLayout) -> jax.Array:
  if layout.rounds > 1:
    leaf = jnp.swapaxes(leaf, 0, 1)
  lead = 3 if layout.rounds > 1 else 2
  return leaf.reshape(-1, *leaf.shape[lead:])


def _gather_slot(tree: PyTree, slot: Slot, layout: StageLayout, mesh) -> Params:
  """Return the parts of a slot by the names of the exits."""
  owners = [(i, place) for place, i in enumerate(slot.exits) if i >= 0]
  lead = 1 if layout.rounds == 1 else 2
  example = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[lead:], x.dtype), tree
  )
  cuts = _cuts(example, mesh)

  def receive(cut: int, leaf) -> list[jax.Array]:
    """Return this stage's part of every owner's leaf, by place."""
    own = leaf if layout.rounds == 1 else leaf[0]  # [rounds, ...]
    if cut < 0:
      here = lax.axis_index(STAGE)
      return [
        _summed(jnp.where(here == s, piece, jnp.zeros_like(piece)), layout)
        for piece in own
        for s in range(layout.stages)
      ]
    return [
      part
      for piece in own
      for part in lax.all_to_all(
        piece[None], STAGE, split_axis=cut + 1, concat_axis=0, tiled=True
      )
    ]

  def select(tree):
    parts = jax.tree.map(receive, cuts, tree)
    pick = lambda place: jax.tree.map(
      lambda cut, found: found[place], cuts, parts
    )
    return {layout.config.exits[i].name: pick(place) for i, place in owners}

  specs = _specs(example, cuts)
  out_specs = {layout.config.exits[i].name: specs for i, _ in owners}
  return _over_stages(select, mesh, in_specs=_SPLIT, out_specs=out_specs)(tree)


def _summed(x: jax.Array, layout: StageLayout) -> jax.Array:
  """Sum over the stages; of one alone XLA makes an error (jaxlib 0.10.2)."""
  return lax.psum(x, STAGE) if layout.stages > 1 else x


def _over_stages(
  run: Callable,
  mesh,
  *,
  in_specs: PyTree = _WHOLE,
  out_specs: PyTree,
) -> Callable:
  return jax.shard_map(
    run,
    mesh=mesh,
    axis_names={STAGE},
    in_specs=in_specs,
    out_specs=out_specs,
    check_vma=False,
  )
