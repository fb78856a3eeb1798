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
"""Gradients of a step whose blocks are laid over pipeline stages.

The contract is that of `eejax.training.step.gradients`: the gradient of the
mean objective, and sums over the batch. Exits that imitate the final head, and
gates that predict it, learn when a microbatch has been at the end: what the
last stage found goes back along the stages. Schedules that run exits before
are refused for them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from eejax.axes import BATCH_AXES, STAGE
from eejax.config import EarlyExitConfig, ExitHeadKind, GateKind, Residual
from eejax.errors import ArgumentError
from eejax.models.decoder import LayerDropout
from eejax.models.stacking import num_blocks
from eejax.pipeline.balance import (
  PlacedExit,
  StagePlacement,
  balanced,
  check_places,
  even_ends,
  given_ends,
  place,
)
from eejax.pipeline.fill import loss_scales
from eejax.pipeline.forward_only import forward_only
from eejax.pipeline.gpipe import gpipe
from eejax.pipeline.one_f_one_b import one_f_one_b
from eejax.pipeline.schedule import Schedule, ScheduleKind
from eejax.pipeline.stage import PipelineResult
from eejax.training import freeze, weight_schedules
from eejax.training.freeze import Regime
from eejax.training.loss_sums import HeadSums, LossSums, TokenBatch
from eejax.training.objective import Forward, Objective
from eejax.training.pipelined_config import Balance, PipelineConfig
from eejax.training.pipelined_costs import block_cost, exit_costs, final_cost
from eejax.training.pipelined_layout import (
  StageLayout,
  from_stages,
  make_slots,
  to_stages,
)
from eejax.training.pipelined_stage import StepContext, make_stage
from eejax.types import Array, Float, Int, Params, PyTree


def pipelined_gradients(
  trainable: Params,
  frozen: Params,
  batch: TokenBatch,
  *,
  step: Int[Array, ''] | int,
  config: EarlyExitConfig,
  objective: Objective,
  forward: Forward,
  pipeline: PipelineConfig,
  microbatches: int,
  layer_dropout: LayerDropout | None = None,
  mesh: Mesh | None = None,
  idle: float = 0.0,
) -> tuple[Params, LossSums]:
  """Return the gradient of the mean objective, and the batch's sums.

  Args:
    trainable: the part of the tree that is differentiated.
    frozen: the rest, as `freeze.split` returns both; a backbone that need not
      run to its end is cut already (`freeze.cut_to_depth`), and its stages
      are those that are left.
    batch: rows in any order; microbatches take every M-th.
    step: counts from 0; sets weights and curriculum.
    config: the model with its exits.
    objective: what is minimised.
    forward: how blocks are run.
    pipeline: how the stages are used.
    microbatches: M, fillers included.
    layer_dropout: random skipping of blocks; its key is that of the step.
    mesh: has an axis `stage`; by default the ambient one.
    idle: what streams hold where no microbatch is; tests put NaN there.

  Raises:
    ArgumentError: model, batch and pipeline do not fit.
  """
  sizes = mesh_sizes(mesh)
  _check(config, objective, pipeline)
  schedule = Schedule(
    pipeline.schedule,
    sizes[STAGE],
    microbatches - pipeline.fillers,
    pipeline.rounds,
    pipeline.fillers,
  )
  params = freeze.merge(trainable, frozen)
  depth = num_blocks(params['backbone']['blocks'])
  layout = make_layout(
    config,
    pipeline=pipeline,
    objective=objective,
    depth=depth,
    stages=sizes[STAGE],
  )
  kept = freeze.without_masked(trainable)
  batches = in_microbatches(batch, count=microbatches, sizes=sizes, mesh=mesh)
  result = _run(schedule, pipeline)(
    make_stage(
      layout, objective=objective, forward=forward, idle=pipeline.idle_work
    ),
    to_stages(kept, layout=layout, mesh=mesh),
    to_stages(freeze.without_masked(frozen), layout=layout, mesh=mesh),
    {f.name: getattr(batches, f.name) for f in dataclasses.fields(batches)},
    _context(step, config, objective, schedule, batches, layer_dropout, layout),
    schedule=schedule,
    mesh=mesh,
    idle=idle,
  )
  tokens = jnp.sum(batch.weights)
  gradients = from_stages(result.gradients, like=kept, layout=layout, mesh=mesh)
  scale = 1.0 / jnp.maximum(tokens, 1.0)
  gradients = jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradients)
  gradients = jax.tree.unflatten(
    jax.tree.structure(trainable), jax.tree.leaves(gradients)
  )
  return gradients, _loss_sums(result, batches, tokens, layout)


def _run(schedule: Schedule, pipeline: PipelineConfig):
  match schedule.kind:
    case ScheduleKind.ONE_F_ONE_B:
      return lambda *args, **settings: one_f_one_b(
        *args, keep=pipeline.keep, **settings
      )
    case ScheduleKind.FORWARD_ONLY:
      return forward_only
  return gpipe


# MARK: Checks


def mesh_sizes(mesh: Mesh | None = None) -> dict[str, int]:
  """Return the sizes of the mesh axes, the ambient mesh's by default.

  Raises:
    ArgumentError: there are no stages among them.
  """
  given = jax.sharding.get_abstract_mesh() if mesh is None else mesh
  if STAGE not in given.axis_names:
    raise ArgumentError(
      f'a pipeline needs a mesh with an axis {STAGE!r}; set one, or leave '
      'StepConfig.pipeline out.'
    )
  return dict(given.shape)


def _check(
  config: EarlyExitConfig, objective: Objective, pipeline: PipelineConfig
) -> None:
  forward_alone = pipeline.schedule is ScheduleKind.FORWARD_ONLY
  if forward_alone and objective.regime is not Regime.TUNE:
    raise ArgumentError(
      'the schedule forward_only trains exits alone; use one_f_one_b for the '
      f'regime {objective.regime.value!r}.'
    )
  experts = config.model.experts
  trains = objective.regime is not Regime.TUNE
  if experts is not None and trains and experts.balance_weight > 0:
    raise ArgumentError(
      'a stage sees its own blocks alone, and experts are balanced over all; '
      'use no stages, or set balance_weight of the experts to 0.'
    )
  if objective.regime is Regime.STANDARD:
    return
  twins = [e for e in config.exits if e.head is ExitHeadKind.MLP]
  if twins and config.model.residual is Residual.PARALLEL:
    raise ArgumentError(
      f'the mlp exit at depth {twins[0].depth} cannot learn in a pipeline: in '
      'this model it reads the stream before its block; use another head.'
    )
  _check_lessons(config, objective, pipeline)


def _check_lessons(
  config: EarlyExitConfig, objective: Objective, pipeline: PipelineConfig
) -> None:
  """Check that what is learned of the final head comes back from it."""
  gated = [e for e in config.exits if e.gate is not GateKind.NONE]
  if config.exits and objective.distillation_weight > 0:
    what, way_out = 'imitate the final head', 'distillation_weight to 0'
  elif gated and objective.gate_weight > 0:
    what = f'learn the gate at depth {gated[0].depth}'
    way_out = 'gate_weight to 0'
  else:
    return
  if pipeline.schedule in (ScheduleKind.GPIPE, ScheduleKind.INTERLEAVED):
    raise ArgumentError(
      f'exits cannot {what} with the schedule {pipeline.schedule.value}, which '
      'runs them before a microbatch reaches that head; use one_f_one_b or '
      f'forward_only, or set {way_out}.'
    )
  if pipeline.fillers:
    raise ArgumentError(
      f'exits cannot {what} on fillers, which never reach that head; set '
      f'fillers to 0, or {way_out}.'
    )


def make_layout(
  config: EarlyExitConfig,
  *,
  pipeline: PipelineConfig,
  objective: Objective,
  depth: int,
  stages: int,
) -> StageLayout:
  """Return which stage has what.

  Args:
    config: the model with its exits.
    pipeline: how the stages are used.
    objective: exits that it leaves out are on no stage.
    depth: blocks there are.
    stages: devices along the pipeline.

  Raises:
    ArgumentError: there are more stages than blocks, or an exit on a stage
      that is not loaded.
  """
  places = stages * pipeline.rounds
  check_places(depth, places=places)
  standard = objective.regime is Regime.STANDARD
  exits = () if standard else config.exits
  described = exit_costs(exits, model=config.model)
  placement = _placement(config, pipeline, described, depth, places)
  return StageLayout(
    config=config,
    placement=placement,
    stages=stages,
    slots=make_slots(exits, placement.exit_places, places=places),
  )


def _placement(
  config: EarlyExitConfig,
  pipeline: PipelineConfig,
  exits: list[PlacedExit],
  depth: int,
  places: int,
) -> StagePlacement:
  if pipeline.stage_blocks is not None:
    if len(pipeline.stage_blocks) != places:
      raise ArgumentError(
        f'there are {places} stages and blocks for '
        f'{len(pipeline.stage_blocks)}; give stage_blocks one number each.'
      )
    ends = given_ends(pipeline.stage_blocks, num_blocks=depth)
  elif pipeline.balance is Balance.COST:
    return balanced(
      depth,
      places=places,
      block=block_cost(config.model),
      exits=exits,
      final=final_cost(config.model),
      keep=pipeline.keep,
    )
  else:
    ends = even_ends(depth, places=places)
  return place(exits, ends=ends, boundary=pipeline.boundary)


# MARK: What goes in


def in_microbatches(
  batch: TokenBatch, *, count: int, sizes: dict[str, int], mesh: Mesh | None
) -> TokenBatch:
  """Return `[rows, M, T]`: microbatches with rows of every device each.

  Raises:
    ArgumentError: the rows do not divide.
  """
  rows = batch.tokens.shape[0]
  axes = tuple(a for a in BATCH_AXES if a in sizes)
  shares = 1
  for a in axes:
    shares *= sizes[a]
  if rows % (count * shares):
    among = f' on {shares} shares of the mesh' if shares > 1 else ''
    raise ArgumentError(
      f'a batch of {rows} rows cannot be cut into {count} microbatches{among}; '
      f'make it a multiple of {count * shares}.'
    )
  spec = PartitionSpec(axes or None)
  where = spec if mesh is None else jax.sharding.NamedSharding(mesh, spec)

  def cut(x: Array) -> Array:
    parts = x.reshape(rows // count, count, *x.shape[1:])
    return lax.with_sharding_constraint(parts, where)

  return jax.tree.map(cut, batch)


def _context(
  step, config, objective, schedule, batches, layer_dropout, layout
) -> StepContext:
  count = len(config.exits)
  curriculum = objective.exit_weights
  weights = jnp.zeros((count,), jnp.float32)
  takes_part = jnp.zeros((count,), bool)
  if layout.slots:
    weights = weight_schedules.weights_at(
      step, schedule=curriculum, num_exits=count
    )
    groups = weight_schedules.groups(curriculum.curriculum, count)
    members = jnp.asarray([[i in g for i in range(count)] for g in groups])
    index = weight_schedules.group_at(
      step, schedule=curriculum, num_exits=count
    )
    takes_part = members[index]
  dropout = None
  if layer_dropout is not None:
    dropout = (layer_dropout.key, layer_dropout.rates)
  return StepContext(
    exit_weights=weights,
    takes_part=takes_part,
    scale=loss_scales(_tokens(batches), schedule=schedule),
    dropout=dropout,
  )


def _tokens(batches: TokenBatch) -> Float[Array, 'M']:
  return jnp.sum(batches.weights, axis=(0, 2))


# MARK: What comes out


def _loss_sums(
  result: PipelineResult,
  batches: TokenBatch,
  tokens: Float[Array, ''],
  layout: StageLayout,
) -> LossSums:
  exits = HeadSums(**result.sums['exits'])
  if layout.slots and result.kept[-1] is not None:
    agree = _agreement(result.kept, batches, exits, layout)
    exits = dataclasses.replace(exits, agree=agree)
  return LossSums(
    objective=result.loss,
    tokens=tokens,
    final=HeadSums(**result.sums['final']),
    exits=exits,
  )


def _agreement(
  kept: PyTree, batches: TokenBatch, exits: HeadSums, layout: StageLayout
) -> Float[Array, 'E']:
  """Return on how many tokens each exit chooses what the final head does.

  Choices are compared when all are there, so none travels along the stages.
  """
  of = lambda choices, place: choices[
    place % layout.stages, place // layout.stages
  ]
  final = of(kept[-1], layout.places - 1)
  weights = jnp.swapaxes(batches.weights, 0, 1)
  agree = exits.agree
  for choices, slot in zip(kept, layout.slots, strict=False):
    for where, index in enumerate(slot.exits):
      if index >= 0:
        same = jnp.sum(weights * (of(choices, where) == final))
        agree = agree.at[index].set(same * (exits.tokens[index] > 0))
  return agree
