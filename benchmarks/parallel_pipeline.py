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
"""Measure pipelines: gradients, memory, wire, idle time; print one JSON object.

  python benchmarks/parallel_pipeline.py
  python benchmarks/parallel_pipeline.py --only gradient_error

Devices are simulated unless there are accelerators: memory, messages and ticks
are what the compiler and the schedules say, so they are exact. Simulated
devices share the cores of the machine, so times of theirs are times of work
done, not of stages side by side.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import figures
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from timing import interleaved, median_ratio, medians

from eejax.axes import MESH_AXES, STAGE
from eejax.config import EarlyExitConfig, ModelConfig, parse_exits
from eejax.models import decoder
from eejax.parallel import sharding
from eejax.pipeline import cost
from eejax.pipeline.balance import stage_costs
from eejax.pipeline.cost import Keep, StageCost, lock_step_cost
from eejax.pipeline.gpipe import gpipe
from eejax.pipeline.schedule import Schedule, ScheduleKind
from eejax.testing.compiled_text import messages
from eejax.training import freeze
from eejax.training.freeze import Regime
from eejax.training.loss_sums import TokenBatch
from eejax.training.objective import Forward, Objective
from eejax.training.pipelined import (
  in_microbatches,
  make_layout,
  pipelined_gradients,
)
from eejax.training.pipelined_config import PipelineConfig
from eejax.training.pipelined_costs import block_cost, exit_costs, final_cost
from eejax.training.pipelined_layout import to_stages
from eejax.training.pipelined_stage import StepContext, make_stage
from eejax.training.step import StepConfig, gradients
from eejax.training.weight_schedules import ExitWeights

Figure = tuple[float, dict[str, Any]]

TINY = ModelConfig(
  vocab_size=32,
  num_layers=8,
  embed_dim=16,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  mlp_dim=20,
  max_length=16,
)
# Wide enough for activations to outweigh the bookkeeping.
SMALL = dataclasses.replace(
  TINY,
  vocab_size=512,
  embed_dim=128,
  num_heads=4,
  num_kv_heads=4,
  head_dim=32,
  mlp_dim=344,
  max_length=128,
)
# EE-LLM's 1.3B with exits at 1/4 and 1/2 of its depth.
EE_LLM_1B = ModelConfig(
  vocab_size=50304,
  num_layers=24,
  embed_dim=2048,
  num_heads=32,
  num_kv_heads=32,
  head_dim=64,
  mlp_dim=5504,
  max_length=2048,
)
HEADS = (
  '2:norm:untied,4:mlp:tied_embedding',
  '0:embedding:tied_embedding,8:block',
  '3:bottleneck_mlp(5),6:mlp:untied',
)


def make_mesh(**sizes: int) -> Mesh:
  """Return a mesh of the first devices; axes that are not named are 1."""
  shape = tuple(sizes.get(a, 1) for a in MESH_AXES)
  devices = jax.devices()[: math.prod(shape)]
  kinds = (AxisType.Auto,) * len(shape)
  return jax.make_mesh(shape, MESH_AXES, axis_types=kinds, devices=devices)


@dataclasses.dataclass
class Case:
  """A step to be compiled.

  Attributes:
    config: the model with its exits.
    regime: what learns.
    pipeline: how stages are used.
    mesh: the devices.
    microbatches: M.
    rows: of a batch.
    length: tokens of a row.
    forward: how blocks are run.
  """

  config: EarlyExitConfig
  regime: Regime
  pipeline: PipelineConfig
  mesh: Mesh
  microbatches: int
  rows: int
  length: int = 8
  forward: Forward = Forward()

  @property
  def objective(self) -> Objective:
    """Return what is minimised."""
    return Objective(
      regime=self.regime,
      gate_weight=0.0,
      chunk_size=256,
      exit_weights=ExitWeights(weights=0.5),
    )

  def parts(self) -> tuple:
    """Return trainable and frozen parameters, on one device."""
    params = decoder.init(self.config, jax.random.key(0))
    params = freeze.cut_to_depth(
      params,
      config=self.config,
      full_depth=self.objective.full_depth(self.config),
    )
    return freeze.split(params, regime=self.regime)

  def batch(self) -> TokenBatch:
    """Return a batch whose rows count different numbers of tokens."""
    shape = (self.rows, self.length)
    tokens = jax.random.randint(
      jax.random.key(1), shape, 0, self.config.model.vocab_size
    )
    column, row = np.arange(self.length)[None], np.arange(self.rows)[:, None]
    counted = column < self.length - row % 3
    return TokenBatch(
      tokens=tokens,
      targets=jnp.roll(tokens, -1, axis=1),
      weights=jnp.asarray(counted, jnp.float32),
      positions=jnp.broadcast_to(jnp.arange(self.length), shape),
      segment_ids=jnp.ones(shape, jnp.int32),
    )

  def compiled(self) -> tuple[Callable, tuple]:
    """Return the compiled step and its arguments, where they belong."""
    trainable, frozen = self.parts()
    place = lambda tree: jax.device_put(
      tree, sharding.shardings(tree, mesh=self.mesh)
    )
    arguments = (place(trainable), place(frozen), self.batch())

    settings = {
      'step': 0,
      'config': self.config,
      'objective': self.objective,
    }

    def step(trainable, frozen, batch):
      if self.mesh.shape[STAGE] == 1:
        own = StepConfig(
          self.forward, self.microbatches, pipeline=self.pipeline
        )
        return gradients(trainable, frozen, batch, settings=own, **settings)
      return pipelined_gradients(
        trainable,
        frozen,
        batch,
        forward=self.forward,
        pipeline=self.pipeline,
        microbatches=self.microbatches,
        idle=math.nan,
        **settings,
      )

    with jax.set_mesh(self.mesh):
      return jax.jit(step).lower(*arguments).compile(), arguments

  def temporary_bytes(self) -> int:
    """Return the memory a device needs besides arguments and results."""
    compiled, _ = self.compiled()
    return compiled.memory_analysis().temp_size_in_bytes


def gradient_error(repeats: int) -> Figure:
  """Return the largest error of a loss or gradient, of its leaf's largest."""
  del repeats
  detail, worst = {}, 0.0
  references: dict = {}
  for case in _grid():
    key = (case.config, case.regime)
    if key not in references:
      references[key] = _on_one_device(case)
    compiled, arguments = case.compiled()
    error = _error(compiled(*arguments), references[key])
    detail[_name(case)] = error
    print(f'  {_name(case)}: {error:.1e}', file=sys.stderr, flush=True)
    worst = max(worst, error)
    jax.clear_caches()
  return worst, detail


