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
from eejax.config import ExitConfig, ExitHeadKind, GateKind
from eejax.models import decoder
from eejax.models.block import Block, mlp_input_of
from eejax.models.decoder import Rematerialization
from eejax.models.exits import (
  ExitInput,
  apply_exit_head,
  output_kernel,
  output_matrix_name,
)
from eejax.models.intermediates import mlp_norm_of
from eejax.models.patterns import block_pattern
from eejax.ops.cross_entropy import (
  OutputHead,
  cross_entropy,
  head_statistics,
)
from eejax.pipeline.skipping import IdleWork, run_or_pass
from eejax.pipeline.stage import (
  Head,
  HeadResult,
  Stage,
  StageParams,
  Teacher,
  Turn,
)
from eejax.training.freeze import Regime
from eejax.training.loss_sums import HeadSums, TokenBatch, no_sums
from eejax.training.losses import head_sums, token_losses, with_gate
from eejax.training.objective import Forward, Objective
from eejax.training.pipelined_layout import BLOCKS, Slot, StageLayout
from eejax.types import Array, Float, Params, PyTree


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
class _Lessons:
  """Say what exits learn of the final head.

  Attributes:
    distilled: whether they imitate it.
    gated: whether gates are compared with where they agree with it.
  """

  distilled: bool
  gated: bool

  def gates(self, exit: ExitConfig) -> bool:
    """Return whether an exit has a gate that learns."""
    return self.gated and exit.gate is not GateKind.NONE


def _lessons_of(layout: StageLayout, objective: Objective) -> _Lessons:
  has_gate = any(s.kind.gate is not GateKind.NONE for s in layout.slots)
  distilled = bool(layout.slots) and objective.distillation_weight > 0
  # Where the last stage tells what it found anyway, gates are measured, too.
  gated = has_gate and (distilled or objective.gate_weight > 0)
  return _Lessons(distilled=distilled, gated=gated)


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


def _make_taps(layout: StageLayout, lessons: _Lessons) -> _Taps:
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
  lessons = _lessons_of(layout, objective)
  heads = [
    _exit(layout, slot, objective, forward, lessons) for slot in layout.slots
  ]
  if objective.full_depth(layout.config):
    heads.append(_final(layout, objective, forward))
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
    teacher=_teacher(layout, objective, forward, lessons),
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


# MARK: Heads


def _exit(
  layout: StageLayout,
  slot: Slot,
  objective: Objective,
  forward: Forward,
  lessons: _Lessons,
) -> Head:
  """Return the head of the exits in one slot."""
  model = layout.config.model
  position = layout.slots.index(slot)
  exit_at = lambda turn: jnp.asarray(slot.exits, jnp.int32)[turn.place]
  count = len(layout.config.exits)

  def asks(turn: Turn) -> Array:
    index = exit_at(turn)
    part = turn.context.takes_part[jnp.maximum(index, 0)]
    return (index >= 0) & part

  def run(params: StageParams, read: PyTree, turn: Turn) -> HeadResult:
    index, batch = exit_at(turn), TokenBatch(**turn.batch)
    own = params.own.get(slot.name, {})
    inputs = ExitInput(**read['exits'][position])
    ready = apply_exit_head(
      own,
      inputs,
      exit=slot.kind,
      config=model,
      positions=batch.positions,
      segment_ids=batch.segment_ids,
    )
    tree = {'backbone': params.shared, 'exits': {slot.kind.name: own}}
    head = OutputHead(
      ready.hidden,
      output_kernel(tree, exit=slot.kind, config=model),
      softcap=model.logit_softcap,
    )
    teacher = None
    if lessons.distilled:
      final = output_kernel(tree, exit=None, config=model)
      teacher = OutputHead(turn.told['hidden'], final, model.logit_softcap)
    found = head_statistics(
      [head],
      targets=batch.targets,
      teacher=teacher,
      temperature=objective.temperature,
      chunk_size=objective.chunk_size,
      dtype=jnp.dtype(forward.dtype),
    )
    (stats,) = found.heads
    loss = jnp.sum(batch.weights * token_losses(stats, objective))
    weight = turn.context.exit_weights[index] * turn.context.scale[turn.place]
    one = head_sums(stats, batch, None)
    of_gate: Any = 0.0
    if lessons.gates(slot.kind):
      top1 = found.teacher_top1
      top1 = turn.told['top1'][..., 0] if top1 is None else top1
      one = with_gate(
        one,
        own,
        inputs.hidden,
        batch,
        exit=slot.kind,
        config=model,
        agrees=stats.top1 == top1,
      )
      of_gate = objective.gate_weight * one.gate_loss
    sums = jax.tree.map(
      lambda s, v: s.at[index].set(lax.stop_gradient(v)), no_sums((count,)), one
    )
    return HeadResult(
      loss=weight * loss + of_gate,
      sums=_sums(no_sums(()), sums),
      kept=_choices(stats, objective, layout),
    )

  names = {slot.name}
  match output_matrix_name(slot.kind, config=model):
    case 'embedding':
      names.add('embedding')
    case 'final':
      names.add(_final_matrix(layout))
  if lessons.distilled:
    names.add(_final_matrix(layout))
  return Head(names=tuple(names), asks=asks, run=run)


