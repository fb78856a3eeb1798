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
"""Where a run's arrays lie: on one device, or cut up on a mesh."""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from eejax.checkpoint.lazy_array import LazyArray
from eejax.data.batch import Batch
from eejax.parallel import sharding
from eejax.training import state
from eejax.training.loss_sums import LossSums, TokenBatch
from eejax.training.state import TrainState
from eejax.training.step import TrainStep, compile_train_step
from eejax.types import Params, PyTree


@dataclasses.dataclass(frozen=True)
class DevicePlacement:
  """Place what a run computes with.

  Attributes:
    mesh: the devices; None for the default device alone.
  """

  mesh: Mesh | None = None

  def active(self) -> contextlib.AbstractContextManager:
    """Return a context in which models see the mesh."""
    if self.mesh is None:
      return contextlib.nullcontext()
    return jax.set_mesh(self.mesh)

  def create_state(
    self, trainable: Params, *, optimizer: optax.GradientTransformation
  ) -> TrainState:
    """Return the state before the first step, parameters in float32.

    On one device `trainable` is copied, for a step donates its state; on a
    mesh, where it is large, it is taken over.

    Args:
      trainable: parameters of any floating dtype.
      optimizer: of them.
    """
    if self.mesh is None:
      copied = jax.tree.map(
        lambda x: jnp.array(x, jnp.float32, copy=True), trainable
      )
      return state.create(copied, optimizer=optimizer)
    trainable = self.place(trainable)

    def make(trainable: Params) -> TrainState:
      full = jax.tree.map(lambda x: x.astype(jnp.float32), trainable)
      return state.create(full, optimizer=optimizer)

    where = sharding.shardings(jax.eval_shape(make, trainable), mesh=self.mesh)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(trainable)}
    donated = (0,) if kinds == {jnp.dtype(jnp.float32)} else ()
    return jax.jit(make, out_shardings=where, donate_argnums=donated)(trainable)

  def place(self, tree: PyTree) -> PyTree:
    """Return parameters where they belong; what lies there already stays."""
    if self.mesh is None:
      return tree
    return jax.tree.map(_placed, tree, sharding.shardings(tree, mesh=self.mesh))

  def batch(self, batch: Batch, *, shares: int = 1) -> TokenBatch:
    """Return a batch on the devices.

    Args:
      batch: this host's share of the rows.
      shares: in how many shares hosts bring them; 1 where each brings all.
    """
    values = batch.as_dict()
    if self.mesh is None:
      return TokenBatch(**{k: jnp.asarray(v) for k, v in values.items()})
    where = sharding.batch_sharding(self.mesh)
    place = lambda x: jax.make_array_from_process_local_data(
      where, x, (x.shape[0] * shares, *x.shape[1:])
    )
    return TokenBatch(**{k: place(v) for k, v in values.items()})

  def compile_step(self, train_step: TrainStep, like: TrainState) -> TrainStep:
    """Return `train_step` jitted, its state donated and left where it is."""
    if self.mesh is None:
      return compile_train_step(train_step)
    where = (
      sharding.shardings(like, mesh=self.mesh),
      sharding.replicated(self.mesh),
    )
    return compile_train_step(train_step, out_shardings=where)

  def compile_sums(
    self, sums: Callable[..., LossSums]
  ) -> Callable[..., LossSums]:
    """Return a function of sums jitted; every host has its results whole."""
    if self.mesh is None:
      return jax.jit(sums)
    return jax.jit(sums, out_shardings=sharding.replicated(self.mesh))


def _placed(
  leaf: jax.Array | np.ndarray | LazyArray, where: NamedSharding
) -> jax.Array:
  """Return an array where it belongs, each device's part read for itself."""
  if isinstance(leaf, LazyArray):
    part = lambda index: leaf[index]
    return jax.make_array_from_callback(leaf.shape, where, part)
  if isinstance(leaf, jax.Array) and leaf.sharding == where:
    return leaf
  return jax.device_put(leaf, where)