def _grid():
  """Yield every schedule on every mesh with every set of heads."""
  ways = [
    (Regime.JOINT, PipelineConfig(ScheduleKind.GPIPE)),
    (Regime.JOINT, PipelineConfig(ScheduleKind.INTERLEAVED, rounds=2)),
    (Regime.JOINT, PipelineConfig(keep=Keep.RESIDUALS)),
    (Regime.JOINT, PipelineConfig(keep=Keep.INPUTS)),
    (Regime.TUNE, PipelineConfig(ScheduleKind.FORWARD_ONLY)),
  ]
  others = ({}, {'data': 2}, {'fsdp': 2}, {'model': 2})
  grid = itertools.product(HEADS, ways, (1, 2, 4), others)
  for heads, (regime, pipeline), stages, axes in grid:
    model = dataclasses.replace(TINY, tied_head=heads is HEADS[1])
    yield Case(
      config=EarlyExitConfig(model, parse_exits(heads)),
      regime=regime,
      pipeline=pipeline,
      mesh=make_mesh(stage=stages, **axes),
      microbatches=4,
      rows=8,
    )


def _name(case: Case) -> str:
  sizes = {k: v for k, v in case.mesh.shape.items() if v > 1}
  exits = ','.join(f'{e.depth}:{e.head.value}' for e in case.config.exits)
  kind = f'{case.pipeline.schedule.value} {case.pipeline.keep.value}'
  return f'{kind} {sizes} {exits}'


