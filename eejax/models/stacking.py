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
"""Tree maps between stacked, per-block and fused parameters."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from eejax.errors import ArgumentError
from eejax.types import Params, PyTree

# Parts of a routed MLP that are MLPs themselves; see `eejax.models.experts`.
MLPS_WITHIN = {'experts', 'shared'}


def stack(blocks: Sequence[PyTree]) -> PyTree:
  """Join per-block trees into one whose leaves have a leading L."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


def unstack(stacked: PyTree) -> tuple[PyTree, ...]:
  """Split a stacked tree into one tree a block.

  Call it outside jit: a slice of a stacked argument taken inside compiles to
  a second copy of the model.
  """
  block = lambda i: jax.tree.map(lambda leaf: leaf[i], stacked)
  return tuple(block(i) for i in range(num_blocks(stacked)))


def num_blocks(stacked: PyTree) -> int:
  """Return how many blocks a stacked tree holds."""
  return jax.tree.leaves(stacked)[0].shape[0]


def truncate(params: Params, *, depth: int) -> Params:
  """Return `params` with only the first `depth` blocks of the backbone.

  Raises:
    ArgumentError: the stack has fewer blocks.
  """
  backbone = params['backbone']
  held = num_blocks(backbone['blocks'])
  if depth > held:
    raise ArgumentError(f'cannot keep {depth} of {held} blocks.')
  blocks = jax.tree.map(lambda leaf: leaf[:depth], backbone['blocks'])
  return {**params, 'backbone': {**backbone, 'blocks': blocks}}


def fuse(block: PyTree) -> PyTree:
  """Join a block's input projections, for `Projections.FUSED`.

  Query, key and value kernels meet on the heads axis, gate and up kernels on
  a new axis before F; biases likewise.
  """
  attention, mlp = dict(block['attention']), dict(block['mlp'])
  parts = [attention.pop(name) for name in ('query', 'key', 'value')]
  attention['qkv'] = jax.tree.map(
    lambda *leaves: jnp.concatenate(leaves, axis=-2), *parts
  )
  mlp = _fuse_gate_and_up(mlp)
  for name in MLPS_WITHIN & mlp.keys():
    mlp[name] = _fuse_gate_and_up(mlp[name])
  return {**block, 'attention': attention, 'mlp': mlp}


def _fuse_gate_and_up(mlp: PyTree) -> PyTree:
  if 'gate' not in mlp:
    return mlp
  mlp = dict(mlp)
  gate, up = mlp.pop('gate'), mlp.pop('up')
  both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=-2), gate, up)
  return {**mlp, 'gate_up': both}
