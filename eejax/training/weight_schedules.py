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
"""How much each exit's loss counts, as pure functions of the step.

The objective is `L_final + sum_i w_i(t) L_i` (EE-LLM, arXiv 2312.04916,
section 3): the final loss always counts 1 and weights are not normalised.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence

import jax.numpy as jnp

from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError
from eejax.types import Array, Float, Int


class Ramp(enum.Enum):
  """How a weight goes from its first value to its last."""

  CONSTANT = 'constant'
  LINEAR = 'linear'
  COSINE = 'cosine'


class Curriculum(enum.Enum):
  """Which exits take part in a step; the others are not computed at all.

  ALL         every exit, every step
  ROTATIONAL  one exit a step, in turn
  GRADUAL     the deepest exit first, one more at equal intervals

  Reference: LayerSkip (arXiv 2404.16710), section 4.1.2.
  """

  ALL = 'all'
  ROTATIONAL = 'rotational'
  GRADUAL = 'gradual'


@dataclasses.dataclass(frozen=True)
class ExitWeights:
  """Describe the weights of the exit losses over time.

  Attributes:
    weights: final weight of each exit, shallowest first; one number stands
      for all of them.
    initial: first weight of each exit, in the same form; read only where
      `ramp` is not `CONSTANT`.
    ramp: the way from `initial` to `weights`.
    ramp_steps: steps that way takes; the weight stays put afterwards.
    curriculum: which exits take part.
    gradual_steps: `GRADUAL`: steps until the last exit takes part.
  """

  weights: float | Sequence[float] = (1.0,)
  initial: float | Sequence[float] = (0.0,)
  ramp: Ramp = Ramp.CONSTANT
  ramp_steps: int = 0
  curriculum: Curriculum = Curriculum.ALL
  gradual_steps: int = 0

  def __post_init__(self):
    check_fields(self)
    for name in ('weights', 'initial'):
      if isinstance(getattr(self, name), list):  # as gin writes them
        object.__setattr__(self, name, tuple(getattr(self, name)))
      values = _as_tuple(getattr(self, name))
      if not all(math.isfinite(v) and v >= 0 for v in values):
        listed = ', '.join(map(str, values))
        raise ArgumentError(f'exit {name} must be numbers >= 0, not {listed}.')
    if self.ramp is not Ramp.CONSTANT and self.ramp_steps < 1:
      raise ArgumentError(
        f'a {self.ramp.value} ramp of exit weights needs ramp_steps >= 1.'
      )
    if self.curriculum is Curriculum.GRADUAL and self.gradual_steps < 1:
      raise ArgumentError('the gradual curriculum needs gradual_steps >= 1.')

  def check(self, num_exits: int) -> None:
    """Raise `ArgumentError` unless there is a weight for every exit."""
    for name in ('weights', 'initial'):
      given = len(_as_tuple(getattr(self, name)))
      if given not in (1, num_exits):
        raise ArgumentError(
          f'there are {given} exit {name} for {num_exits} exits; give one '
          'for each, or a single one for all.'
        )


def ramp_value(
  step: Int[Array, ''] | int,
  *,
  initial: Float[Array, 'E'],
  final: Float[Array, 'E'],
  steps: int,
  kind: Ramp,
) -> Float[Array, 'E']:
  """Return the value at `step` of a ramp from `initial` to `final`.

  Linear: w0 + (w1 - w0) t / T; cosine: w0 + (w1 - w0) (1 - cos(pi t / T)) / 2,
  with t held at T from there on.

  Reference: EE-LLM's training code, exit layer weight warm-up.
  """
  if kind is Ramp.CONSTANT:
    return final
  progress = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1.0)
  if kind is Ramp.COSINE:
    progress = (1 - jnp.cos(jnp.pi * progress)) / 2
  return initial + (final - initial) * progress


def weights_at(
  step: Int[Array, ''] | int, *, schedule: ExitWeights, num_exits: int
) -> Float[Array, 'E']:
  """Return every exit's weight at `step`, before the curriculum."""
  schedule.check(num_exits)

  def spread(values):
    values = jnp.asarray(_as_tuple(values), jnp.float32)
    return jnp.broadcast_to(values, (num_exits,))

  return ramp_value(
    step,
    initial=spread(schedule.initial),
    final=spread(schedule.weights),
    steps=schedule.ramp_steps,
    kind=schedule.ramp,
  )


def groups(
  curriculum: Curriculum, num_exits: int
) -> tuple[tuple[int, ...], ...]:
  """Return the sets of exits a curriculum ever runs, by index.

  A train step compiles one branch for each and runs that of `group_at`.
  """
  every = tuple(range(num_exits))
  if curriculum is Curriculum.ROTATIONAL:
    return tuple((i,) for i in every)
  if curriculum is Curriculum.GRADUAL:
    return tuple(every[-n:] for n in range(1, num_exits + 1))
  return (every,)


def group_at(
  step: Int[Array, ''] | int, *, schedule: ExitWeights, num_exits: int
) -> Int[Array, '']:
  """Return the index in `groups` of the exits that take part in `step`."""
  step = jnp.asarray(step, jnp.int32)
  if schedule.curriculum is Curriculum.ROTATIONAL:
    return step % max(num_exits, 1)
  if schedule.curriculum is Curriculum.GRADUAL and num_exits > 1:
    # The k-th further exit joins at k / (E - 1) of the way.
    joined = step * (num_exits - 1) // schedule.gradual_steps
    return jnp.minimum(joined, num_exits - 1)
  return jnp.zeros((), jnp.int32)


def _as_tuple(values: float | Sequence[float]) -> tuple[float, ...]:
  if isinstance(values, Sequence):
    return tuple(float(v) for v in values)
  return (float(values),)
