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

from eejax.types import Params, PyTree


@flax.struct.dataclass
class TrainState:
  """Hold everything a step changes, and nothing else.

  A frozen backbone stays outside: it is an argument of the step, so it is
  neither copied, donated nor written to a run checkpoint.

  Attributes:
    step: optimizer steps taken.
    trainable: float32 parameters the optimizer updates.
    opt_state: of the trainable leaves only.
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
    opt_state=optimizer.init(trainable),
  )
