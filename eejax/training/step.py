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
"""One optimizer step, as a pure function of state, frozen part and batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from eejax.axes import STAGE, batch_shards, constrain
from eejax.config import EarlyExitConfig
from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError
from eejax.models.decoder import LayerDropout
from eejax.training import freeze, losses
from eejax.training.loss_sums import AnyArray, LossSums, TokenBatch
from eejax.training.objective import Forward, Objective
from eejax.training.pipelined import mesh_sizes, pipelined_gradients
from eejax.training.pipelined_config import PipelineConfig
from eejax.training.state import TrainState
from eejax.types import Array, Float, Int, Params, PyTree

# Added to the run's seed for layer dropout, so that its masks differ from
# what the same seed draws elsewhere.
_DROPOUT_STREAM = 1


@dataclasses.dataclass(frozen=True)
class StepConfig:
  """Say how a step is computed.

  Attributes:
    forward: compute dtype, rematerialization and attention kernel.
    microbatches: parts a batch is cut into, one after the other; their
      gradients add up to exactly that of the whole batch.
    layer_dropout: probability of skipping the last block; earlier blocks are
      skipped less, the first never. In [0, 1).
    layer_dropout_steps: steps over which that probability grows to its full
      value; 0 starts with it.
    seed: of the layer dropout.
    pipeline: how the ambient mesh's axis `stage` is used; None lays no blocks
      over stages.
  """

  forward: Forward = Forward()
  microbatches: int = 1
  layer_dropout: float = 0.0
  layer_dropout_steps: int = 0
  seed: int = 0
  pipeline: PipelineConfig | None = None

  def __post_init__(self):
    check_fields(self)
    if self.microbatches < 1:
      raise ArgumentError(
        f'microbatches must be at least 1, not {self.microbatches}.'
      )
    if not 0 <= self.layer_dropout < 1:
      raise ArgumentError(
        f'layer_dropout must be in [0, 1), not {self.layer_dropout}.'
      )


@flax.struct.dataclass
class StepMetrics:
  """What a step reports.

  Attributes:
    sums: losses and counts over the batch.
    grad_norm: global norm of the gradient before clipping.
  """

  sums: LossSums
  grad_norm: Float[AnyArray, '']


TrainStep = Callable[
  [TrainState, Params, TokenBatch], tuple[TrainState, StepMetrics]
]


def make_train_step(
  config: EarlyExitConfig,
  *,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  settings: StepConfig,
  mask: PyTree | None = None,
) -> TrainStep:
  """Return `(state, frozen, batch) -> (state, metrics)`, to be jitted.

  Args:
    config: the model with its exits.
    objective: what is minimised.
    optimizer: sees the trained leaves alone, through `freeze.freeze_around`.
    settings: how the step is computed.
    mask: from `freeze.train_mask`, where a stack of blocks is frozen in part.
  """

  def train_step(state, frozen, batch):
    grads, sums = gradients(
      state.trainable,
      frozen,
      batch,
      step=state.step,
      config=config,
      objective=objective,
      settings=settings,
    )
    if mask is not None:
      grads = freeze.zero_frozen_rows(grads, mask)
    updates, opt_state = freeze.freeze_around(
      optimizer, state.trainable
    ).update(grads, state.opt_state, freeze.merge(state.trainable, frozen))
    if mask is not None:
      updates = freeze.zero_frozen_rows(updates, mask)
    new_state = TrainState(
      step=state.step + 1,
      trainable=optax.apply_updates(state.trainable, updates),
      opt_state=opt_state,
    )
    return new_state, StepMetrics(sums=sums, grad_norm=optax.global_norm(grads))

  return train_step


def compile_train_step(
  train_step: TrainStep, *, out_shardings: Any = None
) -> TrainStep:
  """Return `train_step` jitted, its state donated.

  Args:
    train_step: from `make_train_step`.
    out_shardings: where state and metrics lie, as jit takes it.
  """
  return jax.jit(train_step, donate_argnums=0, out_shardings=out_shardings)


def gradients(
  trainable: Params,
  frozen: Params,
  batch: TokenBatch,
  *,
  step: Int[Array, ''] | int,
  config: EarlyExitConfig,
  objective: Objective,
  settings: StepConfig,
) -> tuple[Params, LossSums]:
  """Return the gradient of the mean objective, and the batch's sums.

  Raises:
    ArgumentError: the batch cannot be cut into the microbatches asked for.
  """
  dropout = _layer_dropout(settings, config, step)
  # Of one stage there is nothing to hand on: microbatches take turns.
  if settings.pipeline is not None and mesh_sizes()[STAGE] > 1:
    return pipelined_gradients(
      trainable,
      frozen,
      batch,
      step=step,
      config=config,
      objective=objective,
      forward=settings.forward,
      pipeline=settings.pipeline,
      microbatches=settings.microbatches,
      layer_dropout=dropout,
    )

  def one(microbatch, index):
    return jax.grad(losses.objective_sum, has_aux=True)(
      trainable,
      frozen,
      microbatch,
      config=config,
      objective=objective,
      forward=settings.forward,
      step=step,
      layer_dropout=_of_microbatch(dropout, index),
    )

  grads, sums = _accumulate(one, batch, settings.microbatches)
  scale = 1.0 / jnp.maximum(sums.tokens, 1.0)
  return jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads), sums


def _accumulate(one, batch: TokenBatch, count: int) -> tuple[PyTree, PyTree]:
  """Add up `one(microbatch, index)` over the microbatches of a batch."""
  if count == 1:
    return one(batch, jnp.zeros((), jnp.int32))
  rows = batch.tokens.shape[0]
  if rows % count:
    raise ArgumentError(
      f'a batch of {rows} rows cannot be cut into {count} microbatches.'
    )
  parts = jax.tree.map(lambda x: _in_parts(x, count), batch)
  shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts), 0)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(total, inputs):
    return jax.tree.map(jnp.add, total, one(*inputs)), None

  total, _ = jax.lax.scan(add, zeros, (parts, jnp.arange(count)))
  return total


def _in_parts(x: jax.Array, count: int) -> jax.Array:
  """Cut rows into parts so that each has rows of every device."""
  rows = x.shape[0]
  shares = batch_shards(rows)
  if rows % (shares * count):
    shares = 1
  parts = x.reshape(shares, count, rows // (shares * count), *x.shape[1:])
  parts = jnp.moveaxis(parts, 1, 0).reshape(count, rows // count, *x.shape[1:])
  return constrain(parts, (None, 'B', *[None] * (x.ndim - 1)))


def layer_dropout_rates(
  step: Int[Array, ''] | int, *, settings: StepConfig, num_layers: int
) -> Float[Array, 'L']:
  """Return the probability of skipping each block at `step`.

  p_l(t) = S(t) D(l) p_max with D(l) = exp(l ln 2 / (L - 1)) - 1 and
  S(t) = exp(t ln 2 / (T - 1)) - 1 up to T, then 1.

  Reference:
    LayerSkip (arXiv 2404.16710), section 4.1.1, eqs. 2 to 4.
  """
  layer = jnp.arange(num_layers, dtype=jnp.float32)
  by_depth = jnp.exp2(layer / max(num_layers - 1, 1)) - 1
  over_time: Float[Array, ''] | float = 1.0
  if settings.layer_dropout_steps > 1:
    progress = jnp.asarray(step, jnp.float32) / (
      settings.layer_dropout_steps - 1
    )
    over_time = jnp.exp2(jnp.minimum(progress, 1.0)) - 1
  return over_time * by_depth * settings.layer_dropout


def _layer_dropout(settings, config, step) -> LayerDropout | None:
  if settings.layer_dropout == 0:
    return None
  key = jax.random.fold_in(jax.random.key(settings.seed), _DROPOUT_STREAM)
  key = jax.random.fold_in(key, step)
  rates = layer_dropout_rates(
    step, settings=settings, num_layers=config.model.num_layers
  )
  return LayerDropout(rates=rates, key=key)


def _of_microbatch(dropout: LayerDropout | None, index) -> LayerDropout | None:
  if dropout is None:
    return None
  return LayerDropout(dropout.rates, jax.random.fold_in(dropout.key, index))
