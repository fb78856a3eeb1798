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
"""What goes into a step and what comes out, as sums over tokens."""

import dataclasses
from typing import TYPE_CHECKING, Any

import flax.struct
import jax.numpy as jnp

from eejax.types import Array, Float, Int

# What has a shape and a dtype: arrays of the device in a step, of the host when
# numbers are shown, and jax's stand-ins for both when a step is only lowered
# or a checkpoint's shape is asked for.
if TYPE_CHECKING:
  AnyArray = Array
else:
  AnyArray = Any


@flax.struct.dataclass
class TokenBatch:
  """A batch of token rows on the device.

  Attributes:
    tokens: inputs.
    targets: what should follow each.
    weights: 1 where the target counts, else 0.
    positions: position of each token in its own text.
    segment_ids: which text of its row a token belongs to; 0 is padding.
    streams: residual streams that exits read, where the backbone need not be
      run; see `eejax.training.activation_cache`.
    residuals: streams below an MLP, likewise.
  """

  tokens: Int[AnyArray, '*rows T']
  targets: Int[AnyArray, '*rows T']
  weights: Float[AnyArray, '*rows T']
  positions: Int[AnyArray, '*rows T']
  segment_ids: Int[AnyArray, '*rows T']
  streams: Float[AnyArray, '*rows streams T D'] | None = None
  residuals: Float[AnyArray, '*rows residuals T D'] | None = None


@flax.struct.dataclass
class HeadSums:
  """Sums over the tokens that count; divide them by `tokens`.

  Attributes:
    tokens: tokens counted: 0 where the head took no part.
    loss: cross-entropy, in nats.
    correct: tokens whose likeliest next token is the target.
    agree: tokens whose likeliest next token is the final head's.
    confidence: largest probability.
    divergence: KL(final || exit) at the objective's temperature.
    gate_loss: the gate's binary cross-entropy.
    gate_correct: tokens where the gate, at 1/2, predicts agreement rightly.
  """

  tokens: Float[AnyArray, '*E']
  loss: Float[AnyArray, '*E']
  correct: Float[AnyArray, '*E']
  agree: Float[AnyArray, '*E']
  confidence: Float[AnyArray, '*E']
  divergence: Float[AnyArray, '*E']
  gate_loss: Float[AnyArray, '*E']
  gate_correct: Float[AnyArray, '*E']


@flax.struct.dataclass
class LossSums:
  """Sums of a step; microbatches are added leaf by leaf.

  Attributes:
    objective: what is differentiated, times the number of tokens.
    tokens: tokens that count.
    final: of the final head; its `tokens` is 0 where it was not run.
    exits: of every exit, shallowest first.
    balance: the load-balancing loss of experts, times the number of tokens;
      None where there are none, or they are not trained, or it has no weight.
  """

  objective: Float[AnyArray, '']
  tokens: Float[AnyArray, '']
  final: HeadSums
  exits: HeadSums
  balance: Float[AnyArray, ''] | None = None


def no_sums(shape: tuple[int, ...]) -> HeadSums:
  """Return the sums of heads that took no part."""
  names = [f.name for f in dataclasses.fields(HeadSums)]
  return HeadSums(**{name: jnp.zeros(shape, jnp.float32) for name in names})
