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
"""Forward alone: exits learn in the tick in which a stage computes them.

With the backbone frozen no gradient passes from a stage to the one before, so
nothing is sent back and nothing is kept of a microbatch: a stage runs its
blocks, differentiates its own exits there and then, and hands the stream on.
Stages without an exit only do the latter. Stages beyond the deepest exit are
not there: cut the backbone before it is laid over stages.

Reference:
  EE-Tuning (arXiv 2402.00518), tuning with pipelines.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from eejax.axes import STAGE
from eejax.pipeline.program import (
  Totals,
  added,
  differentiate_heads,
  full_like,
  gather,
  no_totals,
  over_stages,
  run_if,
  sent,
  stream_shape,
)
from eejax.pipeline.schedule import Schedule, forward_microbatch, in_range
from eejax.pipeline.stage import (
  PipelineResult,
  Problem,
  Stage,
  StageParams,
  advance,
)
from eejax.types import PyTree


def forward_only(
  stage: Stage,
  trainable: StageParams,
  frozen: StageParams,
  batches: PyTree,
  context: PyTree = None,
  *,
  schedule: Schedule,
  mesh: Mesh | None = None,
  idle: float = 0.0,
) -> PipelineResult:
  """Return losses and the gradients of what heads alone read.

  Args:
    stage: the model.
    trainable: no body may read any of it.
    frozen: the rest.
    batches: `[rows, M, ...]`.
    context: of every turn.
    schedule: of kind `FORWARD_ONLY`.
    mesh: its axis `stage` has as many devices as the schedule has stages; by
      default the ambient one.
    idle: what streams hold where no microbatch is; tests put NaN there.
  """
  run = functools.partial(_on_stage, stage, schedule=schedule, idle=idle)
  return over_stages(
    run, trainable, frozen, batches, context, mesh=mesh, rounds=1
  )


def _on_stage(
  stage: Stage, problem: Problem, *, schedule: Schedule, idle: float
) -> tuple[StageParams, Totals]:
  place = lax.axis_index(STAGE)
  stages = schedule.stages
  body = functools.partial(advance, stage)

  def tick(carry, t):
    stream, gradients, totals = carry
    index = forward_microbatch(t, place)
    busy = in_range(index, schedule.microbatches)
    turn = problem.turn(index, place)
    params = problem.trainable.joined(problem.frozen).pick(stage.names)
    stream, read = run_if(stage.idle, busy, body, params, stream, turn)
    stream = jnp.where(busy, stream, jnp.asarray(idle, stream.dtype))
    found, result = differentiate_heads(stage, problem, read, turn, busy)
    gradients = added(gradients, found)
    totals = gather(totals, result, slot=turn.index, busy=busy)
    stream = sent(stream, stages=stages, step=1, circular=False)
    return (stream, gradients, totals), None

  start = (
    full_like(stream_shape(stage, problem), idle),
    jax.tree.map(jnp.zeros_like, problem.trainable),
    no_totals(stage, problem, slots=schedule.microbatches),
  )
  (_, gradients, totals), _ = lax.scan(
    tick, start, jnp.arange(schedule.num_ticks)
  )
  return gradients, totals
