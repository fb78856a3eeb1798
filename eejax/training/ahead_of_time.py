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
"""Compile a training step ahead of time, with no array of its size.

A step of any model on any mesh can be compiled where the mesh has only been
simulated: shapes stand for arrays. The compiler then says what the step needs
of every device.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from eejax.config import EarlyExitConfig
from eejax.models import decoder
from eejax.parallel import sharding
from eejax.training import freeze, state
from eejax.training.device_placement import DevicePlacement
from eejax.training.freeze import Regime
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Objective
from eejax.training.step import StepConfig, make_train_step
from eejax.types import Params


@dataclasses.dataclass(frozen=True)
class StepMemory:
  """Memory that a compiled step needs on each device, in bytes.

  Attributes:
    arguments: parameters, optimizer state and the batch.
    temporary: everything that lives only during the step.
    results: what it returns beside what takes the place of an argument.
    stated_peak: what the compiler says must be free, where that is less than
      the sum: a TPU's compiles what fits by it and by the sum would not.
  """

  arguments: int
  temporary: int
  results: int
  stated_peak: int | None = None

  @property
  def peak(self) -> int:
    """Return what must be free."""
    if self.stated_peak is not None:
      return self.stated_peak
    return self.arguments + self.temporary + self.results


def compile_ahead(
  config: EarlyExitConfig,
  *,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  settings: StepConfig,
  mesh: Mesh,
  rows: int,
  length: int,
  frozen: Callable[[Params], Params] = lambda params: params,
) -> Any:
  """Return the compiled step of a run, from shapes alone.

  Args:
    config: the model with its exits.
    objective: what is minimised.
    optimizer: of what is trained.
    settings: how a step is computed.
    mesh: the devices; simulated ones will do.
    rows: of a batch, over all devices.
    length: tokens of a row.
    frozen: what is done with the parameters that stay as they are.
  """
  trainable, fixed = abstract_params(
    config, objective=objective, dtype=settings.forward.dtype
  )
  if jax.tree.leaves(fixed):
    fixed = jax.eval_shape(frozen, fixed)
  like = jax.eval_shape(
    lambda tree: state.create(tree, optimizer=optimizer), trainable
  )
  train_step = make_train_step(
    config, objective=objective, optimizer=optimizer, settings=settings
  )
  placement = DevicePlacement(mesh)
  with placement.active():
    jitted: Any = placement.compile_step(train_step, like)
    lowered = jitted.lower(
      sharding.abstract(like, mesh=mesh),
      sharding.abstract(fixed, mesh=mesh),
      abstract_batch(mesh, rows=rows, length=length),
    )
    return lowered.compile()


def step_memory(
  compiled: Any, *, device: jax.Device | None = None
) -> StepMemory:
  """Return what the compiler says a compiled step needs.

  Args:
    compiled: from `compile_ahead`.
    device: one of those it is for; None is none of a TPU.
  """
  found = compiled.memory_analysis()
  is_tpu = device is not None and device.platform == 'tpu'
  stated = found.peak_memory_in_bytes if is_tpu else None
  return StepMemory(
    arguments=found.argument_size_in_bytes,
    temporary=found.temp_size_in_bytes,
    results=found.output_size_in_bytes - found.alias_size_in_bytes,
    stated_peak=stated,
  )


def abstract_params(
  config: EarlyExitConfig, *, objective: Objective, dtype: str
) -> tuple[Params, Params]:
  """Return shapes of the trainable and the frozen parameters of a run.

  What is trained is float32; a frozen backbone has the compute dtype, and
  ends at the deepest exit where nothing looks beyond.
  """

  def make(key):
    params = decoder.init(config, key)
    params = freeze.cut_to_depth(
      params, config=config, full_depth=objective.full_depth(config)
    )
    trainable, frozen = freeze.split(params, regime=objective.regime)
    if objective.regime is Regime.TUNE:
      frozen = jax.tree.map(lambda x: x.astype(dtype), frozen)
    return trainable, frozen

  return jax.eval_shape(make, jax.random.key(0))


def abstract_batch(mesh: Mesh, *, rows: int, length: int) -> TokenBatch:
  """Return the shapes of a batch on a mesh."""
  where = sharding.batch_sharding(mesh)
  make: Any = lambda dtype: jax.ShapeDtypeStruct(
    (rows, length), dtype, sharding=where
  )
  whole, real = make(jnp.int32), make(jnp.float32)
  return TokenBatch(
    tokens=whole,
    targets=whole,
    weights=real,
    positions=whole,
    segment_ids=whole,
  )
