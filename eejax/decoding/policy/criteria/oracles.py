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
"""Oracles: what exits could save if the final output were known beforehand.

They are ceilings, not policies, and different ones: name them when you report
them. Both need the full model's token, so they can be decoded with only where
every row computes everything, the reference batch policy.
"""

import jax.numpy as jnp

from eejax.decoding.policy.criteria.criterion import Criterion, Evidence, Reads
from eejax.errors import ArgumentError
from eejax.types import Array, Bool, Float, Int


def matches_final(
  top1_by_exit: Int[Array, '*rows X'], final_top1: Int[Array, '*rows']
) -> Bool[Array, '*rows X']:
  """Return at which exits the likeliest token is the full model's."""
  return top1_by_exit == final_top1[..., None]


def stays_final(
  top1_by_exit: Int[Array, '*rows X'], final_top1: Int[Array, '*rows']
) -> Bool[Array, '*rows X']:
  """Return from which exits on the likeliest token stays the full model's."""
  matches = matches_final(top1_by_exit, final_top1)
  later = jnp.flip(jnp.cumsum(jnp.flip(~matches, axis=-1), axis=-1), axis=-1)
  return later == 0


class FirstMatch(Criterion):
  """Leave at the first exit whose token is the full model's.

  score = 1 if y = y_L else 0, with y the exit's likeliest token and y_L the
  full model's. Values 0 and 1. Chance agreement counts, so it is the more
  generous of the two.

  Reference:
    Shan et al. (2024), Early Exit Is a Natural Capability in
    Transformer-based Models (the oracle strategy).
  """

  name = 'first_match'
  reads = Reads.FINAL

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return 1 for rows whose token is the full model's."""
    marks = matches_final(*_outcome(evidence))
    return marks[..., evidence.exit_index].astype(jnp.float32)


class Stable(Criterion):
  """Leave at the first exit from which on no exit's token changes again.

  score = 1 if y_j = y_L at this exit and all deeper ones, else 0. Values 0
  and 1; never before `first_match`.

  Reference:
    Lioubashevski et al. (2025), Looking Beyond the Top-1: Transformers
    Determine Top Tokens in Order, section 3 ("saturation"), at exits instead
    of layers.
  """

  name = 'stable'
  reads = Reads.FINAL

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return 1 for rows whose token stays the full model's."""
    marks = stays_final(*_outcome(evidence))
    return marks[..., evidence.exit_index].astype(jnp.float32)


def _outcome(
  evidence: Evidence,
) -> tuple[Int[Array, '*rows X'], Int[Array, '*rows']]:
  if evidence.top1_by_exit is None or evidence.final_top1 is None:
    raise ArgumentError(
      'first_match and stable are oracles: they compare with the final output, '
      'which is known beforehand only with the reference batch policy; use it, '
      'or another criterion.'
    )
  return evidence.top1_by_exit, evidence.final_top1
