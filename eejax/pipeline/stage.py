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
"""What a pipeline is told of a model, and what a step gives back.

A stage is a body, which turns the stream it is handed into the one it hands
on, and heads, which turn what the body read off on the way into a loss; with
no head it is `(params, stream) -> stream`. The two are apart for a reason: a
head is computed just before its backward, so its logits never wait for it,
and gradients of weights that only heads have are made where a head is.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import flax.struct
import jax

from eejax.pipeline.skipping import IdleWork, choose
from eejax.types import Array, Bool, Float, Int, Params, PyTree

# JAX fills these trees with shapes, shardings and axes, too, so they are not
# checked when a test runs.
if TYPE_CHECKING:
  AnyArray = Array
  Named = Params
else:
  AnyArray = Any
  Named = Any


@flax.struct.dataclass
class StageParams:
  """Parameters by name; a name stands in one of the two.

  Attributes:
    own: trees of which every stage has its own: leaves are `[P, ...]`, with
      several rounds `[P, rounds, ...]`. Inside a stage the first dimension
      is gone.
    shared: trees that are whole on every stage; their gradients are summed
      over the stages.
  """

  own: Named
  shared: Named

  def pick(self, names: Iterable[str]) -> 'StageParams':
    """Return those of some names; what is not here is left out."""
    names = tuple(names)
    keep = lambda tree: {k: v for k, v in tree.items() if k in names}
    return StageParams(keep(self.own), keep(self.shared))

  def joined(self, other: 'StageParams') -> 'StageParams':
    """Return these parameters with others; a tree may have leaves in both."""
    return StageParams(
      _joined(self.own, other.own), _joined(self.shared, other.shared)
    )


def _joined(first: Any, second: Any) -> Any:
  if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
    return second
  return {
    **first,
    **{k: _joined(first[k], v) if k in first else v for k, v in second.items()},
  }


@flax.struct.dataclass
class Turn:
  """Say what a stage works on.

  Attributes:
    place: which piece of the model's depth, 0 the shallowest. With one
      round it is the number of the stage.
    index: which microbatch.
    batch: its arrays, the rows of this device.
    context: what holds for the whole step: loss weights, random keys.
    told: what the last stage tells heads of this microbatch; None where it
      tells nothing.
  """

  place: AnyArray
  index: AnyArray
  batch: PyTree
  context: PyTree
  told: PyTree = None


@flax.struct.dataclass
class HeadResult:
  """Losses of a head over a microbatch.

  Attributes:
    loss: what is differentiated, summed over tokens.
    sums: numbers to be added up over heads and microbatches; the same tree
      for all heads.
    kept: arrays to be kept of every microbatch, rows first; not
      differentiated. None for none.
  """

  loss: AnyArray
  sums: PyTree
  kept: PyTree = None


@dataclasses.dataclass(frozen=True)
class Head:
  """Describe a head that stands on some stages.

  Attributes:
    names: the parameters it reads.
    asks: `turn -> bool`: whether it stands on this stage and is wanted.
    run: `(params, read, turn) -> HeadResult`; `read` is the body's.
  """

  names: tuple[str, ...]
  asks: Callable[[Turn], Bool[Array, '']]
  run: Callable[[StageParams, PyTree, Turn], HeadResult]


@dataclasses.dataclass(frozen=True)
class Teacher:
  """Describe what the last stage tells the heads of all stages.

  It reaches a stage just before its heads go backward, and is never
  differentiated.

  Attributes:
    names: the parameters it reads.
    asks: `turn -> bool`: whether this is the stage that tells.
    run: `(params, read, turn) -> told`, arrays `[B, T, ...]`; `read` is the
      body's.
  """

  names: tuple[str, ...]
  asks: Callable[[Turn], Bool[Array, '']]
  run: Callable[[StageParams, PyTree, Turn], PyTree]


@dataclasses.dataclass(frozen=True)
class Stage:
  """Describe a model to a pipeline; one program for all stages.

  Attributes:
    names: the parameters that `entry` and `body` read.
    entry: `(params, turn) -> stream`: what the first stage starts from.
    body: `(params, stream, turn) -> (stream, read)`.
    heads: at most one of each on a stage, none anywhere allowed.
    idle: what becomes of work that a stage has not got.
    teacher: what heads are told by the last stage; None for nothing.
  """

  names: tuple[str, ...]
  entry: Callable[[StageParams, Turn], Float[Array, 'B T D']]
  body: Callable[
    [StageParams, Float[Array, 'B T D'], Turn],
    tuple[Float[Array, 'B T D'], PyTree],
  ]
  heads: tuple[Head, ...]
  idle: IdleWork = IdleWork.SKIPPED
  teacher: Teacher | None = None


@flax.struct.dataclass
class PipelineResult:
  """Result of a training step.

  Attributes:
    gradients: of the loss, like the trainable parameters.
    loss: summed over heads, microbatches and devices.
    sums: likewise.
    kept: what each head kept, `[P, rounds, M, rows, ...]`; what a stage
      without the head holds means nothing.
  """

  gradients: StageParams
  loss: AnyArray
  sums: PyTree
  kept: PyTree


@flax.struct.dataclass
class Problem:
  """Inputs of a pipeline program on one device.

  Attributes:
    trainable: parameters to be differentiated, `own` without the leading P.
    frozen: the others, likewise.
    batches: `[rows, M, ...]`, so that a batch is cut up where it lies.
    context: of every `Turn`.
  """

  trainable: StageParams
  frozen: StageParams
  batches: PyTree
  context: PyTree

  def turn(self, index: Int[Array, ''], place: Int[Array, '']) -> Turn:
    """Return a turn; an index out of range is moved to the nearest."""
    count = jax.tree.leaves(self.batches)[0].shape[1]
    index = jax.numpy.clip(index, 0, count - 1)
    pick = lambda x: jax.lax.dynamic_index_in_dim(
      x, index, axis=1, keepdims=False
    )
    return Turn(place, index, jax.tree.map(pick, self.batches), self.context)


def advance(
  stage: Stage, params: StageParams, stream: Float[Array, 'B T D'], turn: Turn
) -> tuple[Float[Array, 'B T D'], PyTree]:
  """Run the body; the shallowest piece starts from the entry instead."""
  stream = choose(
    stage.idle,
    turn.place == 0,
    lambda params, stream: stage.entry(params, turn),
    lambda params, stream: stream,
    params,
    stream,
  )
  return stage.body(params, stream, turn)
