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
"""The parts that every schedule's program is made of.

All of it runs inside `shard_map`, on one stage. What a stage does not do is
not computed: it stands in a conditional on which the stage decides alone, with
no message between stages inside. Where `data`, `fsdp` or `model` cut a stage
into several devices, messages among these do stand inside; they decide alike,
being one stage.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from eejax.axes import DATA, STAGE, Kind, ambient, entry_names, partition
from eejax.pipeline.skipping import IdleWork, choose
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
from eejax.types import Array, Bool, Int, Num, PyTree


@flax.struct.dataclass
class Totals:
  """Sums over the ticks of a training step, on one stage.

  Attributes:
    loss: summed.
    sums: summed.
    kept: of each head, `[rounds * M, rows, ...]`.
  """

  loss: AnyArray
  sums: PyTree
  kept: PyTree


def run_if(
  idle: IdleWork,
  predicate: Bool[Array, ''],
  run: Callable[..., PyTree],
  *operands: PyTree,
) -> PyTree:
  """Return `run(*operands)`, or zeros where the predicate is false."""
  run = jax.jit(run, inline=True)  # traced once, for its shapes and for itself
  nothing = lambda *operands: zeros_of(run, *operands)
  return choose(idle, predicate, run, nothing, *operands)


def zeros_of(run: Callable[..., PyTree], *operands: PyTree) -> PyTree:
  """Return zeros like `run(*operands)`."""
  return full_like(jax.eval_shape(run, *operands), 0)


def full_like(shapes: PyTree, value: float) -> PyTree:
  """Return arrays of one value in the shapes of a tree."""
  make = lambda s: jnp.full(
    s.shape, value if jnp.issubdtype(s.dtype, jnp.inexact) else 0, s.dtype
  )
  return jax.tree.map(make, shapes)


def add(*trees: PyTree) -> PyTree:
  """Return the sum of trees, leaf by leaf."""
  return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *trees)


def stream_shape(stage: Stage, problem: Problem) -> jax.ShapeDtypeStruct:
  """Return shape and dtype of what stages hand on."""
  params = problem.trainable.joined(problem.frozen)
  zero = jnp.zeros((), jnp.int32)
  return jax.eval_shape(
    lambda params: stage.entry(params, problem.turn(zero, zero)),
    params.pick(stage.names),
  )


# MARK: Messages


def sent(
  stream: Num[Array, 'B T D'], *, stages: int, step: int, circular: bool
) -> Num[Array, 'B T D']:
  """Hand a stream to the stage `step` away; return what this one receives.

  Unless the pipeline is circular, what leaves an end goes nowhere, and the
  other end receives zeros. The devices of a stage each send a part of T.
  """
  if stages == 1:
    return stream if circular else jnp.zeros_like(stream)
  pairs = [
    (i, (i + step) % stages)
    for i in range(stages)
    if circular or 0 <= i + step < stages
  ]
  send = lambda x: lax.ppermute(x, STAGE, pairs)
  mesh = {name: size for name, size in ambient().items() if size > 1}
  spec = partition(
    ('B', 'T', 'D'), shape=stream.shape, mesh=mesh, kind=Kind.ACTIVATION
  )
  axes = {name for entry in spec if entry for name in entry_names(entry)}
  if not axes:
    return send(stream)
  # Left to the compiler, all of a stage's devices would send all of it
  # (jaxlib 0.10.2).
  return jax.shard_map(
    send, axis_names=axes, in_specs=spec, out_specs=spec, check_vma=False
  )(stream)


# MARK: Teacher


def hear(
  stage: Stage,
  problem: Problem,
  read: PyTree,
  turn: Turn,
  received: PyTree,
  busy: Bool[Array, ''] | bool = True,
) -> Turn:
  """Return a turn with what its heads are told.

  Args:
    stage: the model.
    problem: its parameters.
    read: what the body read off.
    turn: what is worked on.
    received: what the stage behind has handed on of what it was told; None
      where the model has no teacher.
    busy: whether anything is worked on.
  """
  teacher = stage.teacher
  if teacher is None:
    return turn
  told = choose(
    stage.idle,
    teacher.asks(turn) & busy,
    lambda params, read, turn, received: teacher.run(params, read, turn),
    lambda params, read, turn, received: received,
    problem.trainable.joined(problem.frozen).pick(teacher.names),
    read,
    turn,
    received,
  )
  return dataclasses.replace(turn, told=lax.stop_gradient(told))


def nothing_told(
  stage: Stage, problem: Problem, *, idle: float = 0.0
) -> PyTree:
  """Return what stands for a teacher's words where there are none yet."""
  if stage.teacher is None:
    return None
  turn, read = _first_turn(stage, problem)
  params = problem.trainable.joined(problem.frozen).pick(stage.teacher.names)
  return full_like(jax.eval_shape(stage.teacher.run, params, read, turn), idle)


