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
"""Which parameters learn, and optimizers that know of no others.

A tree is split before anything is differentiated: gradients are taken of the
trainable part alone, so that no backward pass through a frozen backbone is
compiled, and neither a gradient nor optimizer state exists for a frozen leaf
(design 5.6).
"""

import enum

import jax
import optax

from eejax.config import EarlyExitConfig, GateKind
from eejax.errors import ArgumentError
from eejax.models.stacking import num_blocks, truncate
from eejax.types import Params, PyTree

# Names of leaves that weight decay leaves alone: norm gains and biases.
UNDECAYED = ('scale', 'bias')


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


def split(params: Params, *, regime: Regime) -> tuple[Params, Params]:
  """Return the trainable and the frozen part of a parameter tree."""
  names = _TRAINABLE[regime]
  trainable = {k: v for k, v in params.items() if k in names}
  frozen = {k: v for k, v in params.items() if k not in names}
  if not jax.tree.leaves(trainable):
    raise ArgumentError(
      f'there is nothing to train: the regime {regime.value!r} trains '
      f'{" and ".join(names)}, and this model has no such parameters; add '
      'exits first.'
    )
  return trainable, frozen


def merge(trainable: Params, frozen: Params) -> Params:
  """Join what `split` has parted."""
  return {**frozen, **trainable}


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


def decay_mask(params: PyTree) -> PyTree:
  """Return true for the leaves that weight decay applies to."""

  def decays(path, _):
    return path[-1].key not in UNDECAYED

  return jax.tree_util.tree_map_with_path(decays, params)


def trainable_mask(params: Params, *, regime: Regime) -> PyTree:
  """Return true for every trainable leaf of a whole tree."""
  names = _TRAINABLE[regime]
  return {
    name: jax.tree.map(lambda _, trained=name in names: trained, part)
    for name, part in params.items()
  }


def freeze(
  optimizer: optax.GradientTransformation, *, mask: PyTree
) -> optax.GradientTransformation:
  """Let `optimizer` see only the leaves where `mask` is true.

  For trainers that insist on updating a whole tree. `optax.masked` alone
  passes raw gradients of the other leaves through, and they would be applied;
  the second link sets them to zero.
  """
  frozen = jax.tree.map(lambda trained: not trained, mask)
  return optax.chain(
    optax.masked(optimizer, mask), optax.masked(optax.set_to_zero(), frozen)
  )
