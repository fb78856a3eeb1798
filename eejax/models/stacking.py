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

from eejax.config.state_space import StateSpaceConfig
from eejax.errors import ArgumentError
from eejax.models.layers import Projections
from eejax.models.state_space import rates_of
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


def fuse(
  block: PyTree, *, state_space: StateSpaceConfig | None = None
) -> PyTree:
  """Join a block's input projections, for `Projections.FUSED`.

  Query, key and value kernels meet on the heads axis, gate and up kernels on
  a new axis before F, those of a state-space mixer on their last; biases
  likewise. Decay rates of a mixer are there for their logarithms.

  Args:
    block: parameters of one block.
    state_space: its mixer, where it has one.
  """
  fused = dict(block)
  if 'attention' in block:
    fused['attention'] = _fuse_attention(block['attention'])
  if 'mlp' in block:
    fused['mlp'] = _fuse_mlp(block['mlp'])
  if state_space is not None:
    fused['mixer'] = _fuse_mixer(block['mixer'], state_space.fused_kernels)
  return fused


def projections_of(block: PyTree) -> Projections:
  """Return how the input projections of a block are stored."""
  fused = {'attention': 'qkv', 'mixer': 'stream', 'mlp': 'gate_up'}
  is_fused = any(name in block.get(part, ()) for part, name in fused.items())
  return Projections.FUSED if is_fused else Projections.SEPARATE


def _fuse_attention(attention: PyTree) -> PyTree:
  attention = dict(attention)
  parts = [attention.pop(name) for name in ('query', 'key', 'value')]
  attention['qkv'] = jax.tree.map(
    lambda *leaves: jnp.concatenate(leaves, axis=-2), *parts
  )
  return attention


def _fuse_mlp(mlp: PyTree) -> PyTree:
  mlp = _fuse_gate_and_up(dict(mlp))
  for name in MLPS_WITHIN & mlp.keys():
    mlp[name] = _fuse_gate_and_up(mlp[name])
  return mlp


def _fuse_gate_and_up(mlp: PyTree) -> PyTree:
  if 'gate' not in mlp:
    return mlp
  mlp = dict(mlp)
  gate, up = mlp.pop('gate'), mlp.pop('up')
  both = jax.tree.map(lambda a, b: jnp.stack([a, b], axis=-2), gate, up)
  return {**mlp, 'gate_up': both}


def _fuse_mixer(mixer: PyTree, names: Sequence[str]) -> PyTree:
  mixer = dict(mixer)
  parts = [mixer.pop(name) for name in names]
  mixer['stream'] = jax.tree.map(
    lambda *leaves: jnp.concatenate(leaves, axis=-1), *parts
  )
  for name in ('log_rates', 'head_log_rates'):
    if name in mixer:
      mixer['rates'] = rates_of(mixer.pop(name))
  return mixer
