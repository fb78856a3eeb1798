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
"""Filling a pipeline's bubble with microbatches that do not go all the way.

While `one_f_one_b` fills up, early stages have nothing to bring back yet. K
further microbatches may enter ahead of the others; filler n turns back at
stage P - 1 - K + n, going backward from that stage's own exit, and so trains
the exits up to there and what lies before them (EE-LLM, arXiv 2312.04916,
"filling explicit bubbles"). Time that is free of ticks has room for

  floor((P - 1) r / (1 + r)),   r = backward / forward,

at no cost. Ticks have not: a filler enters the first stage in a tick of its
own, and since no stage may go backward in a tick in which all others only go
forward without making it longer, the K ticks ahead last a forward each. So

  T(K) = T(0) + K f:

no filler is free, and each is a microbatch at the price of its forward, 1 /
(1 + r) of a whole one, that teaches early exits alone. `filler_cost` counts it
out. Where early exits are what is short of data it may pay; else more
microbatches do as much for the bubble and teach all exits. Hence the switch,
which is off.

An exit on stage s then sees M microbatches and those fillers that reach it. Its
loss is the mean over the tokens that it sees, so the gradient stays unbiased:
over all orders of the microbatches its mean is that of the whole batch. (The
reference implementation divides all of them alike, which weighs early exits by
up to (M + K) / M.)
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from eejax.pipeline.cost import Keep, StageCost, lock_step_cost
from eejax.pipeline.schedule import Schedule, reaches
from eejax.types import Array, Float


def free_fillers(stages: int, *, ratio: float) -> int:
  """Return how many fillers cost nothing where there are no ticks.

  Args:
    stages: P.
    ratio: backward over forward.

  Reference:
    EE-LLM's schedule for explicit bubbles.
  """
  return math.floor((stages - 1) * ratio / (1 + ratio))


def filler_cost(
  schedule: Schedule,
  costs: Sequence[StageCost],
  *,
  keep: Keep = Keep.RESIDUALS,
) -> float:
  """Return what a schedule's fillers add to a step, counted by ticks."""
  without = Schedule(schedule.kind, schedule.stages, schedule.microbatches)
  return lock_step_cost(schedule, costs, keep=keep) - lock_step_cost(
    without, costs, keep=keep
  )


def loss_scales(
  tokens: Float[Array, 'M'], *, schedule: Schedule
) -> Float[Array, 'P']:
  """Return the factor of the losses on each piece of depth.

  All tokens over those that the piece sees: with it, sums divided by all
  tokens are means over those seen.

  Args:
    tokens: of each microbatch, fillers first.
    schedule: which microbatch goes where.
  """
  places = schedule.stages * schedule.rounds
  if not schedule.fillers:
    return jnp.ones((places,), jnp.float32)
  seen = np.array(
    [
      [
        reaches(n, s, stages=schedule.stages, fillers=schedule.fillers)
        for s in range(schedule.stages)
      ]
      for n in range(tokens.shape[0])
    ],
    np.float32,
  )
  return jnp.sum(tokens) / jnp.maximum(tokens @ seen, 1.0)
