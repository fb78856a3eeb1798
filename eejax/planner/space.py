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
"""What blocks and heads need of a device's memory while they are worked on.

See `eejax.planner.memory` for the letters and `eejax.planner.counts` for how
many arrays there are.
"""

import dataclasses
from collections.abc import Callable

from eejax.config import ExitConfig, ExitHeadKind, ModelConfig, OutputMatrix
from eejax.models.decoder import Rematerialization
from eejax.ops.attention import QUERY_CHUNK
from eejax.ops.quant import Quantization
from eejax.planner.counts import ArrayCounts, Arrays
from eejax.planner.workload import (
  Arrangement,
  Learns,
  Workload,
  device_bytes,
  device_values,
  shapes,
)
from eejax.types import PyTree

FLOAT32 = 4
_TURNED = ('query', 'key', 'value')


@dataclasses.dataclass(frozen=True)
class Units:
  """The bytes of one array of each kind on a device.

  Attributes:
    stream: the residual stream, whole.
    cut_stream: the stream where sequences are cut along `model`.
    query: queries of all heads there.
    key: keys, or values.
    mlp: the inner width of an MLP.
    scores: attention scores, as many arrays as stand at once.
    logits: of a chunk of tokens.
    matrix: an output matrix in float32, not cut along `fsdp`.
  """

  stream: float
  cut_stream: float
  query: float
  key: float
  mlp: float
  scores: float
  logits: float
  matrix: float


def units_of(workload: Workload, arrangement: Arrangement) -> Units:
  """Return the bytes of one array of each kind on a device."""
  model, parts = workload.config.model, arrangement.mesh.model
  cut = lambda n: n / parts if n % parts == 0 else n
  rows = workload.rows / (arrangement.row_shares * arrangement.microbatches)
  tokens = rows * workload.length * workload.value_bytes
  columns = _chunk_columns(workload, arrangement)
  queries = min(workload.length, QUERY_CHUNK)
  stream = tokens * model.embed_dim
  # Inside a pipeline T is not cut; see `eejax.axes.constrain`.
  cuts_stream = not arrangement.is_pipeline and workload.length % parts == 0
  return Units(
    stream=stream,
    cut_stream=stream / (parts if cuts_stream else 1),
    query=tokens * cut(model.num_heads) * model.head_dim,
    key=tokens * cut(model.num_kv_heads) * model.head_dim,
    mlp=tokens * _mlp_width(model, cut),
    scores=_scores_held(workload, arrangement)
    * rows
    * cut(model.num_heads)
    * queries
    * workload.length
    * FLOAT32,
    logits=rows * columns * cut(model.vocab_size) * FLOAT32,
    matrix=model.embed_dim * cut(model.vocab_size) * FLOAT32,
  )


def _mlp_width(model: ModelConfig, cut: Callable[[int], float]) -> float:
  """Return the numbers of a token in one array within an MLP.

  Experts have a copy of the token each, as wide as the stream.
  """
  experts = model.experts
  if experts is None:
    return cut(model.mlp_dim)
  each = cut(experts.expert_dim) + model.embed_dim
  return experts.top_k * each + cut(experts.shared_dim or 0)


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
  return held + (workload.value_bytes < FLOAT32)