def _on_one_device(case: Case) -> Any:
  step = lambda *parts: gradients(
    *parts,
    step=0,
    config=case.config,
    objective=case.objective,
    settings=StepConfig(),
  )
  return jax.jit(step)(*case.parts(), case.batch())


def _error(found: Any, wanted: Any) -> float:
  worst = 0.0
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
  for got, want in pairs:
    got, want = np.asarray(got), np.asarray(want)
    if want.size:
      scale = max(float(np.abs(want).max()), 1e-6)
      difference = float(np.abs(got - want).max()) / scale
      worst = max(worst, math.inf if math.isnan(difference) else difference)
  return worst


# MARK: Memory


def one_f_one_b_memory_growth(repeats: int) -> Figure:
  """Return temporary memory with 64 microbatches over that with 8, less 1."""
  del repeats
  detail = {}
  for keep in Keep:
    detail[keep.value] = {
      m: _tiny_case(PipelineConfig(keep=keep), m).temporary_bytes()
      for m in (8, 16, 32, 64)
    }
  detail['gpipe'] = {
    m: _tiny_case(PipelineConfig(ScheduleKind.GPIPE), m).temporary_bytes()
    for m in (8, 64)
  }
  growth = max(
    max(found.values()) / min(found.values()) - 1
    for name, found in detail.items()
    if name != 'gpipe'
  )
  return growth, detail


def _tiny_case(pipeline: PipelineConfig, microbatches: int) -> Case:
  """Return a step of 4 stages, two rows in each microbatch."""
  return Case(
    config=EarlyExitConfig(SMALL, parse_exits('2:norm,4:norm:untied')),
    regime=Regime.JOINT,
    pipeline=pipeline,
    mesh=make_mesh(stage=4),
    microbatches=microbatches,
    rows=2 * microbatches,
    length=128,
  )


def _tuning_cases() -> dict[str, Case]:
  base = Case(
    config=EarlyExitConfig(SMALL, parse_exits('2:norm,4:norm,8:norm')),
    regime=Regime.TUNE,
    pipeline=PipelineConfig(ScheduleKind.FORWARD_ONLY),
    mesh=make_mesh(stage=4),
    microbatches=16,
    rows=32,
    length=128,
  )
  gpipe = PipelineConfig(ScheduleKind.GPIPE)
  return {
    'forward_only': base,
    'gpipe': dataclasses.replace(base, pipeline=gpipe),
  }


def _sending_back(case: Case) -> tuple[Callable, tuple]:
  """Return gpipe compiled for exits and the embedding, and its arguments.

  In `tune` nothing behind a stage's exits learns, and XLA finds that out: it
  leaves the backward through the frozen blocks, and its messages, out of
  gpipe. Where every stage is a program of its own no compiler could. For the
  embedding's sake the gradients have to travel.
  """
  depth = case.config.deepest_exit
  layout = make_layout(
    case.config,
    pipeline=case.pipeline,
    objective=case.objective,
    depth=depth,
    stages=case.mesh.shape[STAGE],
  )
  stage = make_stage(layout, objective=case.objective, forward=case.forward)
  exits, frozen = case.parts()
  count = len(case.config.exits)
  context = StepContext(
    exit_weights=jnp.full((count,), 0.5),
    takes_part=jnp.ones((count,), bool),
    scale=jnp.ones((layout.places,)),
    dropout=None,
  )

  def step(exits, frozen, batch):
    learns = to_stages(exits, layout=layout, mesh=case.mesh)
    rest = to_stages(frozen, layout=layout, mesh=case.mesh)
    names = {*rest.own, *rest.shared} - {'embedding'}
    batches = in_microbatches(
      batch, count=case.microbatches, sizes=dict(case.mesh.shape), mesh=None
    )
    return gpipe(
      stage,
      learns.joined(rest.pick(['embedding'])),
      rest.pick(names),
      vars(batches),
      context,
      schedule=Schedule(ScheduleKind.GPIPE, 4, case.microbatches),
    )

  arguments = (exits, frozen, case.batch())
  with jax.set_mesh(case.mesh):
    return jax.jit(step).lower(*arguments).compile(), arguments


