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
"""What a layout needs of each device's memory, part by part.

Parameters, optimizer state and the batch are exact: they are the shapes of
the tree, cut by the rules of `eejax.axes`. What lives during a step is
counted in the arrays of one block, one head and one microbatch:

  s  r T D      the stream               q  r T N H     queries
  F  r T F      an MLP's inner width     k  r T K H     keys, or values
  x  r N C T    attention scores of C = min(T, 512) queries, float32
  l  r c V      logits of a chunk of c tokens a row, float32

with r the rows of a microbatch on the device and N, K, F, V its share of
them. How many of each stand at once where a step is fullest was read off
programs that XLA compiled for the CPU (jaxlib 0.10.2), where they agree
within the bound that `benchmarks/parallel_planner.py` measures. With a kernel
that keeps no scores (cuDNN), a step needs less.

What a pipeline adds follows from its schedule: EE-LLM (arXiv 2312.04916),
section 3, counts the microbatches under way as P - s on stage s; in lock step
they are at most 2 P - 1 (`eejax.pipeline.schedule.ring_size`).
"""

import dataclasses
import math

from eejax.analysis.plan.workload import (
  Arrangement,
  Learns,
  Workload,
  device_bytes,
  device_values,
  shapes,
)
from eejax.config import ExitConfig, ExitHeadKind, OutputMatrix
from eejax.models.decoder import Rematerialization
from eejax.ops.attention import QUERY_CHUNK
from eejax.pipeline.cost import Keep
from eejax.pipeline.schedule import ScheduleKind, ring_size
from eejax.types import PyTree

_FLOAT32 = 4
# Five arrays of a batch, four bytes each.
_BATCH_BYTES = 5 * 4


@dataclasses.dataclass(frozen=True)
class Memory:
  """Hold what each device needs, in bytes.

  Attributes:
    parameters: trained parameters, float32.
    optimizer: its moments.
    frozen: parameters that are read and not trained.
    idle: parameters that are held and that no step reads.
    batch: tokens and what belongs to them.
    gradients: of the trained parameters, with what sums them up.
    update: gradients alone; the optimizer makes as many updates of them when
      all else is gone.
    activations: what is kept of the forward for the backward.
    blocks: what a block needs while it is worked on.
    heads: what a head needs, a chunk of logits above all.
  """

  parameters: float
  optimizer: float
  frozen: float
  idle: float
  batch: float
  gradients: float
  update: float
  activations: float
  blocks: float
  heads: float

  @property
  def held(self) -> float:
    """Return what is there before a step and after it."""
    return (
      self.parameters + self.optimizer + self.frozen + self.idle + self.batch
    )

  @property
  def temporary(self) -> float:
    """Return what a step needs beside; blocks and heads take turns."""
    working = self.activations + max(self.blocks, self.heads)
    return max(self.gradients + working, 2 * self.update)

  @property
  def total(self) -> float:
    """Return what must be free."""
    return self.held + self.temporary

  def parts(self) -> dict[str, float]:
    """Return parts that add up to the total, by name."""
    parts = dataclasses.asdict(self)
    for name in ('update', 'blocks', 'heads'):
      parts.pop(name)
    rest = self.gradients + self.activations
    return {**parts, 'workspace': self.temporary - rest}


@dataclasses.dataclass(frozen=True)
class _Units:
  """Hold the bytes of one array of each kind on a device."""

  stream: float
  cut_stream: float
  query: float
  key: float
  mlp: float
  scores: float
  logits: float
  matrix: float


# How many arrays stand at once; see this module's docstring. A block's backward
# is at its fullest either in its attention or around it, and keeps what the
# MLP's gradients are made of meanwhile.
_MLP_BACKWARD = 8.0
_MLP_BACKWARD_KEPT = 5.0  # with residuals there is no second forward
_AROUND_ATTENTION = {
  'stream': 6.0,
  'cut_stream': 3.0,
  'query': 12.0,
  'key': 2.0,
}
_IN_ATTENTION = {'scores': 1.0, 'stream': 3.0}
_FORWARD = {'mlp': 3.0, 'stream': 4.0, 'query': 2.0, 'key': 2.0}
_FORWARD_SCORES = {'scores': 1.0, 'stream': 1.0, 'query': 2.0, 'key': 2.0}
_RESIDUALS = {
  'mlp': 6.0,
  'stream': 3.0,
  'cut_stream': 4.0,
  'query': 3.0,
  'key': 2.0,
}
# Of each exit: they are all under way until the gradients are there.
_EXIT_NORM = {'stream': 3.0}
_EXIT_MLP = {'mlp': 6.0, 'stream': 2.0}
_EXIT_BOTTLENECK = {'rank': 2.0, 'stream': 7.5}
_LOGITS = 2.0


