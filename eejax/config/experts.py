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
"""What a model whose MLPs are mixtures of experts says about them."""

import dataclasses

from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
  """Describe the experts of a model; every block has as many.

  Attributes:
    num_experts: experts of a block (X).
    top_k: experts that a token is sent to (J).
    expert_dim: width of an expert's MLP (F).
    renormalized: whether the probabilities of a token's experts are divided
      by their sum, so that they add up to one.
    shared_dim: width of the shared expert's MLP, which every token passes and
      a sigmoid scales (Qwen2-MoE); None has none.
    balance_weight: factor of the load-balancing loss in training.
  """

  num_experts: int
  top_k: int
  expert_dim: int
  renormalized: bool = True
  shared_dim: int | None = None
  balance_weight: float = 0.001

  def __post_init__(self):
    check_fields(self)
    sizes = {
      'the number of experts': self.num_experts,
      "an expert's width": self.expert_dim,
      "the shared expert's width": self.shared_dim,
    }
    for name, size in sizes.items():
      if size is not None and size < 1:
        raise ArgumentError(f'{name} must be at least 1, not {size}.')
    if not 1 <= self.top_k <= self.num_experts:
      raise ArgumentError(
        f'a token cannot be sent to {self.top_k} of {self.num_experts} '
        'experts; it takes at least one and at most all of them.'
      )
    if not self.balance_weight >= 0:
      raise ArgumentError(
        'the weight of the load-balancing loss must be at least 0, not '
        f'{self.balance_weight}.'
      )

  def num_values(self, embed_dim: int, *, num: int) -> int:
    """Return how many numbers the kernels of a routed MLP have.

    Args:
      embed_dim: width of the residual stream.
      num: how many experts are counted: `num_experts` for what is stored,
        `top_k` for what a token is multiplied by.
    """
    wide = num * self.expert_dim + (self.shared_dim or 0)
    gates = self.num_experts + (self.shared_dim is not None)
    return embed_dim * (3 * wide + gates)
