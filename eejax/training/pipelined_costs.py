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
"""What blocks and heads of a model cost, relative to one another.

Multiplications of a token, forward; a backward is twice as many. Attention's
share that grows with the length of a text is left out: it is in all blocks.
"""

from collections.abc import Sequence

from eejax.config import (
  ExitConfig,
  ExitHeadKind,
  ModelConfig,
)
from eejax.pipeline.balance import PlacedExit
from eejax.pipeline.cost import StageCost

# A backward multiplies once for the weights and once for the inputs.
BACKWARD = 2.0


def block_cost(model: ModelConfig) -> StageCost:
  """Return the cost of a block."""
  forward = _attention(model) + _mlp(model)
  return StageCost(forward, BACKWARD * forward)


def final_cost(model: ModelConfig) -> StageCost:
  """Return the cost of the final head."""
  forward = _output(model)
  return StageCost(0.0, 0.0, forward, BACKWARD * forward)


def exit_costs(
  exits: Sequence[ExitConfig], *, model: ModelConfig
) -> list[PlacedExit]:
  """Return the costs of exits' heads, and which of them can move."""
  found = []
  for e in exits:
    forward = _output(model)
    match e.head:
      case ExitHeadKind.MLP:
        forward += _mlp(model)
      case ExitHeadKind.BLOCK:
        forward += _attention(model) + _mlp(model)
      case ExitHeadKind.BOTTLENECK_MLP:
        forward += 2 * model.embed_dim * (e.rank or 0)
    found.append(
      PlacedExit(
        depth=e.depth,
        forward=forward,
        backward=BACKWARD * forward,
        # An MLP exit reads inside its block.
        movable=e.head is not ExitHeadKind.MLP,
      )
    )
  return found


def _attention(model: ModelConfig) -> float:
  """Return the numbers of what mixes tokens, a state-space mixer included."""
  heads = 2 * model.num_heads + 2 * model.num_kv_heads
  mixer = 0
  if model.state_space is not None:
    mixer = model.state_space.num_values(model.embed_dim)
  return float(model.embed_dim * model.head_dim * heads + mixer)


def _mlp(model: ModelConfig) -> float:
  return float(model.mlp_values)


def _output(model: ModelConfig) -> float:
  return float(model.embed_dim * model.vocab_size)
