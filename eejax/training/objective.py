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
"""What a run minimises and how its backbone is run, as frozen values."""

import dataclasses
import enum

from eejax.config import EarlyExitConfig
from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError
from eejax.models.decoder import Rematerialization
from eejax.ops.attention import AttentionImplementation
from eejax.training import freeze
from eejax.training.freeze import Regime
from eejax.training.weight_schedules import ExitWeights


class TokenWeights(enum.Enum):
  """How much a token counts in an exit's loss.

  CONFIDENCE weighs it by the exit's largest probability, not differentiated:
  the exit spends itself on tokens it may one day be trusted with.
  """

  UNIFORM = 'uniform'
  CONFIDENCE = 'confidence'


@dataclasses.dataclass(frozen=True)
class Objective:
  """Describe what a run minimises.

  Attributes:
    regime: which losses and parameters take part.
    exit_weights: how much each exit's loss counts over time.
    token_weights: how much each token counts in it.
    distillation_weight: share of an exit's loss that is
      temperature^2 KL(final || exit), the final distribution detached; the
      rest is cross-entropy with the text. In [0, 1].
    temperature: softens both distributions of the distillation, > 0.
    gate_weight: factor of the gates' binary cross-entropy; gates read
      detached streams, so it changes nothing but their own rate.
    chunk_size: tokens whose logits stand at once.
  """

  regime: Regime = Regime.STANDARD
  exit_weights: ExitWeights = ExitWeights()
  token_weights: TokenWeights = TokenWeights.UNIFORM
  distillation_weight: float = 0.0
  temperature: float = 1.0
  gate_weight: float = 1.0
  chunk_size: int = 1024

  def __post_init__(self):
    check_fields(self)
    if not 0 <= self.distillation_weight <= 1:
      raise ArgumentError(
        'distillation_weight is a share between 0 and 1, not '
        f'{self.distillation_weight}.'
      )
    if self.temperature <= 0:
      raise ArgumentError(
        f'temperature must be above 0, not {self.temperature}.'
      )
    if self.gate_weight < 0:
      raise ArgumentError(f'gate_weight must be >= 0, not {self.gate_weight}.')
    if self.chunk_size < 1:
      raise ArgumentError(
        f'chunk_size must be at least 1, not {self.chunk_size}.'
      )

  def full_depth(self, config: EarlyExitConfig) -> bool:
    """Return whether a step runs every block and the final head."""
    return freeze.needs_full_depth(
      config,
      regime=self.regime,
      distillation_weight=self.distillation_weight,
      gate_weight=self.gate_weight,
    )


@dataclasses.dataclass(frozen=True)
class Forward:
  """Say how the backbone is run.

  Attributes:
    dtype: compute dtype.
    rematerialization: what the backward pass recomputes.
    implementation: attention kernel.
  """

  dtype: str = 'float32'
  rematerialization: Rematerialization = Rematerialization.NONE
  implementation: AttentionImplementation = AttentionImplementation.XLA

  def __post_init__(self):
    check_fields(self)