def forward_only_memory(repeats: int) -> Figure:
  """Return forward_only's temporary memory over gpipe's, in `tune`."""
  del repeats
  cases = _tuning_cases()
  found = {k: c.temporary_bytes() for k, c in cases.items()}
  compiled, _ = _sending_back(cases['gpipe'])
  found['gpipe sending back'] = compiled.memory_analysis().temp_size_in_bytes
  ratio = found['forward_only'] / found['gpipe sending back']
  detail = {'bytes': found, 'over gpipe sending back': ratio}
  return found['forward_only'] / found['gpipe'], detail


def forward_only_time(repeats: int) -> Figure:
  """Return forward_only's step time over gpipe's, in `tune`."""
  cases = _tuning_cases()
  programs = {k: c.compiled() for k, c in cases.items()}
  programs['gpipe sending back'] = _sending_back(cases['gpipe'])
  runs = {
    name: lambda c=compiled, a=arguments: c(*a)
    for name, (compiled, arguments) in programs.items()
  }
  seconds = interleaved(runs, repeats=repeats)
  detail = {
    'seconds': medians(seconds),
    'over gpipe sending back': median_ratio(
      seconds, 'forward_only', 'gpipe sending back'
    ),
  }
  return median_ratio(seconds, 'forward_only', 'gpipe'), detail


# MARK: Messages


def wire_bytes_ratio(repeats: int) -> Figure:
  """Return bytes that stages hand on with exits over those without."""
  del repeats
  found, once = {}, {}
  for name, exits in {
    'with': '2:norm,4:mlp:untied,6:norm',
    'without': '',
  }.items():
    case = Case(
      config=EarlyExitConfig(TINY, parse_exits(exits) if exits else ()),
      regime=Regime.JOINT if exits else Regime.STANDARD,
      pipeline=PipelineConfig(),
      mesh=make_mesh(stage=4, model=2),
      microbatches=8,
      rows=16,
    )
    compiled, _ = case.compiled()
    permutes = [
      m for m in messages(compiled.as_text()) if m.kind == 'collective-permute'
    ]
    ticks = Schedule(ScheduleKind.ONE_F_ONE_B, 4, 8).num_ticks
    found[name] = ticks * sum(m.size for m in permutes if m.looped)
    once[name] = sum(m.size for m in permutes if not m.looped)
  detail = {'bytes': found, 'once_a_step': once}
  return found['with'] / found['without'], detail


# MARK: Ticks


def _costs_of(case: Case) -> list[StageCost]:
  """Return what the stages of a case cost a microbatch."""
  config, tune = case.config, case.regime is Regime.TUNE
  depth = config.deepest_exit if tune else config.model.num_layers
  layout = make_layout(
    config,
    pipeline=case.pipeline,
    objective=case.objective,
    depth=depth,
    stages=case.mesh.shape[STAGE],
  )
  standard = case.regime is Regime.STANDARD
  return stage_costs(
    layout.placement,
    block=block_cost(config.model),
    exits=exit_costs(() if standard else config.exits, model=config.model),
    final=StageCost(0, 0) if tune else final_cost(config.model),
  )


