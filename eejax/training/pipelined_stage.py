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
"""What one stage of a pipelined model computes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eejax.axes import DATA
from eejax.config import ExitHeadKind
from eejax.models import decoder
from eejax.models.block import Block, mlp_input_of
from eejax.models.decoder import Rematerialization
from eejax.models.intermediates import mlp_norm_of
from eejax.models.patterns import block_pattern
from eejax.pipeline.skipping import IdleWork, run_or_pass
from eejax.pipeline.stage import Stage, StageParams, Turn
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Forward, Objective
from eejax.training.pipelined_heads import (
  Lessons,
  SlotHead,
  final_head,
  lessons_of,
  teacher_of,
)
from eejax.training.pipelined_layout import BLOCKS, StageLayout
from eejax.types import Array, Float, PyTree


@flax.struct.dataclass
class StepContext:
  """Inputs that all microbatches of a step share.

  Attributes:
    exit_weights: weight of each exit's loss, 0 where it does not take part.
    takes_part: whether each exit takes part in the step.
    scale: of the losses on each piece, 1 without fillers.
    dropout: key of the step and rate of each block, for random skipping.
  """

  exit_weights: PyTree
  takes_part: PyTree
  scale: PyTree
  dropout: tuple[PyTree, PyTree] | None


@dataclasses.dataclass(frozen=True)
class _Taps:
  """Say where the exits of each piece read, as tables over the pieces.

  A piece keeps streams in one buffer and, for MLP exits, residuals in
  another, a row for each slot and a spare one; see
  `eejax.models.intermediates`.

  Attributes:
    streams: slots that read the stream, by their row.
    residuals: slots of MLP exits, by their row.
    stream_rows: row that each block of each piece writes, `[P, n]`.
    residual_rows: likewise.
    starts: whether a slot reads the stream its piece starts from,
      `[P, slots]`.
    last_block: block of the piece that a slot reads behind, `[P, slots]`.
  """

  streams: tuple[int, ...]
  residuals: tuple[int, ...]
  stream_rows: np.ndarray
  residual_rows: np.ndarray
  starts: np.ndarray
  last_block: np.ndarray


def _make_taps(layout: StageLayout, lessons: Lessons) -> _Taps:
  is_mlp = [s.kind.head is ExitHeadKind.MLP for s in layout.slots]
  reads_stream = [
    not mlp or lessons.gates(s.kind)
    for mlp, s in zip(is_mlp, layout.slots, strict=True)
  ]
  streams = tuple(i for i, reads in enumerate(reads_stream) if reads)
  residuals = tuple(i for i, mlp in enumerate(is_mlp) if mlp)
  places = layout.places
  stream_rows = np.full((places, layout.longest), len(streams), np.int32)
  residual_rows = np.full((places, layout.longest), len(residuals), np.int32)
  starts = np.zeros((places, len(layout.slots)), bool)
  last_block = np.zeros((places, len(layout.slots)), np.int32)
  for j, slot in enumerate(layout.slots):
    for place, index in enumerate(slot.exits):
      if index < 0:
        continue
      depth = layout.config.exits[index].depth
      local = depth - layout.placement.starts[place]
      if local == 0:
        starts[place, j] = True
        continue
      last_block[place, j] = local - 1
      if is_mlp[j]:
        residual_rows[place, local - 1] = residuals.index(j)
      if reads_stream[j]:
        stream_rows[place, local - 1] = streams.index(j)
  return _Taps(
    streams, residuals, stream_rows, residual_rows, starts, last_block
  )


def make_stage(
  layout: StageLayout,
  *,
  objective: Objective,
  forward: Forward,
  idle: IdleWork = IdleWork.SKIPPED,
) -> Stage:
  """Return the model as a pipeline wants it.

  Args:
    layout: which stage has what.
    objective: what is minimised.
    forward: how blocks are run.
    idle: what becomes of work that a stage has not got.
  """
  lessons = lessons_of(layout, objective)
  heads = [
    SlotHead(layout, slot, objective, forward, lessons).described()
    for slot in layout.slots
  ]
  if objective.full_depth(layout.config):
    heads.append(final_head(layout, objective, forward))
  dtype = jnp.dtype(forward.dtype)

  def entry(params: StageParams, turn: Turn) -> Float[Array, 'B T D']:
    return decoder.embed(
      params.shared,
      turn.batch['tokens'],
      positions=turn.batch['positions'],
      config=layout.config.model,
      dtype=dtype,
    )

  return Stage(
    names=(BLOCKS, 'embedding'),
    entry=entry,
    body=functools.partial(
      _body, layout, _make_taps(layout, lessons), forward, idle
    ),
    heads=tuple(heads),
    idle=idle,
    teacher=teacher_of(layout, objective, forward, lessons),
  )


# MARK: Body


def _body(
  layout: StageLayout,
  taps: _Taps,
  forward: Forward,
  idle: IdleWork,
  params: StageParams,
  x: Float[Array, 'B T D'],
  turn: Turn,
) -> tuple[Float[Array, 'B T D'], PyTree]:
  """Run the blocks of a piece; return the stream and what heads read."""
  blocks = params.own[BLOCKS]
  of_place = lambda table: jnp.asarray(table)[turn.place]
  run = _run_block(layout, forward, idle, turn)
  model = layout.config.model
  pattern = block_pattern(model, model.num_layers)
  table = layout.block_table()
  scanned = {
    'block': blocks,
    'stream_row': of_place(taps.stream_rows),
    'residual_row': of_place(taps.residual_rows),
    'has': of_place(table >= 0),
    'pattern': jax.tree.map(of_place, pattern[table]),
    'skip': _skips(turn, of_place(np.maximum(table, 0))),
  }

  def step(carry, scanned):
    x, streams, residuals = carry
    hidden, residual = run(scanned, x)
    if scanned['skip'] is not None:
      key, rate = scanned['skip']
      runs = jax.random.bernoulli(key, 1 - rate, (x.shape[0], 1, 1))
      hidden = jnp.where(runs, hidden, x)
    put = lax.dynamic_update_index_in_dim
    if streams is not None:
      streams = put(streams, hidden, scanned['stream_row'], axis=0)
    if residuals is not None:
      residuals = put(residuals, residual, scanned['residual_row'], axis=0)
    return (hidden, streams, residuals), None

  start = (x, _buffer(taps.streams, x), _buffer(taps.residuals, x))
  (hidden, streams, residuals), _ = lax.scan(step, start, scanned)
  read = []
  for j in range(len(layout.slots)):
    inputs = {}
    if j in taps.streams:
      tapped = streams[taps.streams.index(j)]
      inputs['hidden'] = jnp.where(of_place(taps.starts)[j], x, tapped)
    if j in taps.residuals:
      residual = residuals[taps.residuals.index(j)]
      norm = mlp_norm_of(blocks, of_place(taps.last_block)[j])
      mlp_input = mlp_input_of(norm, residual, config=model)
      inputs |= {'mlp_residual': residual, 'mlp_input': mlp_input}
    read.append(inputs)
  return hidden, {'exits': tuple(read), 'hidden': hidden}


def _buffer(slots: tuple[int, ...], x: Array) -> Any:
  if not slots:
    return None
  return jnp.zeros((len(slots) + 1, *x.shape), x.dtype)


def _run_block(
  layout: StageLayout, forward: Forward, idle: IdleWork, turn: Turn
) -> Callable:
  """Return `(scanned, x) -> (hidden, residual)` of one block of a piece."""
  block = Block(layout.config.model, forward.implementation)
  batch = TokenBatch(**turn.batch)
  if layout.is_even:
    run = decoder.block_function(
      block, batch.positions, batch.segment_ids, forward.rematerialization
    )

    def every(scanned, x):
      output = run(scanned['block'], x, scanned['pattern'])
      return output.hidden, output.mlp_residual

    return every

  def some(scanned, x):
    given = (batch.positions, batch.segment_ids, scanned['pattern'])
    return run_or_pass(
      idle,
      functools.partial(_apply, block),
      _pass,
      scanned['has'],
      (scanned['block'], x),
      given,
    )

  return some


def _apply(block: Block, inputs, given) -> tuple[Array, Array]:
  (params, x), (positions, segment_ids, pattern) = inputs, given
  run = decoder.block_function(
    block, positions, segment_ids, Rematerialization.NONE
  )
  output = run(params, x, pattern)
  return output.hidden, output.mlp_residual


def _pass(inputs) -> tuple[Array, Array]:
  return inputs[1], inputs[1]


def _skips(turn: Turn, rows: Array) -> tuple[Array, Array] | None:
  """Return a random key and a rate for each block of a piece, if any."""
  dropout = turn.context.dropout
  if dropout is None:
    return None
  key, rates = dropout
  key = jax.random.fold_in(key, turn.index)
  if DATA in jax.sharding.get_abstract_mesh().manual_axes:
    # Each copy of the model has rows of its own.
    key = jax.random.fold_in(key, lax.axis_index(DATA))
  keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)
  return keys, rates[rows]
