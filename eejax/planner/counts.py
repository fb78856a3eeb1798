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
"""How many arrays stand at once, as each platform's compiler has it.

See `eejax.planner.memory` for the letters. The counts were read off compiled
programs: those of CPUs float32, with jaxlib 0.10.2, those of the others
bfloat16, with the same jaxlib's plug-in for GPUs and libtpu 0.0.42.1.
"""

import dataclasses
import types
from collections.abc import Mapping

from eejax.hardware import Platform

Arrays = Mapping[str, float]


def _arrays(**counts: float) -> Arrays:
  return types.MappingProxyType(counts)


@dataclasses.dataclass(frozen=True)
class ArrayCounts:
  """How many arrays of each kind stand at once in each part of a step.

  A block's backward is at its fullest either in its attention or around it,
  and keeps what the MLP's gradients are made of meanwhile.

  Attributes:
    mlp_backward: arrays of the MLP that a block's backward holds.
    mlp_backward_kept: likewise, where nothing is computed again.
    around_attention: what stands around attention in a block's backward.
    in_attention: what stands in it.
    forward: what stands in a block that only goes forward.
    forward_scores: what stands in its attention.
    residuals: what a block keeps that computes nothing again.
    exit_norm: what a head of a norm holds until its gradients are there.
    exit_mlp: what an MLP exit holds.
    exit_bottleneck: what a bottleneck exit holds, `rank` for its inner width.
    logits: of a chunk.
    updates: arrays as large as all that is trained while the optimizer works
      and all else is gone.
    tuning_gradients: arrays as large as all that is trained, in a pipeline
      that only goes forward.
    gathered_block: parameters of a block with their gradients, where `fsdp`
      cuts them and blocks learn.
    gathered_heads: likewise of output matrices, in float32.
    heads_at_once: how many of these stand at once; None is all.
    gathered_inner: share of exits' own parameters that is gathered at once.
    kept_gathered: output matrices that stay for all microbatches.
    turns_frozen: whether a kernel of attention and one of the MLP are turned,
      of all frozen blocks, where `fsdp` and `model` cut them.
    copies_for_microbatches: whether kernels of attention are turned, and what
      learns beside frozen blocks is cast, before microbatches take turns.
    frees_blocks: whether what blocks needed is free when the gradients of
      exits are made, where blocks are frozen.
  """

  mlp_backward: float
  mlp_backward_kept: float
  around_attention: Arrays
  in_attention: Arrays
  forward: Arrays
  forward_scores: Arrays
  residuals: Arrays
  exit_norm: Arrays
  exit_mlp: Arrays
  exit_bottleneck: Arrays
  logits: float
  updates: float
  tuning_gradients: float
  gathered_block: float
  gathered_heads: float
  heads_at_once: int | None
  gathered_inner: float
  kept_gathered: float
  turns_frozen: bool
  copies_for_microbatches: bool
  frees_blocks: bool


_CPU = ArrayCounts(
  mlp_backward=8.0,
  mlp_backward_kept=5.0,
  around_attention=_arrays(stream=6.0, cut_stream=3.0, query=12.0, key=2.0),
  in_attention=_arrays(scores=1.0, stream=3.0),
  forward=_arrays(mlp=3.0, stream=4.0, query=2.0, key=2.0),
  forward_scores=_arrays(scores=1.0, stream=1.0, query=2.0, key=2.0),
  residuals=_arrays(mlp=6.0, stream=3.0, cut_stream=4.0, query=3.0, key=2.0),
  exit_norm=_arrays(stream=3.0),
  exit_mlp=_arrays(mlp=6.0, stream=2.0),
  exit_bottleneck=_arrays(rank=2.0, stream=7.5),
  logits=2.0,
  updates=2.0,
  tuning_gradients=2.0,
  gathered_block=2.0,
  gathered_heads=2.0,
  heads_at_once=None,
  gathered_inner=1.0,
  kept_gathered=2.0,
  turns_frozen=False,
  copies_for_microbatches=False,
  frees_blocks=False,
)
# Norms keep float32 beside bfloat16, so a stream counts twice there; updates
# take the place of what they change.
_GPU = dataclasses.replace(
  _CPU,
  residuals=_arrays(mlp=6.0, stream=3.0, cut_stream=8.0, query=3.0, key=2.0),
  exit_mlp=_arrays(mlp=2.5, stream=2.0),
  gathered_inner=0.5,
  turns_frozen=True,
  updates=0.0,
  tuning_gradients=3.0,
  frees_blocks=True,
)
# Parameters are cast before they are gathered, and matrices go one by one: two
# casts, of which one is still on its way, and a gradient in float32.
_TPU = dataclasses.replace(
  _GPU,
  gathered_block=1.5,
  gathered_heads=2.0,
  heads_at_once=1,
  gathered_inner=0.2,
  kept_gathered=0.0,
  turns_frozen=False,
  copies_for_microbatches=True,
)
COUNTS: Mapping[Platform, ArrayCounts] = types.MappingProxyType(
  {Platform.CPU: _CPU, Platform.GPU: _GPU, Platform.TPU: _TPU}
)