def exit_cost_ratio(repeats: int) -> Figure:
  """Return what an exit adds, counted in ticks, over the formula's share.

  Worst over M and over the stage the exit stands on.
  """
  del repeats
  head = _HEAD_COST.head
  detail, worst = {}, 1.0
  for stages, m, place in itertools.product((4, 8), (8, 16, 64), (1, 2)):
    schedule = Schedule(ScheduleKind.ONE_F_ONE_B, stages, m)
    without = lock_step_cost(schedule, _equal_stages(stages))
    added = lock_step_cost(schedule, _equal_stages(stages, place)) - without
    formula = cost.exit_overhead(schedule, first_stage=place, head=head)
    detail[f'P={stages} M={m} stage={place}'] = {
      'added': added,
      'formula': formula,
      'without_ticks': head,
      'step': without,
    }
    worst = max(worst, added / formula, formula / added)
  return worst, detail


# Six blocks a stage, and a head as dear as two of them.
_STAGE_COST = StageCost(6.0, 12.0)
_HEAD_COST = StageCost(0.0, 0.0, 2.0, 4.0)


def _equal_stages(stages: int, *exits: int) -> list[StageCost]:
  """Return equal stages with heads on the last and on some others."""
  has = [s in (*exits, stages - 1) for s in range(stages)]
  return [
    dataclasses.replace(
      _STAGE_COST,
      head_forward=h * _HEAD_COST.head_forward,
      head_backward=h * _HEAD_COST.head_backward,
    )
    for h in has
  ]


def joint_overhead(repeats: int) -> Figure:
  """Return `joint` over `standard` by ticks, exits at 1/4 and 1/2 of depth.

  EE-LLM's 1.3B on 4 stages with 64 microbatches; `seconds` are of a small
  model on the devices at hand.
  """
  detail: dict[str, Any] = {'ticks': {}, 'seconds': {}}
  for keep, m in itertools.product(Keep, (16, 64, 512)):
    detail['ticks'][f'{keep.value} M={m}'] = _joint_over_standard(keep, m)
  runs = {}
  for name, regime in (('joint', Regime.JOINT), ('standard', Regime.STANDARD)):
    case = dataclasses.replace(_tiny_case(PipelineConfig(), 16), regime=regime)
    compiled, arguments = case.compiled()
    runs[name] = lambda c=compiled, a=arguments: c(*a)
  seconds = interleaved(runs, repeats=repeats)
  detail['seconds'] = medians(seconds)
  detail['seconds_ratio'] = median_ratio(seconds, 'joint', 'standard')
  return detail['ticks'][f'{Keep.RESIDUALS.value} M=64'], detail


def _joint_over_standard(keep: Keep, microbatches: int) -> float:
  schedule = Schedule(ScheduleKind.ONE_F_ONE_B, 4, microbatches)
  exits = parse_exits('6:norm,12:norm')
  of = lambda regime: lock_step_cost(
    schedule,
    _costs_of(
      Case(
        config=EarlyExitConfig(EE_LLM_1B, exits),
        regime=regime,
        pipeline=PipelineConfig(keep=keep),
        mesh=make_mesh(stage=4),
        microbatches=microbatches,
        rows=microbatches,
      )
    ),
    keep=keep,
  )
  return of(Regime.JOINT) / of(Regime.STANDARD)


BY_REPEATS: dict[str, Callable[[int], Figure]] = {
  'gradient_error': gradient_error,
  'one_f_one_b_memory_growth': one_f_one_b_memory_growth,
  'exit_cost_ratio': exit_cost_ratio,
  'wire_bytes_ratio': wire_bytes_ratio,
  'forward_only_memory': forward_only_memory,
  'forward_only_time': forward_only_time,
  'joint_overhead': joint_overhead,
}
FIGURES: dict[str, figures.Measure] = {
  name: lambda args, measure=measure: measure(args.repeats)
  for name, measure in BY_REPEATS.items()
}


def main() -> None:
  # A mesh of eight, whatever there is; accelerators are taken as they are.
  jax.config.update('jax_num_cpu_devices', 8)
  parser = figures.parser(__doc__.split('\n')[0], repeats=5)
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()
