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
"""Test pipelined gradients against those of one device.

The cases cover every pair of schedule, number of stages, other mesh axis and
set of heads; `benchmarks/parallel_pipeline.py` runs the whole grid.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from eejax.axes import MESH_AXES
from eejax.config.experts import ExpertsConfig
from eejax.errors import ArgumentError
from eejax.models.decoder import Rematerialization
from eejax.parallel import sharding
from eejax.pipeline.cost import Keep
from eejax.pipeline.schedule import ScheduleKind
from eejax.pipeline.skipping import IdleWork
from eejax.testing import tiny
from eejax.testing.compiled_text import groups_across, messages
from eejax.training import freeze, state
from eejax.training.freeze import Regime
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Forward, Objective, TokenWeights
from eejax.training.pipelined import pipelined_gradients
from eejax.training.pipelined_config import Balance, PipelineConfig
from eejax.training.step import StepConfig, gradients
from eejax.training.weight_schedules import Curriculum, ExitWeights

GPIPE, ONE_F_ONE_B = ScheduleKind.GPIPE, ScheduleKind.ONE_F_ONE_B
FORWARD_ONLY = ScheduleKind.FORWARD_ONLY
INTERLEAVED = ScheduleKind.INTERLEAVED

# Every kind of head and output matrix, at boundaries, ends and inside a stage.
OWN = '1:norm:untied,2:mlp:tied_embedding'
ENDS = '0:embedding:tied_embedding,4:block'
INSIDE = '1:bottleneck_mlp(5),3:mlp:untied'
ROWS, LENGTH = 8, 6


def make_mesh(**sizes):
  shape = tuple(sizes.get(a, 1) for a in MESH_AXES)
  devices = jax.devices()[: math.prod(shape)]
  kinds = (AxisType.Auto,) * len(shape)
  return jax.make_mesh(shape, MESH_AXES, axis_types=kinds, devices=devices)


def make_config(exits, **overrides):
  fields = {'vocab_size': 30, 'tied_head': exits == ENDS, **overrides}
  return tiny.tiny_config(exits, **fields)


def make_batch(config, rows=ROWS):
  tokens = tiny.tiny_tokens(config, batch_size=rows, length=LENGTH)
  shape = (rows, LENGTH)
  column, row = np.arange(LENGTH)[None], np.arange(rows)[:, None]
  return TokenBatch(
    tokens=tokens,
    targets=jnp.roll(tokens, -1, axis=1),
    # Microbatches of different numbers of tokens: no mean of means passes.
    weights=jnp.asarray(column < row % 5 + 2).astype(jnp.float32),
    positions=jnp.broadcast_to(jnp.arange(LENGTH), shape),
    segment_ids=jnp.ones(shape, jnp.int32),
  )


def make_objective(regime, **fields):
  weights = ExitWeights(weights=(0.5,))
  defaults = {'exit_weights': weights, 'chunk_size': 16, 'gate_weight': 0.0}
  return Objective(regime=regime, **{**defaults, **fields})


def parts(config, objective):
  params = freeze.cut_to_depth(
    tiny.tiny_params(config),
    config=config,
    full_depth=objective.full_depth(config),
  )
  return freeze.split(params, regime=objective.regime)


@functools.cache
def on_one_device(config, objective, step=0):
  """Return gradients and sums, once for all that compare with them."""
  trainable, frozen = parts(config, objective)
  run = functools.partial(
    gradients,
    step=step,
    config=config,
    objective=objective,
    settings=StepConfig(),
  )
  return jax.jit(run)(trainable, frozen, make_batch(config))


def on_stages(
  config, objective, pipeline, *, mesh, microbatches, step=0, forward=None
):
  trainable, frozen = parts(config, objective)
  place = lambda tree: jax.device_put(tree, sharding.shardings(tree, mesh=mesh))
  run = functools.partial(
    pipelined_gradients,
    step=step,
    config=config,
    objective=objective,
    forward=forward or Forward(),
    pipeline=pipeline,
    microbatches=microbatches,
    idle=math.nan,
  )
  with jax.set_mesh(mesh):
    return jax.jit(run)(place(trainable), place(frozen), make_batch(config))


def assert_equal(found, wanted):
  """Hold everything to 1e-5 of the largest entry of its leaf."""
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(wanted),
    jax.tree.leaves(found),
    strict=True,
  )
  for (path, want), got in pairs:
    scale = max(float(jnp.abs(want).max(initial=0.0)), 1e-6)
    np.testing.assert_allclose(
      np.asarray(got) / scale,
      np.asarray(want) / scale,
      rtol=0,
      atol=1e-5,
      err_msg=jax.tree_util.keystr(path),
    )


COMPUTED = {'stage_blocks': (3, 1), 'idle_work': IdleWork.COMPUTED}
CASES = [
  # schedule, stages, microbatches, other axes, exits, settings
  (ONE_F_ONE_B, 4, 4, {'data': 2}, OWN, {}),
  (ONE_F_ONE_B, 2, 2, {'model': 2}, ENDS, {'stage_blocks': (3, 1)}),
  (ONE_F_ONE_B, 1, 2, {'fsdp': 2}, INSIDE, {'keep': Keep.INPUTS}),
  (GPIPE, 2, 2, {'data': 2, 'fsdp': 2}, ENDS, COMPUTED),
  (INTERLEAVED, 2, 4, {'model': 2}, OWN, {'rounds': 2}),
]


@pytest.mark.parametrize(
  'kind, stages, microbatches, axes, exits, settings', CASES
)
def test_gradients_and_sums_are_those_of_one_device(
  kind, stages, microbatches, axes, exits, settings
):
  config, objective = make_config(exits), make_objective(Regime.JOINT)
  found = on_stages(
    config,
    objective,
    PipelineConfig(kind, **settings),
    mesh=make_mesh(stage=stages, **axes),
    microbatches=microbatches,
  )
  assert_equal(found, on_one_device(config, objective))
  assert float(found[1].exits.agree.sum()) > 0


@pytest.mark.parametrize(
  'block, schedule, exits',
  [
    ('around', ONE_F_ONE_B, OWN),
    ('learned', GPIPE, OWN),
    ('parallel', ONE_F_ONE_B, '1:norm:untied,2:bottleneck_mlp(5)'),
    ('experts', ONE_F_ONE_B, '1:norm:untied'),
    ('mamba', ONE_F_ONE_B, '1:norm:untied,2:block'),
  ],
)
def test_other_kinds_of_blocks(block, schedule, exits):
  kinds = {**tiny.KINDS_OF_BLOCK, **tiny.KINDS_OF_RECURRENT_BLOCK}
  fields = kinds[block]
  if block == 'experts':
    # Stages cannot balance experts; four divide where those of a kind do.
    unbalanced = ExpertsConfig(4, 2, 12, shared_dim=8, balance_weight=0.0)
    fields = {**fields, 'experts': unbalanced}
  config = make_config(exits, **fields)
  objective = make_objective(Regime.JOINT)
  found = on_stages(
    config,
    objective,
    PipelineConfig(schedule),
    mesh=make_mesh(stage=2, model=2),
    microbatches=2,
  )
  assert_equal(found, on_one_device(config, objective))


def test_experts_are_not_balanced_on_stages():
  config = make_config('', **tiny.KINDS_OF_BLOCK['experts'])
  with pytest.raises(ArgumentError, match='balance_weight'):
    on_stages(
      config,
      make_objective(Regime.STANDARD),
      PipelineConfig(ONE_F_ONE_B),
      mesh=make_mesh(stage=2),
      microbatches=2,
    )


def test_a_twin_of_an_mlp_beside_its_attention_is_refused():
  config = make_config(OWN, **tiny.KINDS_OF_BLOCK['parallel'])
  with pytest.raises(ArgumentError, match='depth 2 cannot learn'):
    on_stages(
      config,
      make_objective(Regime.JOINT),
      PipelineConfig(ONE_F_ONE_B),
      mesh=make_mesh(stage=2),
      microbatches=2,
    )


def test_tuning_goes_forward_alone():
  # The second stage of three has no exit, and block 4 is not there at all.
  exits = '1:norm:untied,3:mlp'
  config, objective = make_config(exits), make_objective(Regime.TUNE)
  found = on_stages(
    config,
    objective,
    PipelineConfig(FORWARD_ONLY),
    mesh=make_mesh(stage=3, model=2),
    microbatches=4,
  )
  assert_equal(found, on_one_device(config, objective))


def test_standard_training_leaves_exits_out():
  config, objective = make_config(OWN), make_objective(Regime.STANDARD)
  found = on_stages(
    config,
    objective,
    PipelineConfig(keep=Keep.INPUTS),
    mesh=make_mesh(stage=2),
    microbatches=2,
  )
  assert not jax.tree.leaves(found[0]['exits'])
  assert_equal(found, on_one_device(config, objective))


def test_curriculum_confidence_and_checkpoints():
  config = make_config('1:norm,2:norm,3:norm')
  objective = make_objective(
    Regime.JOINT,
    token_weights=TokenWeights.CONFIDENCE,
    exit_weights=ExitWeights(
      weights=(0.2, 0.3, 0.4), curriculum=Curriculum.ROTATIONAL
    ),
  )
  found = on_stages(
    config,
    objective,
    PipelineConfig(balance=Balance.COST),
    mesh=make_mesh(stage=2),
    microbatches=2,
    step=1,
    forward=Forward(rematerialization=Rematerialization.DOTS),
  )
  wanted = on_one_device(config, objective, step=1)
  assert_equal(found, wanted)
  np.testing.assert_array_equal(found[1].exits.tokens > 0, [0, 1, 0])


def lowered(exits, regime, mesh, **settings):
  config, objective = make_config(exits), make_objective(regime)
  trainable, frozen = parts(config, objective)
  place = lambda tree: jax.device_put(tree, sharding.shardings(tree, mesh=mesh))
  run = functools.partial(
    pipelined_gradients,
    step=0,
    config=config,
    objective=objective,
    forward=Forward(),
    pipeline=PipelineConfig(**settings),
    microbatches=2,
  )
  with jax.set_mesh(mesh):
    return jax.jit(run).lower(
      place(trainable), place(frozen), make_batch(config)
    )


class TestMessages:
  def test_exits_send_nothing_from_stage_to_stage(self):
    mesh = make_mesh(stage=2, model=2)
    sent = {}
    for exits, regime in (('1:norm', Regime.JOINT), ('', Regime.STANDARD)):
      found = messages(lowered(exits, regime, mesh).compile().as_text())
      across = groups_across(found, mesh=mesh, axis='stage')
      # No stage waits for another that may have taken another branch ...
      assert not [m for m in across if m.conditional]
      # ... though the devices of one stage do talk within branches.
      assert [m for m in found if m.conditional]
      sent[exits] = sorted(m.size for m in across if m.looped)
    assert sent['1:norm'] == sent['']
    # One stream and one gradient a tick, and T is cut along `model`.
    rows = ROWS // 2
    assert sent[''] == [rows * LENGTH * 16 * 4 // 2] * 2

  def test_none_stands_in_a_branch_if_idle_work_is_computed(self):
    mesh = make_mesh(stage=2, model=2)
    program = lowered('', Regime.STANDARD, mesh, **COMPUTED).compile()
    found = messages(program.as_text())
    assert found and not [m for m in found if m.conditional]


class TestExitsOverStages:
  def test_a_stage_keeps_a_part_of_every_exit_and_of_its_moments(self):
    config, objective = make_config(OWN), make_objective(Regime.TUNE)
    trainable, _ = parts(config, objective)
    whole = state.create(trainable, optimizer=optax.adam(1e-3))
    places = sharding.shardings(whole, mesh=make_mesh(stage=4))
    sizes = {'kernel': [0, 0], 'other': [0, 0]}
    found = zip(
      jax.tree_util.tree_leaves_with_path(whole),
      jax.tree.leaves(places),
      strict=True,
    )
    for (path, leaf), place in found:
      kind = 'kernel' if 'kernel' in jax.tree_util.keystr(path) else 'other'
      sizes[kind][0] += leaf.nbytes
      sizes[kind][1] += sharding.bytes_on_device([leaf], places=[place])
    assert sizes['kernel'][1] * 4 == sizes['kernel'][0] > 0
    assert sizes['other'][1] == sizes['other'][0]

  def test_they_go_to_their_owners_alone(self):
    mesh = make_mesh(stage=2)
    exits = '1:norm:untied,3:norm:untied'
    program = lowered(exits, Regime.TUNE, mesh).compile()
    found = messages(program.as_text())
    across = groups_across(found, mesh=mesh, axis='stage')
    kernel = 16 * 30 * 4  # [D, V] in float32
    large = [(m.kind, m.size) for m in across if m.size >= kernel // 2]
    # Weights go to their owner and gradients back; a stage ends up with as
    # many bytes as one exit has, and nothing as large is gathered or summed.
    stream = ('collective-permute', ROWS // 2 * LENGTH * 16 * 4)
    assert set(large) <= {('all-to-all', kernel), stream}
    assert large.count(('all-to-all', kernel)) == 2


class TestTrainStep:
  def test_takes_the_pipeline_of_its_settings(self):
    config, objective = make_config(''), make_objective(Regime.STANDARD)
    settings = StepConfig(
      microbatches=2, pipeline=PipelineConfig(), layer_dropout=0.9
    )

    def run(stages):
      step = functools.partial(
        gradients, step=3, config=config, objective=objective, settings=settings
      )
      with jax.set_mesh(make_mesh(stage=stages)):
        return jax.jit(step)(*parts(config, objective), make_batch(config))

    dropped = run(2)
    # Which blocks are skipped does not depend on the stages they are on.
    assert_equal(dropped, run(4))
    whole = on_one_device(config, objective)
    assert abs(float(dropped[1].final.loss - whole[1].final.loss)) > 1e-3

  def test_one_stage_is_no_pipeline(self):
    # Not even of what a schedule refuses.
    config = make_config('1:norm:gate')
    objective = dataclasses.replace(
      make_objective(Regime.JOINT), gate_weight=1.0
    )
    shape = lambda settings: jax.eval_shape(
      functools.partial(
        gradients, step=0, config=config, objective=objective, settings=settings
      ),
      *parts(config, objective),
      make_batch(config),
    )
    pipeline = PipelineConfig(schedule=GPIPE)
    settings = StepConfig(microbatches=2, pipeline=pipeline)
    with jax.set_mesh(make_mesh(data=2)):
      assert shape(settings) == shape(StepConfig(microbatches=2))
    with (
      jax.set_mesh(make_mesh(stage=2)),
      pytest.raises(ArgumentError, match='cannot learn the gate at depth 1'),
    ):
      shape(settings)


# What exits learn of the final head.
LESSONS = {
  'distillation': {'distillation_weight': 0.4, 'temperature': 2.0},
  'gates': {'gate_weight': 0.7},
  'both': {'distillation_weight': 0.4, 'gate_weight': 0.7},
}
# On the stage that has the final head, too, and one that reads an MLP.
TAUGHT = '1:norm:gate,2:mlp:mlp_gate,3:norm:untied:gate'


class TestLessons:
  """Exits that imitate the final head, and gates that predict it."""

  @pytest.mark.parametrize('lesson', LESSONS)
  @pytest.mark.parametrize(
    'regime, pipeline',
    [
      (Regime.JOINT, PipelineConfig()),
      (Regime.JOINT, PipelineConfig(keep=Keep.INPUTS)),
      (Regime.TUNE, PipelineConfig(schedule=FORWARD_ONLY)),
      (Regime.TUNE, PipelineConfig()),
    ],
    ids=['joint', 'joint_inputs', 'forward_only', 'tune'],
  )
  def test_is_that_of_one_device(self, regime, pipeline, lesson):
    config = make_config(TAUGHT)
    objective = make_objective(regime, **LESSONS[lesson])
    found = on_stages(
      config, objective, pipeline, mesh=make_mesh(stage=4), microbatches=4
    )
    assert_equal(found, on_one_device(config, objective))

  @pytest.mark.parametrize(
    'sizes', [{'stage': 2, 'data': 2}, {'stage': 2, 'model': 2}], ids=str
  )
  @pytest.mark.parametrize('regime', [Regime.JOINT, Regime.TUNE])
  def test_with_other_axes(self, regime, sizes):
    tune = PipelineConfig(schedule=FORWARD_ONLY)
    config = make_config(TAUGHT)
    objective = make_objective(regime, **LESSONS['both'])
    found = on_stages(
      config,
      objective,
      tune if regime is Regime.TUNE else PipelineConfig(),
      mesh=make_mesh(**sizes),
      microbatches=2,
    )
    assert_equal(found, on_one_device(config, objective))


class TestBadInput:
  @pytest.mark.parametrize(
    'settings, words',
    [
      ({'mesh': {'stage': 8}}, '4 blocks cannot be cut into 8 pipeline stages'),
      ({'microbatches': 3}, '8 rows cannot be cut into 3 microbatches'),
      (
        {'microbatches': 4, 'mesh': {'stage': 2, 'data': 4}},
        '4 microbatches on 4 shares of the mesh; make it a multiple of 16',
      ),
      ({'stage_blocks': (2, 1, 1)}, '2 stages and blocks for 3'),
      ({'stage_blocks': (2, 1)}, 'stages of 2, 1 blocks do not make the 4'),
      ({'schedule': FORWARD_ONLY}, 'forward_only trains exits alone'),
      (
        {'objective': {'distillation_weight': 0.5}, 'schedule': GPIPE},
        'or set distillation_weight to 0',
      ),
      (
        {'objective': {'gate_weight': 1.0}, 'schedule': GPIPE},
        'cannot learn the gate at depth 1 with the schedule gpipe',
      ),
      (
        {'objective': {'gate_weight': 1.0}, 'fillers': 1},
        'on fillers, which never reach that head',
      ),
      ({'rounds': 0}, 'rounds >= 1'),
      ({'rounds': 2}, 'one_f_one_b has one round'),
    ],
  )
  def test_is_refused_in_a_sentence(self, settings, words):
    settings = dict(settings)
    mesh = make_mesh(**settings.pop('mesh', {'stage': 2}))
    microbatches = settings.pop('microbatches', 2)
    config = make_config('1:norm:gate,2:mlp')
    objective = make_objective(Regime.JOINT)
    objective = dataclasses.replace(objective, **settings.pop('objective', {}))
    with pytest.raises(ArgumentError, match=words):
      on_stages(
        config,
        objective,
        PipelineConfig(**settings),
        mesh=mesh,
        microbatches=microbatches,
      )

  def test_an_exit_on_a_stage_that_is_not_loaded(self):
    config, objective = make_config(OWN), make_objective(Regime.TUNE)
    trainable, frozen = parts(config, objective)
    deeper = make_config('1:norm:untied,3:norm')
    with (
      jax.set_mesh(make_mesh(stage=2)),
      pytest.raises(ArgumentError, match='depth 3 stands on a stage that is n'),
    ):
      pipelined_gradients(
        trainable,
        frozen,
        make_batch(config),
        step=0,
        config=deeper,
        objective=objective,
        forward=Forward(),
        pipeline=PipelineConfig(FORWARD_ONLY),
        microbatches=2,
      )

  def test_no_stages(self):
    config, objective = make_config(OWN), make_objective(Regime.JOINT)
    settings = StepConfig(pipeline=PipelineConfig())
    with pytest.raises(ArgumentError, match="mesh with an axis 'stage'"):
      gradients(
        *parts(config, objective),
        make_batch(config),
        step=0,
        config=config,
        objective=objective,
        settings=settings,
      )