def predict_memory(workload: Workload, arrangement: Arrangement) -> Memory:
  """Return what each device needs.

  Args:
    workload: what a step computes; its rows divide among the devices.
    arrangement: how it is laid out.
  """
  sizes = arrangement.mesh.sizes()
  trained, frozen = shapes(workload)
  units = _units(workload, arrangement)
  values = device_values(trained, sizes)
  read, idle = _read_and_idle(frozen, workload)
  rows = math.ceil(workload.rows / arrangement.row_shares)
  return Memory(
    parameters=_FLOAT32 * values,
    optimizer=_FLOAT32 * workload.moments * values,
    frozen=device_bytes(read, sizes),
    idle=device_bytes(idle, sizes),
    batch=_BATCH_BYTES * rows * workload.length,
    gradients=_gradients(workload, arrangement),
    update=_FLOAT32 * values,
    activations=_activations(workload, arrangement, units),
    blocks=_block_space(workload, arrangement, units),
    heads=_head_space(workload, arrangement, units),
  )


def _read_and_idle(frozen: PyTree, workload: Workload) -> tuple[PyTree, PyTree]:
  """Part frozen parameters that a step reads from those it never does."""
  if workload.learns is not Learns.TUNE:
    return {}, frozen
  backbone = dict(frozen['backbone'])
  idle = {'final_norm': backbone.pop('final_norm')}
  used = {e.output for e in workload.exits}
  if OutputMatrix.SHARED not in used and 'head' in backbone:
    idle['head'] = backbone.pop('head')
  return {'backbone': backbone}, idle


def _units(workload: Workload, arrangement: Arrangement) -> _Units:
  model, parts = workload.config.model, arrangement.mesh.model
  cut = lambda n: n / parts if n % parts == 0 else n
  rows = workload.rows / (arrangement.row_shares * arrangement.microbatches)
  tokens = rows * workload.length * workload.value_bytes
  columns = _chunk_columns(workload, arrangement)
  queries = min(workload.length, QUERY_CHUNK)
  stream = tokens * model.embed_dim
  # Inside a pipeline T is not cut; see `eejax.axes.constrain`.
  cuts_stream = not arrangement.is_pipeline and workload.length % parts == 0
  return _Units(
    stream=stream,
    cut_stream=stream / (parts if cuts_stream else 1),
    query=tokens * cut(model.num_heads) * model.head_dim,
    key=tokens * cut(model.num_kv_heads) * model.head_dim,
    mlp=tokens * cut(model.mlp_dim),
    scores=_scores_held(workload, arrangement)
    * rows
    * cut(model.num_heads)
    * queries
    * workload.length
    * _FLOAT32,
    logits=rows * columns * cut(model.vocab_size) * _FLOAT32,
    matrix=model.embed_dim * cut(model.vocab_size) * _FLOAT32,
  )


def _scores_held(workload: Workload, arrangement: Arrangement) -> float:
  """Return how many arrays of scores stand at once.

  An array more for one row alone; without chunks, more where heads are cut.
  """
  learns = workload.learns is not Learns.TUNE
  one_row = arrangement.device_rows(workload) == 1
  if workload.length > QUERY_CHUNK:
    held = 1.0 + one_row + 0.2 * (learns and not one_row)
  elif arrangement.mesh.model > 1:
    held = 3.5 if learns else 1.0
  else:
    held = 2.0 + one_row if learns else 1.0
  # Scores are float32 whatever is computed in; then a copy is made.
  return held + (workload.value_bytes < _FLOAT32)


