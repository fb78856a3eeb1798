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
"""Factors on what the parts of a block read and add, where it has any."""

import dataclasses

from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class BlockScales:
  """Factors of a block's parts, as maximal update parametrisation sets them.

  Attributes:
    attention_input: multiplies what attention reads.
    attention_output: multiplies what it adds.
    mixer_input: multiplies what a state-space mixer reads.
    mixer_parts: multiply the projections of the stream in a mixer, in the
      order of `StateSpaceConfig.fused_kernels`; () multiplies none.
    mixer_output: multiplies what a mixer adds.
    mlp_gate: multiplies the gate of an MLP, before its activation.
    mlp_output: multiplies what an MLP adds.

  Reference:
    Yang et al. (2022), Tensor Programs V (arXiv 2203.03466).
  """

  attention_input: float = 1.0
  attention_output: float = 1.0
  mixer_input: float = 1.0
  mixer_parts: tuple[float, ...] = ()
  mixer_output: float = 1.0
  mlp_gate: float = 1.0
  mlp_output: float = 1.0

  def __post_init__(self):
    check_fields(self)
    if len(self.mixer_parts) not in (0, 5):
      raise ArgumentError(
        'mixer_parts must have a factor for each of the 5 projections of a '
        f'Mamba 2 mixer, not {len(self.mixer_parts)}.'
      )