def _final_matrix(layout: StageLayout) -> str:
  return 'embedding' if layout.config.model.tied_head else 'head'


def _teacher(
  layout: StageLayout,
  objective: Objective,
  forward: Forward,
  lessons: _Lessons,
) -> Teacher | None:
  """Return what the last stage tells exits, None where they learn without."""
  if not (lessons.distilled or lessons.gated):
    return None
  model = layout.config.model

  def run(params: StageParams, read: PyTree, turn: Turn) -> dict[str, Array]:
    backbone: Params = params.shared
    hidden = decoder.final_hidden(backbone, read['hidden'], config=model)
    if lessons.distilled:
      return {'hidden': hidden}  # [B, T, D]
    stats = cross_entropy(
      hidden,
      kernel=output_kernel({'backbone': backbone}, exit=None, config=model),
      targets=turn.batch['targets'],
      chunk_size=objective.chunk_size,
      softcap=model.logit_softcap,
      dtype=jnp.dtype(forward.dtype),
    )
    return {'top1': stats.top1[..., None]}  # [B, T, 1]

  return Teacher(
    names=('final_norm', _final_matrix(layout)),
    asks=lambda turn: turn.place == layout.places - 1,
    run=run,
  )


def _final(layout: StageLayout, objective: Objective, forward: Forward) -> Head:
  """Return the final head."""
  model = layout.config.model
  count = len(layout.config.exits)

  def run(params: StageParams, read: PyTree, turn: Turn) -> HeadResult:
    backbone: Params = params.shared
    batch = TokenBatch(**turn.batch)
    stats = cross_entropy(
      decoder.final_hidden(backbone, read['hidden'], config=model),
      kernel=output_kernel({'backbone': backbone}, exit=None, config=model),
      targets=batch.targets,
      chunk_size=objective.chunk_size,
      softcap=model.logit_softcap,
      dtype=jnp.dtype(forward.dtype),
    )
    one = head_sums(stats, batch, stats.top1)
    trains = objective.regime is not Regime.TUNE
    return HeadResult(
      loss=trains * one.loss * turn.context.scale[turn.place],
      sums=_sums(lax.stop_gradient(one), no_sums((count,))),
      kept=_choices(stats, objective, layout),
    )

  return Head(
    names=('final_norm', _final_matrix(layout)),
    asks=lambda turn: turn.place == layout.places - 1,
    run=run,
  )


def _sums(final: HeadSums, exits: HeadSums) -> dict[str, dict[str, Array]]:
  return {'final': _by_name(final), 'exits': _by_name(exits)}


def _by_name(sums: HeadSums) -> dict[str, Array]:
  """Return plain values: JAX fills trees of cotangents with marks, too."""
  names = [f.name for f in dataclasses.fields(HeadSums)]
  return {name: getattr(sums, name) for name in names}


def _choices(
  stats: Any, objective: Objective, layout: StageLayout
) -> Array | None:
  """Return the likeliest tokens where exits are compared with the end."""
  compared = layout.slots and objective.full_depth(layout.config)
  return stats.top1 if compared else None