def _chunk_columns(workload: Workload, arrangement: Arrangement) -> int:
  """Return the columns of a microbatch whose logits stand at once."""
  rows = workload.rows // arrangement.microbatches
  if arrangement.is_pipeline:
    rows //= arrangement.mesh.data
  return min(max(1, workload.chunk_size // max(rows, 1)), workload.length)


def _count(counts: dict[str, float], units: _Units) -> float:
  return sum(n * getattr(units, name) for name, n in counts.items())


# MARK: Gradients


def _gradients(workload: Workload, arrangement: Arrangement) -> float:
  """Return the bytes of gradients, before and after they are summed up."""
  sizes = arrangement.mesh.sizes()
  trained, _ = shapes(workload)
  whole = _FLOAT32 * device_values(trained, sizes)
  if not arrangement.is_pipeline:
    # Those of one microbatch are added to those of the others.
    return whole * (1 + (arrangement.microbatches > 1))
  return whole + _FLOAT32 * _stage_values(workload, arrangement)


def _stage_values(workload: Workload, arrangement: Arrangement) -> float:
  """Return the trained numbers that a stage sums gradients of."""
  sizes = arrangement.mesh.sizes()
  trained, _ = shapes(workload)
  total = 0.0
  if 'backbone' in trained:
    total += device_values({'backbone': trained['backbone']}, sizes)
  if 'exits' in trained:
    total += sum(_slot_values(workload, arrangement))
  return total


def _slot_values(workload: Workload, arrangement: Arrangement) -> list[float]:
  """Return the numbers of the exit in each slot of a stage.

  A slot holds exits of one kind, at most one a piece of depth.
  """
  sizes = arrangement.mesh.sizes()
  placement = arrangement.placement(workload)
  trained, frozen = shapes(workload)
  exits = {**trained, **frozen}['exits']
  taken: dict[ExitConfig, list[set[int]]] = {}
  found = []
  for e, piece in zip(workload.exits, placement.exit_places, strict=True):
    kind = dataclasses.replace(e, depth=1)
    for pieces in taken.setdefault(kind, []):
      if piece not in pieces:
        pieces.add(piece)
        break
    else:
      taken[kind].append({piece})
      tree = {'exits': {e.name: exits.get(e.name, {})}}
      found.append(arrangement.rounds * device_values(tree, sizes))
  return [float(n) for n in found]


# MARK: Activations


def _activations(
  workload: Workload, arrangement: Arrangement, units: _Units
) -> float:
  """Return what is kept of the forward until the backward."""
  if arrangement.is_pipeline:
    return _stage_activations(workload, arrangement, units)
  if workload.learns is Learns.TUNE:
    return 0.0
  return workload.depth * _block_residuals(arrangement, units)


def _block_residuals(arrangement: Arrangement, units: _Units) -> float:
  """Return what a block keeps for its backward."""
  if arrangement.rematerialization is Rematerialization.BLOCK:
    return units.cut_stream
  return _count(_RESIDUALS, units)


def _tap_streams(exits: tuple[ExitConfig, ...]) -> int:
  """Return how many streams are kept for exits to read."""
  return sum(2 if e.head is ExitHeadKind.MLP else 1 for e in exits)


def _kinds(workload: Workload) -> tuple[ExitConfig, ...]:
  """Return the kinds of exits, which are what a stage has at most."""
  kinds = {dataclasses.replace(e, depth=1): None for e in workload.exits}
  return tuple(kinds)


def _stage_activations(
  workload: Workload, arrangement: Arrangement, units: _Units
) -> float:
  """Return what a stage keeps of all microbatches that are under way."""
  blocks = max(arrangement.placement(workload).blocks)
  residuals = blocks * _block_residuals(arrangement, units)
  taps = _tap_streams(_kinds(workload)) * units.stream
  # What heads read, and what the backward of reading it off keeps.
  reads = units.stream + 2 * taps
  match arrangement.schedule:
    case ScheduleKind.FORWARD_ONLY:
      return units.stream + taps
    case ScheduleKind.ONE_F_ONE_B:
      places = ring_size(arrangement.mesh.stage)
      if arrangement.keep is Keep.RESIDUALS:
        # Of the microbatches that go forward and backward it holds copies.
        return (places + 2) * (reads + residuals)
      return places * units.stream + reads + residuals
    case _:
      ticks = arrangement.pipeline().forward_ticks
      return ticks * units.stream + reads + residuals


# MARK: Work


def _block_space(
  workload: Workload, arrangement: Arrangement, units: _Units
) -> float:
  """Return what a block needs while it is worked on."""
  space = 0.0
  if arrangement.mesh.fsdp > 1:
    # Parameters, and their gradients before they are shared out.
    once_or_twice = 1 + (workload.learns is not Learns.TUNE)
    space += once_or_twice * _block_bytes(workload, arrangement)
  exits = workload.exits
  if arrangement.is_pipeline:
    exits = _kinds(workload)
  taps = _tap_streams(exits) * units.cut_stream
  if workload.learns is Learns.TUNE:
    work = max(_count(_FORWARD, units), _count(_FORWARD_SCORES, units))
    return space + taps + work
  kept = arrangement.rematerialization is Rematerialization.NONE
  mlp = _MLP_BACKWARD_KEPT if kept else _MLP_BACKWARD
  attention = max(
    _count(_AROUND_ATTENTION, units), _count(_IN_ATTENTION, units)
  )
  return space + 2 * taps + mlp * units.mlp + attention


def _block_bytes(workload: Workload, arrangement: Arrangement) -> float:
  """Return the bytes of one block, not cut along `fsdp`."""
  sizes = {'model': arrangement.mesh.model}
  trained, frozen = shapes(workload)
  backbone = {**trained, **frozen}['backbone']
  return device_bytes({'blocks': backbone['blocks']}, sizes) / workload.depth


def _head_space(
  workload: Workload, arrangement: Arrangement, units: _Units
) -> float:
  """Return what heads need while they are worked on.

  Without stages their hidden states are all made before the first head's
  logits, and gradients of these wait for the last.
  """
  exits = [_exit_space(e, workload, units) for e in workload.exits]
  matrices = _matrices(workload)
  if arrangement.is_pipeline:
    # A stage takes its heads one after the other, backward and all.
    exits, matrices = [max(exits, default=0.0)], min(matrices, 1)
  space = _LOGITS * units.logits + sum(exits)
  if workload.has_final_head:
    space += _count(_EXIT_NORM, units)
  if arrangement.mesh.fsdp > 1:
    # Gathered for the product, and a gradient that is not yet shared out.
    space += 2 * matrices * units.matrix
    inner = _inner_bytes(workload, arrangement)
    space += inner
    if workload.learns is Learns.TUNE and arrangement.microbatches > 1:
      # What is gathered stays for all microbatches, beside its gradients.
      trained, _ = shapes(workload)
      own = device_values(trained, arrangement.mesh.sizes())
      space += inner + _FLOAT32 * own
  return space


def _inner_bytes(workload: Workload, arrangement: Arrangement) -> float:
  """Return the bytes of exits' own parts, not cut along `fsdp`."""
  trained, frozen = shapes(workload)
  exits = {**trained, **frozen}.get('exits', {})
  if workload.learns is Learns.STANDARD or not exits:
    return 0.0
  sizes = {'model': arrangement.mesh.model}
  each = [
    device_bytes({'exits': {name: _without_output(tree)}}, sizes)
    for name, tree in exits.items()
  ]
  return max(each) if arrangement.is_pipeline else sum(each)


def _without_output(tree: PyTree) -> PyTree:
  return {k: v for k, v in tree.items() if k != 'output'}


def _exit_space(e: ExitConfig, workload: Workload, units: _Units) -> float:
  match e.head:
    case ExitHeadKind.MLP:
      return _count(_EXIT_MLP, units)
    case ExitHeadKind.BOTTLENECK_MLP:
      rank = units.stream * (e.rank or 0) / workload.config.model.embed_dim
      return _EXIT_BOTTLENECK['rank'] * rank + (
        _EXIT_BOTTLENECK['stream'] * units.stream
      )
    case ExitHeadKind.BLOCK:
      return _MLP_BACKWARD * units.mlp + max(
        _count(_AROUND_ATTENTION, units), _count(_IN_ATTENTION, units)
      )
  return _count(_EXIT_NORM, units)


def _matrices(workload: Workload) -> int:
  """Return how many matrices as wide as the vocabulary a step works with."""
  untied = sum(e.output is OutputMatrix.UNTIED for e in workload.exits)
  if workload.learns is Learns.TUNE:
    return untied
  own_head = not workload.config.model.tied_head
  return untied + own_head + 1
