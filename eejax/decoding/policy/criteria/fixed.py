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
"""Criteria that read no signal: the depth is settled beforehand."""

import dataclasses

import jax.numpy as jnp

from eejax.decoding.policy.criteria.criterion import Criterion, Evidence, Reads
from eejax.errors import ArgumentError
from eejax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Static(Criterion):
  """Leave at the same depth always.

  score = 1 if depth >= shallowest else 0. Values 0 and 1; every threshold
  above 0 leaves at the first exit that is as deep.

  Reference:
    The baseline of Schuster et al. (2022), Confident Adaptive Language
    Modeling, section 5 ("static").

  Attributes:
    shallowest: the depth from which on a row may leave; 0 is the first exit.
  """

  shallowest: int = 0

  name = 'static'
  reads = Reads.NOTHING

  def __post_init__(self):
    if self.shallowest < 0:
      raise ArgumentError(
        f'static takes a depth of 0 or more, not {self.shallowest}.'
      )

  def score(self, evidence: Evidence) -> Float[Array, '']:
    """Return 1 for every row or 0 for every row."""
    return jnp.float32(evidence.depth >= self.shallowest)


@dataclasses.dataclass(frozen=True)
class DepthSchedule(Criterion):
  """Let depth fall with the position, and never rise again.

  depth(t) = round(deepest - (deepest - shallowest) min(t / horizon, 1)),
  score = 1 if the exit is at least as deep, else 0. Values 0 and 1; t is the
  position of the newest token in its row's text.

  Reference:
    Del Corro et al. (2023), SkipDecode (arXiv 2307.02628), section 3, whose
    batches stand at one position; here every row has its own.

  Attributes:
    horizon: position from which on the shallowest depth holds, at least 1.
    shallowest: depth at the end.
    deepest: depth at position 0; 0 stands for the whole model.
  """

  horizon: int = 256
  shallowest: int = 0
  deepest: int = 0

  name = 'schedule'
  reads = Reads.POSITIONS

  def __post_init__(self):
    if self.horizon < 1 or self.shallowest < 0 or self.deepest < 0:
      raise ArgumentError(
        'schedule takes a horizon of at least 1 and depths of 0 or more, not '
        f'{self.notation}.'
      )
    if self.deepest and self.deepest < self.shallowest:
      raise ArgumentError(
        f'the depth of {self.notation} would rise; give schedule(horizon, '
        'shallowest, deepest).'
      )

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return 1 for rows whose depth at their position is reached."""
    assert evidence.positions is not None
    deepest = self.deepest or evidence.num_layers
    passed = jnp.clip(evidence.positions / self.horizon, 0.0, 1.0)
    fall = max(deepest - self.shallowest, 0)
    wanted = jnp.round(deepest - fall * passed)
    return (evidence.depth >= wanted).astype(jnp.float32)
