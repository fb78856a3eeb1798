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
"""One forward, one backward: memory that does not grow with microbatches.

In each tick a stage runs one microbatch forward and another backward, and the
gradient of a microbatch follows its stream after 2 (P - 1 - s) ticks, so that
a ring of 2 P - 1 places holds all that is kept. A stage hands back the
gradient of its input, which is the pull-back of (g, 1): of g, the gradient
handed back to it, and of the 1 that its own losses count. So losses on any
stage reach all stages before it with no message of their own; by induction it
is the gradient of all losses (EE-LLM's auxiliary loss, arXiv 2312.04916,
section 3).

What the last stage tells the heads of a microbatch goes back beside its
gradient: a head is run just before its backward, when the microbatch has been
at the end.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from eejax.axes import STAGE
from eejax.pipeline.cost import Keep
from eejax.pipeline.program import (
  Totals,
  added,
  full_like,
  gather,
  hear,
  no_totals,
  nothing_told,
  over_stages,
  pull_back_heads,
  run_if,
  sent,
  stream_shape,
)
from eejax.pipeline.residuals import pull_back_of, residuals_of
from eejax.pipeline.schedule import (
  Schedule,
  backward_microbatch,
  forward_microbatch,
  in_range,
  reaches,
  ring_size,
)
from eejax.pipeline.stage import (
  AnyArray,
  HeadResult,
  PipelineResult,
  Problem,
  Stage,
  StageParams,
  Turn,
  advance,
)
from eejax.types import Array, Bool, Float, PyTree


@flax.struct.dataclass
class HandedBack:
  """What a stage hands to the one before it.

  Attributes:
    gradient: of its input.
    told: what the last stage tells of the microbatch, if anything.
  """

  gradient: AnyArray
  told: PyTree = None


@flax.struct.dataclass
class _Carry:
  """State of a stage between ticks.

  Attributes:
    stream: what the stage before has sent.
    back: what the stage behind has sent.
    ring: what is kept of the microbatches under way.
    gradients: summed.
    totals: of losses.
  """

  stream: AnyArray
  back: HandedBack
  ring: PyTree
  gradients: StageParams
  totals: Totals


def one_f_one_b(
  stage: Stage,
  trainable: StageParams,
  frozen: StageParams,
  batches: PyTree,
  context: PyTree = None,
  *,
  schedule: Schedule,
  mesh: Mesh | None = None,
  keep: Keep = Keep.RESIDUALS,
  idle: float = 0.0,
) -> PipelineResult:
  """Return losses and gradients of everything trainable.

  Args:
    stage: the model.
    trainable: parameters to be differentiated.
    frozen: the others.
    batches: `[rows, M, ...]`, fillers first.
    context: of every turn.
    schedule: of kind `ONE_F_ONE_B`.
    mesh: its axis `stage` has as many devices as the schedule has stages; by
      default the ambient one.
    keep: what is kept of a microbatch. A body with nothing trainable keeps
      its inputs, whatever is said here.
    idle: what streams, gradients and the ring hold where no microbatch is;
      tests put NaN there.
  """
  if not jax.tree.leaves(trainable.pick(stage.names)):
    keep = Keep.INPUTS
  kind = _KeepInputs if keep is Keep.INPUTS else _KeepResiduals
  run = functools.partial(
    _on_stage, stage, kind=kind, schedule=schedule, idle=idle
  )
  return over_stages(
    run, trainable, frozen, batches, context, mesh=mesh, rounds=1
  )


def _on_stage(
  stage: Stage, problem: Problem, *, kind: Any, schedule: Schedule, idle: float
) -> tuple[StageParams, Totals]:
  place, stages = lax.axis_index(STAGE), schedule.stages
  count = schedule.fillers + schedule.microbatches
  size = ring_size(stages)
  kept = kind(stage, problem)
  reach = functools.partial(reaches, stages=stages, fillers=schedule.fillers)
  send = functools.partial(sent, stages=stages, circular=False)
  blank = lambda busy, x: jnp.where(busy, x, full_like(x, idle))

  def forward(carry: _Carry, t) -> _Carry:
    index = forward_microbatch(t, place)
    busy = in_range(index, count) & reach(index, place)
    if kind is _KeepInputs:
      runs = busy & (place < stages - 1)  # the backward runs the last stage
    else:
      runs = busy
    turn = problem.turn(index, place)
    stream, memory = kept.forward(carry.stream, turn, runs)
    put = lambda ring, new: lax.dynamic_update_index_in_dim(
      ring, new, index % size, axis=0
    )
    return dataclasses.replace(
      carry,
      stream=blank(runs, stream),
      ring=jax.tree.map(put, carry.ring, memory),
    )

  def backward(carry: _Carry, t) -> _Carry:
    index = backward_microbatch(t, place, stages=stages)
    busy = in_range(index, count) & reach(index, place)
    turns_here = (place == stages - 1) | ~reach(index, place + 1)
    get = lambda ring: lax.dynamic_index_in_dim(
      ring, index % size, keepdims=False
    )
    turn = problem.turn(index, place)
    gradient = jnp.where(turns_here, 0, carry.back.gradient)
    found, back, result = run_if(
      stage.idle,
      busy,
      kept.backward,
      jax.tree.map(get, carry.ring),
      dataclasses.replace(carry.back, gradient=gradient),
      turn,
    )
    return dataclasses.replace(
      carry,
      back=jax.tree.map(functools.partial(blank, busy), back),
      gradients=added(carry.gradients, found),
      totals=gather(carry.totals, result, slot=turn.index, busy=busy),
    )

  def tick(carry: _Carry, t) -> tuple[_Carry, None]:
    carry = backward(forward(carry, t), t)
    return dataclasses.replace(
      carry,
      stream=send(carry.stream, step=1),
      back=jax.tree.map(functools.partial(send, step=-1), carry.back),
    ), None

  empty = full_like(stream_shape(stage, problem), idle)
  row = jax.eval_shape(
    lambda stream: kept.forward(stream, problem.turn(place, place), place > 0),
    empty,
  )[1]
  places = lambda s: jax.ShapeDtypeStruct((size, *s.shape), s.dtype)
  start = _Carry(
    stream=empty,
    back=HandedBack(empty, nothing_told(stage, problem, idle=idle)),
    ring=full_like(jax.tree.map(places, row), idle),
    gradients=jax.tree.map(jnp.zeros_like, problem.trainable),
    totals=no_totals(stage, problem, slots=count),
  )
  end, _ = lax.scan(tick, start, jnp.arange(schedule.num_ticks))
  return end.gradients, end.totals


# MARK: What is kept


class _KeepInputs:
  """Keep a stage's input; run it forward once more to go backward."""

  def __init__(self, stage: Stage, problem: Problem):
    self._stage, self._problem = stage, problem

  def forward(
    self, stream: Float[Array, 'B T D'], turn: Turn, busy: Bool[Array, '']
  ) -> tuple[Float[Array, 'B T D'], PyTree]:
    """Return the output, and what to keep."""
    problem = self._problem
    params = problem.trainable.joined(problem.frozen).pick(self._stage.names)
    run = lambda *args: advance(self._stage, *args)[0]
    return run_if(self._stage.idle, busy, run, params, stream, turn), stream

  def backward(
    self, memory: PyTree, back: HandedBack, turn: Turn
  ) -> tuple[StageParams, HandedBack, HeadResult]:
    """Return gradients, what is handed back, and the heads' results."""
    return pull_back(self._stage, self._problem, memory, back, turn)


