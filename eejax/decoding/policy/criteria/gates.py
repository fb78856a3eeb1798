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
"""The criterion that reads a trained gate, before any head."""

import jax

from eejax.config import ExitConfig, GateKind
from eejax.decoding.policy.criteria.criterion import Criterion, Evidence, Reads
from eejax.errors import ArgumentError
from eejax.types import Array, Float


class GateScore(Criterion):
  """Trust a trained probe of the stream, linear or an MLP.

  score = sigmoid(g), with g the gate's logit: the probability, as trained,
  that the exit's token is the full model's. Range (0, 1).

  Reference:
    Schuster et al. (2022), Confident Adaptive Language Modeling, section 3.2
    ("early exit classifier").
  """

  name = 'gate'
  reads = Reads.GATE

  def score(self, evidence: Evidence) -> Float[Array, '*rows']:
    """Return the probability of agreement."""
    assert evidence.gate_logit is not None
    return jax.nn.sigmoid(evidence.gate_logit)

  def check(self, exits: tuple[ExitConfig, ...]) -> None:
    """Raise an `ArgumentError` naming the exits that have no gate."""
    lacking = [str(e.depth) for e in exits if e.gate is GateKind.NONE]
    if lacking:
      noun = 'depth' if len(lacking) == 1 else 'depths'
      raise ArgumentError(
        f'criterion gate needs a gate at every exit, and there is none at '
        f'{noun} {", ".join(lacking)}; add exits with :gate and tune them, '
        'or use max_prob, margin or entropy.'
      )