def _chunk_columns(workload: Workload, arrangement: Arrangement) -> int:
  """Return the columns of a microbatch whose logits stand at once."""
  rows = workload.rows // arrangement.microbatches
  if arrangement.is_pipeline:
    rows //= arrangement.mesh.data
  return min(max(1, workload.chunk_size // max(rows, 1)), workload.length)


def count(counts: Arrays, units: Units) -> float:
  """Return the bytes of so many arrays of each kind."""
  return sum(n * getattr(units, name) for name, n in counts.items())


# MARK: Kept


def block_residuals(
  arrangement: Arrangement, units: Units, counts: ArrayCounts
) -> float:
  """Return what a block keeps for its backward."""
  if arrangement.rematerialization is Rematerialization.BLOCK:
    return units.cut_stream
  return count(counts.residuals, units)


def stage_copy(workload: Workload, arrangement: Arrangement) -> float:
  """Return what a stage copies of blocks that all stages hold.

  Blocks that do not divide by the stages are whole on each of them.
  """
  places = arrangement.mesh.stage * arrangement.rounds
  if workload.depth % places == 0:
    return 0.0
  sizes = arrangement.mesh.sizes()
  each = device_bytes(_blocks(workload), sizes) / workload.depth
  return each * max(arrangement.placement(workload).blocks)


def tap_streams(exits: tuple[ExitConfig, ...]) -> int:
  """Return how many streams are kept for exits to read."""
  return sum(2 if e.head is ExitHeadKind.MLP else 1 for e in exits)


def exit_kinds(workload: Workload) -> tuple[ExitConfig, ...]:
  """Return the kinds of exits, which are what a stage has at most."""
  kinds = {dataclasses.replace(e, depth=1): None for e in workload.exits}
  return tuple(kinds)


# MARK: Work


def block_space(
  workload: Workload,
  arrangement: Arrangement,
  units: Units,
  counts: ArrayCounts,
) -> float:
  """Return what a block needs while it is worked on."""
  space = 0.0
  if arrangement.mesh.fsdp > 1:
    # Parameters, and their gradients before they are shared out.
    learns = workload.learns is not Learns.TUNE
    arrays = counts.gathered_block if learns else 1.0
    space += arrays * _block_bytes(workload, arrangement)
    if arrangement.microbatches > 1 and not arrangement.is_pipeline:
      # What heads gather stays for all microbatches, gradients beside it.
      space += counts.kept_gathered * matrices(workload) * units.matrix
  takes_turns = arrangement.microbatches > 1 and not arrangement.is_pipeline
  if counts.copies_for_microbatches and takes_turns:
    space += _copies_for_microbatches(workload, arrangement)
  is_cut_twice = arrangement.mesh.fsdp > 1 and arrangement.mesh.model > 1
  if counts.turns_frozen and is_cut_twice and workload.learns is Learns.TUNE:
    space += _kernel_bytes(workload, arrangement, attention=('query',))
    space += _kernel_bytes(workload, arrangement, mlp=('up',))
  if workload.backbone is Quantization.INT8:
    # Its kernels are converted for their products.
    space += workload.value_bytes * _block_values(workload, arrangement)
  exits = workload.exits
  if arrangement.is_pipeline:
    exits = exit_kinds(workload)
  taps = tap_streams(exits) * units.cut_stream
  if workload.learns is Learns.TUNE:
    work = max(
      count(counts.forward, units), count(counts.forward_scores, units)
    )
    return space + taps + work
  kept = arrangement.rematerialization is Rematerialization.NONE
  mlp = counts.mlp_backward_kept if kept else counts.mlp_backward
  return space + 2 * taps + backward_space(units, mlp, counts)


def backward_space(units: Units, mlp: float, counts: ArrayCounts) -> float:
  """Return what a block's backward needs, `mlp` arrays of its MLP with it."""
  attention = max(
    count(counts.around_attention, units), count(counts.in_attention, units)
  )
  return mlp * units.mlp + attention


def _block_bytes(workload: Workload, arrangement: Arrangement) -> float:
  """Return the bytes of one block, not cut along `fsdp`."""
  sizes = {'model': arrangement.mesh.model}
  return device_bytes(_blocks(workload), sizes) / workload.depth


def _copies_for_microbatches(
  workload: Workload, arrangement: Arrangement
) -> float:
  space = _kernel_bytes(workload, arrangement, attention=_TURNED)
  if workload.learns is Learns.TUNE and arrangement.mesh.fsdp == 1:
    trained, _ = shapes(workload)
    sizes = arrangement.mesh.sizes()
    space += workload.value_bytes * device_values(trained, sizes)
  return space


def _kernel_bytes(
  workload: Workload, arrangement: Arrangement, **names: tuple[str, ...]
) -> float:
  """Return the bytes of some kernels of all blocks on a device."""
  blocks = _blocks(workload)['blocks']
  kernels = {
    part: {k: v for k, v in blocks.get(part, {}).items() if k in wanted}
    for part, wanted in names.items()
  }
  return device_bytes({'blocks': kernels}, arrangement.mesh.sizes())


def _block_values(workload: Workload, arrangement: Arrangement) -> float:
  sizes = {'model': arrangement.mesh.model}
  return device_values(_blocks(workload), sizes) / workload.depth


def _blocks(workload: Workload) -> PyTree:
  trained, frozen = shapes(workload)
  return {'blocks': {**trained, **frozen}['backbone']['blocks']}


def matrices(workload: Workload) -> int:
  """Return how many matrices as wide as the vocabulary a step works with."""
  untied = sum(e.output is OutputMatrix.UNTIED for e in workload.exits)
  if workload.learns is Learns.TUNE:
    return untied
  own_head = not workload.config.model.tied_head
  return untied + own_head + 1
