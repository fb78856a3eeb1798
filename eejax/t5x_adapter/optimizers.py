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
"""Optimizers of a part of the parameters, as t5x holds optimizers."""

from collections.abc import Mapping
from typing import Any

import flax.core
import jax
import optax
from t5x import adafactor
from t5x import optimizers as t5x_optimizers

from eejax.t5x_adapter.axes import BOTTLENECK, KV_HEADS
from eejax.training import freeze
from eejax.training.freeze import Regime
from eejax.training.optimizers import clipped_adamw
from eejax.types import Params, PyTree


class TrainedPartOptimizer(t5x_optimizers.OptaxWrapper):
  """Let an optax transformation see only what a regime trains.

  Through `optax.masked` frozen leaves have no optimizer state; they are not
  added to either, so that their bytes stay (0.0 added to -0.0 would not).
  Gradients may have `optax.MaskedNode` in place of what is frozen.

  Attributes:
    regime: what is trained.
  """

  def __init__(
    self, optimizer: optax.GradientTransformation, *, regime: Regime
  ):
    """Wrap `optimizer` for what `regime` trains."""
    super().__init__(optimizer)
    self.regime = regime

  def init_state(self, params: Any) -> Any:
    """Return the state of what is trained."""
    transformation, trainable = self._masked(params)
    return t5x_optimizers.OptimizerState(
      step=0, param_states=transformation.init(trainable)
    )

  def apply_gradient(
    self, hyper_params: Any, params: Any, state: Any, grads: Any
  ) -> tuple[Any, Any]:
    """Return new parameters and state; what is frozen is handed through."""
    del hyper_params
    transformation, trainable = self._masked(params)
    is_masked = lambda leaf: isinstance(leaf, optax.MaskedNode)
    seen = jax.tree.map(
      lambda kept, grad: kept if is_masked(kept) else grad,
      trainable,
      grads,
      is_leaf=is_masked,
    )
    updates, param_states = transformation.update(
      seen, state.param_states, params
    )
    new_params = jax.tree.map(
      lambda update, leaf: (
        leaf if is_masked(update) else optax.apply_updates(leaf, update)
      ),
      updates,
      params,
      is_leaf=is_masked,
    )
    return new_params, t5x_optimizers.OptimizerState(
      step=state.step + 1, param_states=param_states
    )

  def _masked(self, params: Any) -> tuple[optax.GradientTransformation, PyTree]:
    tree = flax.core.unfreeze(params)
    trainable: PyTree = freeze.split(tree, regime=self.regime)[0]
    if isinstance(params, flax.core.FrozenDict):
      trainable = flax.core.freeze(trainable)
    masked = freeze.freeze_around(self.optax_optimizer, trainable)
    return masked, trainable


def trained_part(
  regime: str = 'joint',
  learning_rate: optax.ScalarOrSchedule = 1e-3,
  *,
  b1: float = 0.9,
  b2: float = 0.95,
  weight_decay: float = 0.1,
  clip_norm: float | None = 1.0,
) -> TrainedPartOptimizer:
  """Return eejax's clipped AdamW for what a regime trains.

  Args:
    regime: `standard`, `joint` or `tune`.
    learning_rate: a number or an optax schedule. t5x's `learning_rate_fn` is
      only shown; give both the same.
    b1: decay of the first moment.
    b2: decay of the second moment.
    weight_decay: times the learning rate, taken off every matrix.
    clip_norm: largest global norm of the gradient; None does not clip.
  """
  optimizer = clipped_adamw(
    learning_rate,
    b1=b1,
    b2=b2,
    weight_decay=weight_decay,
    clip_norm=clip_norm,
  )
  return TrainedPartOptimizer(optimizer, regime=Regime(regime))


def logical_factor_rules() -> Mapping[str, Any]:
  """Return t5x's rules for Adafactor and those of eejax's own names."""
  return flax.core.freeze(
    {
      **adafactor.standard_logical_factor_rules(),
      KV_HEADS: adafactor.FactorDim.COLUMN,
      BOTTLENECK: adafactor.FactorDim.COLUMN,
      # Of a dimension without a name.
      None: adafactor.FactorDim.NONE,
    }
  )


def plain_tree(params: Any) -> Params:
  """Return t5x's parameters as eejax's tree.

  Exits without parameters are left out of t5x's tree, for it restores no
  empty nodes.
  """
  tree = flax.core.unfreeze(params)
  return {**tree, 'exits': tree.get('exits', {})}


def frozen_tree(params: Params) -> Any:
  """Return eejax's parameters as t5x's tree, without empty nodes."""
  kept = {name: tree for name, tree in params['exits'].items() if tree}
  whole = {**params, 'exits': kept}
  return flax.core.freeze({k: v for k, v in whole.items() if v})
