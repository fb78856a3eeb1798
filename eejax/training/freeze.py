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
"""The frozen part of a parameter tree, masked out with `optax.masked`.

A run has one parameter tree. `train_mask` says of every leaf whether it is
trained, from the regime and from patterns of paths. `split` puts
`optax.MaskedNode`, a node without leaves, in place of what the other part
has, so that gradients are taken of the trained part alone: no backward pass
through a frozen backbone is compiled, and neither a gradient nor optimizer
state exists for a frozen leaf.
"""

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eejax.config import EarlyExitConfig, GateKind
from eejax.errors import ArgumentError
from eejax.models.stacking import num_blocks, truncate
from eejax.parallel.sharding import path_names
from eejax.types import Params, PyTree

# Names of leaves that weight decay leaves alone: norm gains and biases.
# Vectors, and the rates of state-space mixers, which are logarithms.
UNDECAYED = (
  'scale',
  'bias',
  'norm_scale',
  'step_bias',
  'skip',
  'log_rates',
  'head_log_rates',
)
_BLOCKS = ('backbone', 'blocks')


class Regime(enum.Enum):
  """What a run trains.

  STANDARD  the backbone, by the final loss
  JOINT     backbone and exits, by the final loss and every exit's
  TUNE      the exits, by their own losses; the backbone is frozen
  """

  STANDARD = 'standard'
  JOINT = 'joint'
  TUNE = 'tune'


_TRAINABLE = {
  Regime.STANDARD: ('backbone',),
  Regime.JOINT: ('backbone', 'exits'),
  Regime.TUNE: ('exits',),
}


# MARK: The mask


def train_mask(
  params: Params, *, regime: Regime, frozen: Sequence[str] = ()
) -> PyTree:
  """Return which leaves are trained.

  Args:
    params: the whole tree, arrays or shapes.
    regime: what a run trains.
    frozen: regular expressions; a leaf whose path matches one from its
      beginning to its end stays as it is. Paths read
      `backbone/embedding/table`, `backbone/blocks/3/mlp/up/kernel` and
      `exits/exit_6/mlp/up/kernel`, blocks counted from 0, also where they
      are stacked.

  Returns:
    A tree of booleans. A stack of blocks of which some are frozen has a
    boolean for each block `[L]`.

  Raises:
    ArgumentError: a pattern is no regular expression or matches no path, or
      nothing is left to train.

  Example:
    >>> params = {'backbone': {'head': 1.0}, 'exits': {}}
    >>> train_mask(params, regime=Regime.STANDARD)
    {'backbone': {'head': True}, 'exits': {}}
  """
  patterns = tuple(map(_compiled, frozen))
  unused = set(patterns)
  known: list[str] = []

  def is_trained(path: str) -> bool:
    known.append(path)
    matching = [p for p in patterns if p.fullmatch(path)]
    unused.difference_update(matching)
    return not matching

  def leaf_mask(path, leaf) -> bool | np.ndarray:
    names = path_names(path)
    if names[0] not in _TRAINABLE[regime]:
      return False
    rows = np.asarray([is_trained(p) for p in _user_paths(names, leaf)])
    return rows if rows.any() and not rows.all() else bool(rows.any())

  mask = jax.tree_util.tree_map_with_path(leaf_mask, params)
  if unused:
    raise ArgumentError(_matches_nothing(min(p.pattern for p in unused), known))
  if not any(np.any(leaf) for leaf in jax.tree.leaves(mask)):
    raise ArgumentError(_nothing_to_train(regime, bool(patterns)))
  return mask


def _compiled(pattern: str) -> re.Pattern[str]:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ArgumentError(
      f'frozen has {pattern!r}, which is no regular expression: {error}.'
    ) from error


def _user_paths(names: tuple[str, ...], leaf: Any) -> list[str]:
  """Return the path of a leaf, or of each block in a stack of them."""
  is_stacked = names[:2] == _BLOCKS and not names[2].isdigit()
  if not is_stacked:
    return ['/'.join(names)]
  return [
    '/'.join((*_BLOCKS, str(i), *names[2:])) for i in range(leaf.shape[0])
  ]


def _matches_nothing(pattern: str, known: Sequence[str]) -> str:
  numbers = [int(p.split('/')[2]) for p in known if '/blocks/' in p]
  shown = sorted(
    re.sub('/blocks/0/', f'/blocks/0..{max(numbers, default=0)}/', p)
    for p in known
    if '/blocks/' not in p or '/blocks/0/' in p
  )
  return (
    f'frozen has {pattern!r}, which matches no parameter; there are '
    f'{", ".join(shown)}.'
  )


def _nothing_to_train(regime: Regime, is_frozen: bool) -> str:
  if is_frozen:
    return 'there is nothing to train: every parameter is frozen.'
  names = ' and '.join(_TRAINABLE[regime])
  return (
    f'there is nothing to train: the regime {regime.value!r} trains {names}, '
    'and this model has no such parameters; add exits first.'
  )