def _first_turn(stage: Stage, problem: Problem) -> tuple[Turn, PyTree]:
  """Return a turn to take shapes of, and the shapes of what a body reads."""
  zero = jnp.zeros((), jnp.int32)
  turn = problem.turn(zero, zero)
  params = problem.trainable.joined(problem.frozen).pick(stage.names)
  stream = full_like(stream_shape(stage, problem), 0)
  _, read = jax.eval_shape(
    functools.partial(advance, stage), params, stream, turn
  )
  return turn, read


# MARK: Heads


def run_heads(
  stage: Stage,
  problem: Problem,
  read: PyTree,
  turn: Turn,
  busy: Bool[Array, ''],
) -> HeadResult:
  """Return the sum of the heads' results, and what each kept in a tuple."""
  results = []
  for head in stage.heads:
    params = problem.trainable.joined(problem.frozen).pick(head.names)
    results.append(
      run_if(stage.idle, busy & head.asks(turn), head.run, params, read, turn)
    )
  return _gathered(results)


def differentiate_heads(
  stage: Stage,
  problem: Problem,
  read: PyTree,
  turn: Turn,
  busy: Bool[Array, ''],
) -> tuple[StageParams, HeadResult]:
  """Return gradients of the trainable parameters that heads have.

  Args:
    stage: the model.
    problem: its parameters.
    read: what the body read off.
    turn: what is worked on.
    busy: whether anything is.

  Returns:
    The gradients and the sum of the results.
  """
  (gradients,), result = _over_heads(stage, problem, read, turn, busy, (0,))
  return gradients, result


def pull_back_heads(
  stage: Stage,
  problem: Problem,
  read: PyTree,
  turn: Turn,
  busy: Bool[Array, ''],
) -> tuple[StageParams, PyTree, HeadResult]:
  """Return the same, and between the two the gradient of `read`."""
  (gradients, moved), result = _over_heads(
    stage, problem, read, turn, busy, (0, 1)
  )
  return gradients, moved, result


def _over_heads(stage, problem, read, turn, busy, argnums):
  total, results = [StageParams({}, {}), full_like(read, 0)], []
  for head in stage.heads:
    found, result = run_if(
      stage.idle,
      busy & head.asks(turn),
      functools.partial(_differentiate, head.run, argnums),
      problem.trainable.pick(head.names),
      problem.frozen.pick(head.names),
      read,
      turn,
    )
    total[0] = added(total[0], found[0])
    if len(found) > 1:
      total[1] = add(total[1], found[1])
    results.append(result)
  return total[: len(argnums)], _gathered(results)


def _differentiate(run, argnums, trainable, frozen, read, turn):
  """Return gradients of a head's loss, and its result."""

  def loss(trainable, read):
    result = run(trainable.joined(frozen), read, turn)
    return result.loss, result

  return jax.grad(loss, argnums=argnums, has_aux=True)(trainable, read)


def _gathered(results: list[HeadResult]) -> HeadResult:
  return HeadResult(
    loss=add(*(r.loss for r in results)),
    sums=add(*(r.sums for r in results)),
    kept=tuple(r.kept for r in results),
  )


def added(first: StageParams, second: StageParams) -> StageParams:
  """Return gradients added by name; one may have names the other lacks."""

  def merge(a, b):
    both = {k: add(a[k], b[k]) for k in a if k in b}
    return {**a, **b, **both}

  return StageParams(
    merge(first.own, second.own), merge(first.shared, second.shared)
  )


