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
"""What heads need of a device's memory while they are worked on.

See `eejax.planner.memory` for the letters and `eejax.planner.counts` for how
many arrays there are.
"""

from eejax.config import ExitConfig, ExitHeadKind, OutputMatrix
from eejax.planner.counts import ArrayCounts
from eejax.planner.space import (
  FLOAT32,
  Units,
  backward_space,
  count,
  matrices,
)
from eejax.planner.workload import (
  Arrangement,
  Learns,
  Workload,
  device_bytes,
  device_values,
  shapes,
)
from eejax.types import PyTree


def head_space(
  workload: Workload,
  arrangement: Arrangement,
  units: Units,
  counts: ArrayCounts,
) -> float:
  """Return what heads need while they are worked on.

  Without stages their hidden states are all made before the first head's
  logits, and gradients of these wait for the last.
  """
  exits = [_exit_space(e, workload, units, counts) for e in workload.exits]
  arrays = matrices(workload)
  if arrangement.is_pipeline:
    # A stage takes its heads one after the other, backward and all.
    exits, arrays = [max(exits, default=0.0)], min(arrays, 1)
  space = counts.logits * units.logits + sum(exits)
  if workload.has_final_head:
    space += count(counts.exit_norm, units)
  if arrangement.mesh.fsdp > 1:
    # Gathered for the product, and a gradient that is not yet shared out.
    at_once = min(arrays, counts.heads_at_once or arrays)
    space += counts.gathered_heads * at_once * units.matrix
    if workload.learns is Learns.TUNE and _reads_frozen_matrix(workload):
      space += units.matrix * workload.value_bytes / FLOAT32
    inner = counts.gathered_inner * _inner_bytes(workload, arrangement)
    space += inner
    if workload.learns is Learns.TUNE and arrangement.microbatches > 1:
      # What is gathered stays for all microbatches, beside its gradients.
      trained, _ = shapes(workload)
      own = device_values(trained, arrangement.mesh.sizes())
      space += inner + FLOAT32 * own
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


def _exit_space(
  e: ExitConfig, workload: Workload, units: Units, counts: ArrayCounts
) -> float:
  match e.head:
    case ExitHeadKind.MLP:
      return count(counts.exit_mlp, units)
    case ExitHeadKind.BOTTLENECK_MLP:
      rank = units.stream * (e.rank or 0) / workload.config.model.embed_dim
      held = counts.exit_bottleneck
      return held['rank'] * rank + held['stream'] * units.stream
    case ExitHeadKind.BLOCK:
      return backward_space(units, counts.mlp_backward, counts)
  return count(counts.exit_norm, units)


def _reads_frozen_matrix(workload: Workload) -> bool:
  return any(e.output is not OutputMatrix.UNTIED for e in workload.exits)
