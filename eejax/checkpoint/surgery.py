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
"""Add, extend and drop exits on a parameter tree.

Only `params['exits']` changes; the backbone is passed on as it is.

Reference:
  EE-LLM (arXiv 2312.04916) and EE-Tuning (arXiv 2402.00518), initialisation
  of early-exit layers.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from eejax.checkpoint import tree
from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  Initialization,
  ModelConfig,
  OutputMatrix,
)
from eejax.errors import ArgumentError
from eejax.models.exits import init_exit
from eejax.types import Params, PyTree


def add_exits(
  params: Params,
  config: EarlyExitConfig,
  exits: Iterable[ExitConfig],
  *,
  initialization: Initialization = Initialization.COPY,
  key: jax.Array,
) -> tuple[Params, EarlyExitConfig]:
  """Add exits to those that are there.

  An exit's parameters depend on the backbone, `key` and its own depth, not on
  which other exits there are. They have the dtype of the backbone and share
  no memory with it. Under `COPY`

    norm        is the final norm
    mlp         is the MLP of the block below the exit
    block       is the last block
    bottleneck  adds nothing yet: its last matrix is zero
    output      is the final head, or the embedding table where that is tied

  and under either a gate is undecided, giving 0.

  Args:
    params: the whole tree, blocks stacked or not; every block that is copied
      must be there.
    config: the model and the exits it has.
    exits: what to add.
    initialization: how the new parameters start.
    key: random key.

  Returns:
    The tree and the configuration with all exits.

  Raises:
    ArgumentError: an exit is at a depth that is taken or beyond the model, or
      a block to be copied is not loaded.
  """
  exits = tuple(exits)
  config = planned(config, add=exits)
  added = {
    exit.name: new_exit(
      params,
      config.model,
      exit=exit,
      initialization=initialization,
      key=jax.random.fold_in(key, exit.depth),
    )
    for exit in exits
  }
  return {**params, 'exits': {**params['exits'], **added}}, config


def drop_exits(
  params: Params, config: EarlyExitConfig, depths: Iterable[int]
) -> tuple[Params, EarlyExitConfig]:
  """Remove the exits at `depths`; the others stay as they are.

  Raises:
    ArgumentError: there is no exit at one of the depths.
  """
  config = planned(config, drop=depths)
  kept = {e.name: params['exits'].get(e.name, {}) for e in config.exits}
  return {**params, 'exits': kept}, config


def planned(
  config: EarlyExitConfig,
  *,
  add: Iterable[ExitConfig] = (),
  drop: Iterable[int] = (),
) -> EarlyExitConfig:
  """Return the configuration after `drop` and then `add`.

  Raises:
    ArgumentError: there is no exit to drop, or an exit to add is at a depth
      that is taken or beyond the model.
  """
  dropped = [config.exit_at(depth) for depth in drop]
  exits = [e for e in config.exits if e not in dropped]
  for exit in add:
    if exit.depth in {e.depth for e in exits}:
      raise ArgumentError(
        f'there is already an exit at depth {exit.depth}; drop it first or '
        'choose another depth.'
      )
    exits.append(exit)
  return config.with_exits(tuple(exits))


def blocks_read(
  config: EarlyExitConfig,
  added: Iterable[ExitConfig],
  initialization: Initialization,
) -> int:
  """Return how many blocks must be loaded to add exits to a checkpoint.

  Args:
    config: the model with all its exits, the new ones too.
    added: the new ones.
    initialization: how they start.
  """
  is_block = any(e.head is ExitHeadKind.BLOCK for e in added)
  if is_block and initialization is Initialization.COPY:
    return config.model.num_layers
  return config.deepest_exit


def new_exit(
  params: Params,
  config: ModelConfig,
  *,
  exit: ExitConfig,
  initialization: Initialization,
  key: jax.Array,
) -> Params:
  """Return the parameters of one new exit; see `add_exits`."""
  dtype = jnp.dtype(params['backbone']['final_norm']['scale'].dtype)
  init = lambda k: init_exit(k, exit=exit, config=config, dtype=dtype)
  if initialization is Initialization.RANDOM:
    return jax.jit(init)(key)
  copied = _copied(params, config, exit)
  # Only the parts that cannot be copied are made, the rest may be large.
  random = jax.eval_shape(init, key).keys() - copied.keys()
  fresh = jax.jit(lambda k: {name: init(k)[name] for name in random})(key)
  if exit.head is ExitHeadKind.BOTTLENECK_MLP:
    up = jax.tree.map(jnp.zeros_like, fresh['bottleneck']['up'])
    fresh['bottleneck'] = {
      'down': fresh['bottleneck']['down'],
      'norm': _copy(params['backbone']['final_norm']),
      'up': up,
    }
  return {**copied, **fresh}


def _copied(params: Params, config: ModelConfig, exit: ExitConfig) -> Params:
  """Return the parts of a new exit that the backbone has already."""
  copied = {}
  if exit.head is not ExitHeadKind.EMBEDDING:
    copied['norm'] = _copy(params['backbone']['final_norm'])
  if exit.head is ExitHeadKind.MLP:
    block = _block(params, exit.depth - 1)
    parts = [name for name in ('mlp', 'mlp_post_norm') if name in block]
    copied |= {name: _copy(block[name]) for name in parts}
  if exit.head is ExitHeadKind.BLOCK:
    copied['block'] = _copy(_block(params, config.num_layers - 1))
  if exit.output is OutputMatrix.UNTIED:
    copied['output'] = {'kernel': _copy(_head(params['backbone'], config))}
  return copied


def _block(params: Params, index: int) -> PyTree:
  loaded = tree.count_blocks(params)
  if index >= loaded:
    raise ArgumentError(
      f'block {index + 1} is to be copied, but only {loaded} are loaded.'
    )
  return tree.block(params, index)


def _head(backbone: Params, config: ModelConfig) -> PyTree:
  if config.tied_head:
    return backbone['embedding']['table'].T
  return backbone['head']['kernel']


def _copy(source: PyTree) -> PyTree:
  return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), source)
