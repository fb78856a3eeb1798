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
"""A backbone whose projections are int8; everything else stays as it is.

Exits are taken where a score reaches a threshold, and small errors move
scores. So norms, the embedding, output matrices, exit heads and gates keep
their precision: errors of the blocks reach a score through them alone.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from eejax.models.stacking import MLPS_WITHIN
from eejax.ops.quant import Quantized, quantize
from eejax.types import Params, PyTree


class Projected(NamedTuple):
  """Say what the dimensions of a kernel are.

  Attributes:
    num_inputs: how many are summed over.
    num_leading: how many stand before those: 1 where there are experts.
  """

  num_inputs: int
  num_leading: int


# Dimensions that each projection of a block sums over; see
# `eejax.models.decoder` for their shapes, and `eejax.models.stacking.fuse`.
NUM_INPUTS = {
  'attention': {'query': 1, 'key': 1, 'value': 1, 'qkv': 1, 'output': 2},
  'mlp': {'gate': 1, 'up': 1, 'gate_up': 1, 'down': 1},
  'mixer': {
    'gate': 1,
    'inner': 1,
    'input': 1,
    'readout': 1,
    'step': 1,
    'stream': 1,
    'selection': 1,
    'output': 1,
  },
}


def map_projections(
  block: PyTree, change: Callable[[Params, Projected], Params]
) -> PyTree:
  """Return a block with `change` done to each projection that has a kernel.

  Routers and gates of shared experts are none: they decide where tokens go.

  Args:
    block: projections may be fused or not.
    change: given a projection, and what its kernel's dimensions are.
  """
  changed = dict(block)
  for part, projections in NUM_INPUTS.items():
    if part not in block:
      continue
    changed[part] = _map_part(block[part], projections, 0, change)
    for name in MLPS_WITHIN & changed[part].keys():
      changed[part][name] = _map_part(
        block[part][name], projections, int(name == 'experts'), change
      )
  return changed


def _map_part(part, projections, num_leading, change) -> Params:
  named = {n: Projected(i, num_leading) for n, i in projections.items()}
  return {n: change(p, named[n]) if n in named else p for n, p in part.items()}


def quantize_backbone(params: Params) -> Params:
  """Return parameters in which kernels of the blocks are int8.

  Models run on them as on any other, in training's form and in decoding's;
  nothing can be trained.

  Args:
    params: the whole tree; blocks may be stacked or a sequence.
  """
  backbone = params['backbone']
  blocks = backbone['blocks']
  if isinstance(blocks, Mapping):
    blocks = quantize_block(blocks, leading=1)
  else:
    blocks = tuple(quantize_block(block) for block in blocks)
  return {**params, 'backbone': {**backbone, 'blocks': blocks}}


def quantize_block(block: PyTree, *, leading: int = 0) -> PyTree:
  """Return a block with int8 kernels, one scale for each output channel.

  Args:
    block: projections may be fused or not, quantised already or not.
    leading: 1 for a stack of blocks, 0 for one.
  """

  def change(projection: Params, projected: Projected) -> Params:
    first = leading + projected.num_leading
    axes = tuple(range(first, first + projected.num_inputs))
    return _quantize(projection, axes)

  return map_projections(block, change)


def _quantize(projection: Params, axes: tuple[int, ...]) -> Params:
  kernel = projection['kernel']
  if isinstance(kernel, Quantized):
    return projection
  return {**projection, 'kernel': quantize(kernel, axes=axes)}
