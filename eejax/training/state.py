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
"""What a training run carries from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from eejax.training import freeze
from eejax.types import Params, PyTree


@flax.struct.dataclass
class TrainState:
  """Everything a step changes, and nothing else.

  What is frozen stays outside: it is an argument of the step, so it is
  neither copied, donated nor written to a run checkpoint.

  Attributes:
    step: optimizer steps taken.
    trainable: float32 parameters the optimizer updates, `optax.MaskedNode`
      where a leaf is frozen.
    opt_state: of `freeze.freeze_around`, with leaves for what is trained.
  """

  # Not Int[Array, ''], which the tests would check: Orbax maps the state to
  # shapes and to None.
  step: Any
  trainable: Params
  opt_state: PyTree


def abstract(state: TrainState) -> TrainState:
  """Return shapes, dtypes and places of a state, to be filled by a restore."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=leaf.sharding
    ),
    state,
  )


def create(
  trainable: Params, *, optimizer: optax.GradientTransformation
) -> TrainState:
  """Return the state before the first step.

  Call it when parameters are loaded: some optimizers copy them.
  """
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    trainable=trainable,
    opt_state=freeze.freeze_around(optimizer, trainable).init(trainable),
  )


def to_checkpoint(state: TrainState) -> TrainState:
  """Return a state as a run folder keeps it: what is trained, and no mask.

  Run folders of every version have this layout.
  """
  masked, _ = state.opt_state
  return TrainState(
    step=state.step,
    trainable=freeze.without_masked(state.trainable),
    opt_state=freeze.without_masked(masked.inner_state),
  )


def from_checkpoint(kept: TrainState, *, like: TrainState) -> TrainState:
  """Return the state that `to_checkpoint` was given.

  Args:
    kept: what it returned, or what a run folder kept of it.
    like: any state of the same run.
  """
  return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(kept))