class _KeepResiduals:
  """Keep what the backward of the body reads, and what the heads read.

  Weights are among what it reads; they are the same for all microbatches, so
  they are taken from the parameters.
  """

  def __init__(self, stage: Stage, problem: Problem):
    self._stage, self._problem = stage, problem
    self._trainable = problem.trainable.pick(stage.names)
    self._frozen = problem.frozen.pick(stage.names)
    zero = jnp.zeros((), jnp.int32)
    stream = full_like(stream_shape(stage, problem), 0)
    # Its leaves are what there is to keep; the rest of it, which has no
    # arrays, is the program of the backward.
    _, self._pull = jax.eval_shape(
      self._run,
      self._trainable,
      self._frozen,
      stream,
      problem.turn(zero, zero),
    )

  def _run(self, trainable, frozen, stream, turn):
    body = lambda trainable, stream: advance(
      self._stage, trainable.joined(frozen), stream, turn
    )
    return jax.vjp(body, trainable, stream)

  def forward(
    self, stream: Float[Array, 'B T D'], turn: Turn, busy: Bool[Array, '']
  ) -> tuple[Float[Array, 'B T D'], PyTree]:
    """Return the output, and what to keep."""

    def run(trainable, frozen, stream, turn):
      (stream, read), pull = self._run(trainable, frozen, stream, turn)
      return stream, (read, residuals_of(pull))

    return run_if(
      self._stage.idle, busy, run, self._trainable, self._frozen, stream, turn
    )

  def backward(
    self, memory: PyTree, back: HandedBack, turn: Turn
  ) -> tuple[StageParams, HandedBack, HeadResult]:
    """Return gradients, what is handed back, and the heads' results."""
    read, residuals = memory
    turn = hear(self._stage, self._problem, read, turn, back.told)
    gradients, moved, result = pull_back_heads(
      self._stage, self._problem, read, turn, turn.index >= 0
    )
    pull = pull_back_of(residuals, weights=self._trainable, like=self._pull)
    of_body, gradient = pull((back.gradient, moved))
    handed = HandedBack(gradient, turn.told)
    return added(gradients, of_body), handed, result


def pull_back(
  stage: Stage,
  problem: Problem,
  stream: Float[Array, 'B T D'],
  back: HandedBack,
  turn: Turn,
) -> tuple[StageParams, HandedBack, HeadResult]:
  """Run a stage forward, then backward: the pull-back of (gradient, 1).

  Args:
    stage: the model.
    problem: its parameters.
    stream: what the stage was handed.
    back: gradient of what it hands on, and what the stage behind was told.
    turn: what is worked on.

  Returns:
    Gradients of the trainable parameters, what is handed back, and the
    results.
  """
  frozen = problem.frozen.pick(stage.names)
  body = lambda trainable, stream: advance(
    stage, trainable.joined(frozen), stream, turn
  )
  (_, read), pull = jax.vjp(body, problem.trainable.pick(stage.names), stream)
  turn = hear(stage, problem, read, turn, back.told)
  gradients, moved, result = pull_back_heads(
    stage, problem, read, turn, turn.index >= 0
  )
  of_body, gradient = pull((back.gradient, moved))
  handed = HandedBack(gradient, turn.told)
  return added(gradients, of_body), handed, result