# MARK: Totals


def no_totals(stage: Stage, problem: Problem, *, slots: int) -> Totals:
  """Return totals before the first tick; `slots` is rounds times M."""
  turn, read = _first_turn(stage, problem)
  turn = dataclasses.replace(turn, told=nothing_told(stage, problem))
  result = jax.eval_shape(
    functools.partial(run_heads, stage), problem, read, turn, turn.index == 0
  )
  buffer = lambda s: jnp.zeros((slots, *s.shape), s.dtype)
  return Totals(
    loss=jnp.zeros((), jnp.float32),
    sums=full_like(result.sums, 0),
    kept=jax.tree.map(buffer, result.kept),
  )


def gather(
  totals: Totals,
  result: HeadResult,
  *,
  slot: Int[Array, ''],
  busy: Bool[Array, ''],
) -> Totals:
  """Add a tick's result, which is zeros where the stage was not busy."""

  def put(buffer, new):
    old = lax.dynamic_index_in_dim(buffer, slot, keepdims=False)
    return lax.dynamic_update_index_in_dim(
      buffer, jnp.where(busy, new, old), slot, axis=0
    )

  return Totals(
    loss=totals.loss + result.loss,
    sums=add(totals.sums, result.sums),
    kept=jax.tree.map(put, totals.kept, result.kept),
  )


# MARK: Over the mesh


def over_stages(
  run: Callable[[Problem], tuple[StageParams, Totals]],
  trainable: StageParams,
  frozen: StageParams,
  batches: PyTree,
  context: PyTree,
  *,
  mesh: Mesh | None,
  rounds: int,
) -> PipelineResult:
  """Run a program on every stage at once, and join what stages found.

  `data` is handled here as well, so that gradients are summed over it once a
  step rather than once a microbatch; `fsdp` and `model` are left to the
  compiler.

  Args:
    run: the program of one device.
    trainable: parameters to be differentiated.
    frozen: the others.
    batches: `[rows, M, ...]`.
    context: of every turn.
    mesh: has an axis `stage`; None is the ambient one.
    rounds: pieces of depth each stage holds.
  """
  sizes = (mesh or jax.sharding.get_abstract_mesh()).shape
  data = DATA if DATA in sizes else None

  def summed(tree: PyTree, *axes: str | None) -> PyTree:
    # Of an axis of one device XLA makes an error (jaxlib 0.10.2).
    over = tuple(a for a in axes if a is not None and sizes[a] > 1)
    return lax.psum(tree, over) if over else tree

  def on_device(trainable, frozen, batches, context):
    problem = Problem(_own(trainable), _own(frozen), batches, context)
    gradients, totals = run(problem)
    shape = lambda x: x.reshape(1, rounds, -1, *x.shape[1:])
    return PipelineResult(
      gradients=StageParams(
        own=jax.tree.map(lambda x: x[None], summed(gradients.own, data)),
        shared=summed(gradients.shared, STAGE, data),
      ),
      loss=summed(totals.loss, STAGE, data),
      sums=summed(totals.sums, STAGE, data),
      kept=jax.tree.map(shape, totals.kept),
    )

  # One entry may stand for a whole tree.
  whole: Any = PartitionSpec()
  split: Any = PartitionSpec(STAGE)
  kept: Any = PartitionSpec(STAGE, None, None, data)
  of_params = StageParams(own=split, shared=whole)
  # JAX's check that what leaves is equal everywhere cannot see through the
  # loops and hand-written gradients inside; all of it comes of sums.
  program = jax.shard_map(
    on_device,
    mesh=mesh,
    axis_names={STAGE} if data is None else {STAGE, data},
    in_specs=(of_params, of_params, PartitionSpec(data), whole),
    out_specs=PipelineResult(of_params, whole, whole, kept),
    check_vma=False,
  )
  return program(trainable, frozen, batches, context)


def _own(params: StageParams) -> StageParams:
  drop = lambda x: jnp.squeeze(x, 0)
  return StageParams(jax.tree.map(drop, params.own), params.shared)