def split(
  params: Params, *, regime: Regime, frozen: Sequence[str] = ()
) -> tuple[Params, Params]:
  """Return the trained and the frozen part of a parameter tree.

  Each has the structure of the whole, with `optax.MaskedNode` in place of
  what the other one has.

  Args:
    params: the whole tree.
    regime: what a run trains.
    frozen: patterns of paths, as `train_mask` takes them.

  Raises:
    ArgumentError: as of `train_mask`.
  """
  mask = train_mask(params, regime=regime, frozen=frozen)
  part = lambda kept: jax.tree.map(
    lambda m, leaf: leaf if bool(np.any(m)) is kept else optax.MaskedNode(),
    mask,
    params,
  )
  return part(True), part(False)


def merge(trainable: PyTree, frozen: PyTree) -> PyTree:
  """Return the whole tree of which these are the two parts."""
  if not jax.tree.leaves(trainable):
    return frozen
  if isinstance(trainable, Mapping) and isinstance(frozen, Mapping):
    both = {**trainable, **frozen}
    return {
      name: merge(trainable[name], frozen[name])
      if name in trainable and name in frozen
      else value
      for name, value in both.items()
    }
  if isinstance(trainable, tuple) and type(frozen) is type(trainable) is tuple:
    return tuple(map(merge, trainable, frozen))
  return trainable


def without_masked(tree: PyTree) -> PyTree:
  """Return a tree without the places that `optax.MaskedNode` holds.

  The leaves and their order are the same: `jax.tree.unflatten` with the
  structure of the tree puts them back.
  """
  if isinstance(tree, Mapping):
    return {
      name: without_masked(part)
      for name, part in tree.items()
      if jax.tree.leaves(part) or not _is_masked(name, part)
    }
  if isinstance(tree, tuple) and hasattr(tree, '_fields'):
    return type(tree)(*map(without_masked, tree))
  if isinstance(tree, (tuple, list)):
    return type(tree)(map(without_masked, tree))
  return tree


def _is_masked(name: str, part: PyTree) -> bool:
  # An exit that shares its output matrix may have no parameters, and stays.
  is_masked = lambda x: isinstance(x, optax.MaskedNode)
  no_exits = name == 'exits' and not part
  return no_exits or bool(jax.tree.leaves(part, is_leaf=is_masked))


# MARK: The optimizer


def freeze(
  optimizer: optax.GradientTransformation, *, mask: PyTree
) -> optax.GradientTransformation:
  """Let `optimizer` see only the leaves where `mask` is true.

  `optax.masked` alone passes the updates of the other leaves on as they are,
  and a trainer that differentiates the whole tree would apply raw gradients
  to what is frozen; the second link sets them to zero. Where the gradients
  have `optax.MaskedNode` there, nothing is allocated.

  Args:
    optimizer: of what is trained.
    mask: a boolean for each leaf.
  """
  frozen = jax.tree.map(lambda trained: not trained, mask)
  return optax.chain(
    optax.masked(optimizer, mask), optax.masked(optax.set_to_zero(), frozen)
  )


def freeze_around(
  optimizer: optax.GradientTransformation, trainable: PyTree
) -> optax.GradientTransformation:
  """Return `freeze` with the mask of a trained part, as `split` returns it."""
  is_masked = lambda x: isinstance(x, optax.MaskedNode)
  mask = jax.tree.map(
    lambda leaf: not is_masked(leaf), trainable, is_leaf=is_masked
  )
  return freeze(optimizer, mask=mask)


def zero_frozen_rows(tree: Params, mask: PyTree) -> Params:
  """Return gradients or updates that are zero for frozen blocks of a stack.

  Such a stack costs what it would if it were trained whole: gradients and
  moments of every block. Freeze all blocks, or none, to pay for what is
  trained alone.

  Args:
    tree: like the trained part.
    mask: from `train_mask`.
  """

  def keep(rows, leaf):
    if np.ndim(rows) == 0 or isinstance(leaf, optax.MaskedNode):
      return leaf
    rows = rows.reshape(-1, *[1] * (leaf.ndim - 1))
    # Added to anything, -0.0 leaves every bit as it is; 0.0 would turn -0.0.
    return jnp.where(rows, leaf, jnp.asarray(-0.0, leaf.dtype))

  return jax.tree.map(keep, mask, tree)


def decay_mask(params: PyTree) -> PyTree:
  """Return true for the leaves that weight decay applies to."""

  def decays(path, _):
    return path[-1].key not in UNDECAYED

  return jax.tree_util.tree_map_with_path(decays, params)


# MARK: The depth


def needs_full_depth(
  config: EarlyExitConfig,
  *,
  regime: Regime,
  distillation_weight: float = 0.0,
  gate_weight: float = 1.0,
) -> bool:
  """Return whether a step needs the final head's distribution.

  Tuning does only where exits imitate it, or gates predict agreement with it;
  else it stops at the deepest exit.
  """
  gated = any(e.gate is not GateKind.NONE for e in config.exits)
  return (
    regime is not Regime.TUNE
    or distillation_weight > 0
    or (gated and gate_weight > 0)
  )


def cut_to_depth(
  params: Params, *, config: EarlyExitConfig, full_depth: bool
) -> Params:
  """Drop blocks above the deepest exit unless the run needs them.

  Call it once, outside jit: a slice taken inside would be a second copy of
  the backbone in every step.
  """
  if full_depth:
    held = num_blocks(params['backbone']['blocks'])
    if held < config.model.num_layers:
      raise ArgumentError(
        f'this run needs all {config.model.num_layers} blocks, and only '
        f'{held} were loaded.'
      )
    return params
  return truncate(params, depth=config.deepest_exit)
