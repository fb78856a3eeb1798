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
"""GPipe, and its form with several short pieces of depth a stage.

The forward sweep is written out, the backward one is JAX's derivative of it: a
message that goes one way is differentiated into one that goes back. A stage
keeps the input of each microbatch and runs forward once more to go backward.
Idle ticks are skipped both ways.

In the interleaved form stage s holds the pieces s, s + P, s + 2 P ... of the
depth, and a microbatch goes round the stages once a piece; a bubble is then
P - 1 pieces long instead of P - 1 stages.

Heads are run in the forward sweep, before the last stage has seen anything, so
there is no teacher here.

Reference:
  GPipe (arXiv 1811.06965), section 2.2; interleaved stages, Megatron-LM (arXiv
  2104.04473), section 2.2.2.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from eejax.axes import STAGE
from eejax.pipeline.one_f_one_b import HandedBack, pull_back
from eejax.pipeline.program import (
  Totals,
  full_like,
  gather,
  no_totals,
  over_stages,
  run_heads,
  run_if,
  sent,
  stream_shape,
)
from eejax.pipeline.schedule import Schedule, circular_work
from eejax.pipeline.stage import (
  PipelineResult,
  Problem,
  Stage,
  StageParams,
  advance,
)
from eejax.types import PyTree


def gpipe(
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
  """Return losses and gradients of everything trainable.

  Args:
    stage: the model.
    trainable: parameters to be differentiated; with several rounds, leaves of
      `own` are `[P, rounds, ...]`.
    frozen: the others, likewise.
    batches: `[rows, M, ...]`.
    context: of every turn.
    schedule: of kind `GPIPE` or `INTERLEAVED`.
    mesh: its axis `stage` has as many devices as the schedule has stages; by
      default the ambient one.
    idle: what streams hold where no microbatch is; tests put NaN there.
  """
  run = functools.partial(_on_stage, stage, schedule=schedule, idle=idle)
  return over_stages(
    run,
    trainable,
    frozen,
    batches,
    context,
    mesh=mesh,
    rounds=schedule.rounds,
  )


def _on_stage(
  stage: Stage, problem: Problem, *, schedule: Schedule, idle: float
) -> tuple[StageParams, Totals]:
  here, rounds = lax.axis_index(STAGE), schedule.rounds
  slots = rounds * schedule.microbatches
  if rounds > 1:
    # As many as the body of one piece reads.
    shaped = _of_round(problem, jnp.zeros((), jnp.int32))
  else:
    shaped = problem

  def sweep(trainable: StageParams) -> tuple[jax.Array, Totals]:
    whole = dataclasses.replace(problem, trainable=trainable)

    def tick(carry, t):
      stream, totals = carry
      busy, index, round_ = circular_work(t, here, schedule=schedule)
      place = round_ * schedule.stages + here
      piece = _of_round(whole, round_) if rounds > 1 else whole
      given = dataclasses.replace(piece, trainable=StageParams({}, {}))
      stream, result = _work(
        stage, piece.trainable, stream, given, (busy, index, place)
      )
      stream = jnp.where(busy, stream, jnp.asarray(idle, stream.dtype))
      slot = jnp.clip(round_ * schedule.microbatches + index, 0, slots - 1)
      totals = gather(totals, result, slot=slot, busy=busy)
      stream = sent(stream, stages=schedule.stages, step=1, circular=rounds > 1)
      return (stream, totals), None

    start = (
      full_like(stream_shape(stage, shaped), idle),
      no_totals(stage, shaped, slots=slots),
    )
    ticks = jnp.arange(schedule.forward_ticks)
    (_, totals), _ = lax.scan(tick, start, ticks)
    return totals.loss, totals

  return jax.grad(sweep, has_aux=True)(problem.trainable)


def _of_round(problem: Problem, round_: Any) -> Problem:
  """Return the parameters of one of a stage's pieces."""
  pick = lambda x: lax.dynamic_index_in_dim(x, round_, keepdims=False)
  of = lambda params: StageParams(jax.tree.map(pick, params.own), params.shared)
  return dataclasses.replace(
    problem, trainable=of(problem.trainable), frozen=of(problem.frozen)
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _work(stage, trainable, stream, given, when):
  """Do what a stage does in a tick.

  Its derivative is written out, for that of a conditional would hand weights
  from its forward to its backward as if they were results, a copy a tick.

  Args:
    stage: the model.
    trainable: parameters.
    stream: what was handed on.
    given: the problem, but for what is trainable.
    when: whether the stage is busy, the microbatch and the place.

  Returns:
    The stream to hand on, and the results of the heads.
  """
  busy, index, place = when
  problem = dataclasses.replace(given, trainable=trainable)

  def run(problem, stream, turn):
    params = problem.trainable.joined(problem.frozen)
    stream, read = advance(stage, params.pick(stage.names), stream, turn)
    return stream, run_heads(stage, problem, read, turn, turn.index >= 0)

  return run_if(
    stage.idle, busy, run, problem, stream, problem.turn(index, place)
  )


def _work_to_keep(stage, trainable, stream, given, when):
  inputs = (trainable, stream, given, when)
  return _work(stage, *inputs), inputs


def _work_back(stage, inputs, cotangents):
  trainable, stream, given, (busy, index, place) = inputs
  # A step's loss is the sum of all losses, so each of them counts 1.
  gradient, _ = cotangents
  problem = dataclasses.replace(given, trainable=trainable)

  def run(problem, stream, gradient, turn):
    found, back, _ = pull_back(
      stage, problem, stream, HandedBack(gradient), turn
    )
    nothing = jax.tree.map(jnp.zeros_like, problem.trainable)
    return nothing.joined(found), back.gradient

  turn = problem.turn(index, place)
  return (
    *run_if(stage.idle, busy, run, problem, stream, gradient, turn),
    None,
    None,
  )


_work.defvjp(_work_to_keep, _work_back)
