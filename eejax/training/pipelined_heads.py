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
"""The heads of a pipelined model: exits, the final one, and what it tells."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from eejax.config import ExitConfig, GateKind, ModelConfig
from eejax.models import decoder
from eejax.models.exits import (
  ExitInput,
  apply_exit_head,
  output_kernel,
  output_matrix_name,
)
from eejax.ops.cross_entropy import (
  HeadStatistics,
  OutputHead,
  cross_entropy,
  head_statistics,
)
from eejax.pipeline.stage import Head, HeadResult, StageParams, Teacher, Turn
from eejax.training.freeze import Regime
from eejax.training.loss_sums import HeadSums, TokenBatch, no_sums
from eejax.training.losses import head_sums, token_losses, with_gate
from eejax.training.objective import Forward, Objective
from eejax.training.pipelined_layout import Slot, StageLayout
from eejax.types import Array, Params, PyTree


@dataclasses.dataclass(frozen=True)
class Lessons:
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


def lessons_of(layout: StageLayout, objective: Objective) -> Lessons:
  """Return what the exits of a step learn of the final head."""
  has_gate = any(s.kind.gate is not GateKind.NONE for s in layout.slots)
  distilled = bool(layout.slots) and objective.distillation_weight > 0
  # Where the last stage tells what it found anyway, gates are measured, too.
  gated = has_gate and (distilled or objective.gate_weight > 0)
  return Lessons(distilled=distilled, gated=gated)


# MARK: Exits


@dataclasses.dataclass(frozen=True)
class SlotHead:
  """Describe the exits in one slot.

  Attributes:
    layout: which stage has what.
    slot: the exits.
    objective: what is minimised.
    forward: how blocks are run.
    lessons: what exits learn of the final head.
  """

  layout: StageLayout
  slot: Slot
  objective: Objective
  forward: Forward
  lessons: Lessons

  def described(self) -> Head:
    """Return the head as a pipeline wants it."""
    names = {self.slot.name}
    matrix = output_matrix_name(self.slot.kind, config=self._model)
    if matrix == 'embedding':
      names.add('embedding')
    if matrix == 'final' or self.lessons.distilled:
      names.add(_final_matrix(self.layout))
    return Head(names=tuple(names), asks=self.asks, run=self.run)

  def asks(self, turn: Turn) -> Array:
    """Return whether a piece has such an exit that takes part."""
    index = self._index(turn)
    part = turn.context.takes_part[jnp.maximum(index, 0)]
    return (index >= 0) & part

  def run(self, params: StageParams, read: PyTree, turn: Turn) -> HeadResult:
    """Return the losses of one microbatch."""
    index, batch = self._index(turn), TokenBatch(**turn.batch)
    own = params.own.get(self.slot.name, {})
    position = self.layout.slots.index(self.slot)
    inputs = ExitInput(**read['exits'][position])
    found = self._statistics(own, params, inputs, turn)
    (stats,) = found.heads
    losses = batch.weights * token_losses(stats, self.objective)
    weight = turn.context.exit_weights[index] * turn.context.scale[turn.place]
    loss = weight * jnp.sum(losses)
    one = head_sums(stats, batch, None)
    if self.lessons.gates(self.slot.kind):
      top1 = found.teacher_top1
      top1 = turn.told['top1'][..., 0] if top1 is None else top1
      one = with_gate(
        one,
        own,
        inputs.hidden,
        batch,
        exit=self.slot.kind,
        config=self._model,
        agrees=stats.top1 == top1,
      )
      loss += self.objective.gate_weight * one.gate_loss
    put = lambda s, v: s.at[index].set(lax.stop_gradient(v))
    every = no_sums((len(self.layout.config.exits),))
    return HeadResult(
      loss=loss,
      sums=_sums(no_sums(()), jax.tree.map(put, every, one)),
      kept=_choices(stats, self.objective, self.layout),
    )

  @property
  def _model(self) -> ModelConfig:
    return self.layout.config.model

  def _index(self, turn: Turn) -> Array:
    return jnp.asarray(self.slot.exits, jnp.int32)[turn.place]

  def _statistics(
    self, own: Params, params: StageParams, inputs: ExitInput, turn: Turn
  ) -> HeadStatistics:
    model, batch = self._model, TokenBatch(**turn.batch)
    ready = apply_exit_head(
      own,
      inputs,
      exit=self.slot.kind,
      config=model,
      positions=batch.positions,
      segment_ids=batch.segment_ids,
    )
    tree = {'backbone': params.shared, 'exits': {self.slot.kind.name: own}}
    kernel = output_kernel(tree, exit=self.slot.kind, config=model)
    teacher = None
    if self.lessons.distilled:
      final = output_kernel(tree, exit=None, config=model)
      teacher = OutputHead(turn.told['hidden'], final, model.logit_softcap)
    return head_statistics(
      [OutputHead(ready.hidden, kernel, model.logit_softcap)],
      targets=batch.targets,
      teacher=teacher,
      temperature=self.objective.temperature,
      chunk_size=self.objective.chunk_size,
      dtype=jnp.dtype(self.forward.dtype),
    )


# MARK: The final head


def _final_matrix(layout: StageLayout) -> str:
  return 'embedding' if layout.config.model.tied_head else 'head'


def teacher_of(
  layout: StageLayout,
  objective: Objective,
  forward: Forward,
  lessons: Lessons,
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


def final_head(
  layout: StageLayout, objective: Objective, forward: Forward
) -> Head:
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
