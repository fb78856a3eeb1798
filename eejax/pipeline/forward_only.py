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

Where heads have a teacher, a stage keeps what they read until the last stage
has told what it found: in the tick in which `one_f_one_b` goes backward, heads
learn, and what was told goes one stage back.

Reference:
  EE-Tuning (arXiv 2402.00518), tuning with pipelines.
"""

import dataclasses
import functools

import flax.struct
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
  hear,
  no_totals,
  nothing_told,
  over_stages,
  run_if,
  sent,
  stream_shape,
)
from eejax.pipeline.schedule import (
  Schedule,
  backward_microbatch,
  forward_microbatch,
  in_range,
  ring_size,
)
from eejax.pipeline.stage import (
  AnyArray,
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
  on_stage = _on_stage if stage.teacher is None else _on_taught_stage
  run = functools.partial(on_stage, stage, schedule=schedule, idle=idle)
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


@flax.struct.dataclass
class _Taught:
  """State of a stage with a teacher between ticks.

  Attributes:
    stream: what the stage before has sent.
    told: what the stage behind has sent.
    ring: what heads read of the microbatches under way.
    gradients: summed.
    totals: of losses.
  """

  stream: AnyArray
  told: PyTree
  ring: PyTree
  gradients: StageParams
  totals: Totals


def _on_taught_stage(
  stage: Stage, problem: Problem, *, schedule: Schedule, idle: float
) -> tuple[StageParams, Totals]:
  place, stages = lax.axis_index(STAGE), schedule.stages
  size = ring_size(stages)
  body = functools.partial(advance, stage)
  send = functools.partial(sent, stages=stages, circular=False)
  params = problem.trainable.joined(problem.frozen).pick(stage.names)

  def forward(carry: _Taught, t) -> _Taught:
    index = forward_microbatch(t, place)
    busy = in_range(index, schedule.microbatches)
    turn = problem.turn(index, place)
    stream, read = run_if(stage.idle, busy, body, params, carry.stream, turn)
    put = lambda ring, new: lax.dynamic_update_index_in_dim(
      ring, new, index % size, axis=0
    )
    return dataclasses.replace(
      carry,
      stream=jnp.where(busy, stream, full_like(stream, idle)),
      ring=jax.tree.map(put, carry.ring, read),
    )

  def learn(carry: _Taught, t) -> _Taught:
    index = backward_microbatch(t, place, stages=stages)
    busy = in_range(index, schedule.microbatches)
    get = lambda ring: lax.dynamic_index_in_dim(
      ring, index % size, keepdims=False
    )
    read = jax.tree.map(get, carry.ring)
    turn = problem.turn(index, place)
    turn = hear(stage, problem, read, turn, carry.told, busy)
    found, result = differentiate_heads(stage, problem, read, turn, busy)
    return dataclasses.replace(
      carry,
      told=turn.told,
      gradients=added(carry.gradients, found),
      totals=gather(carry.totals, result, slot=turn.index, busy=busy),
    )

  def tick(carry: _Taught, t) -> tuple[_Taught, None]:
    carry = learn(forward(carry, t), t)
    return dataclasses.replace(
      carry,
      stream=send(carry.stream, step=1),
      told=jax.tree.map(functools.partial(send, step=-1), carry.told),
    ), None

  empty = full_like(stream_shape(stage, problem), idle)
  _, read = jax.eval_shape(body, params, empty, problem.turn(place, place))
  places = lambda s: jax.ShapeDtypeStruct((size, *s.shape), s.dtype)
  start = _Taught(
    stream=empty,
    told=nothing_told(stage, problem, idle=idle),
    ring=full_like(jax.tree.map(places, read), idle),
    gradients=jax.tree.map(jnp.zeros_like, problem.trainable),
    totals=no_totals(stage, problem, slots=schedule.microbatches),
  )
  # A microbatch goes to the end and what is told of it all the way back.
  ticks = schedule.microbatches + 2 * (stages - 1)
  end, _ = lax.scan(tick, start, jnp.arange(ticks))
  return end.gradients, end.totals
