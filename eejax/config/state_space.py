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
"""Frozen descriptions of the state-space mixer of a block."""

import dataclasses
import enum

from eejax.config.field_types import check_fields
from eejax.errors import ArgumentError


class StateSpaceKind(enum.Enum):
  """Which recurrence a mixer has.

  MAMBA   a decay for each channel and each dimension of its state
  MAMBA2  a decay for each head of channels
  """

  MAMBA = 'mamba'
  MAMBA2 = 'mamba2'


class GatedNorm(enum.Enum):
  """Where a norm stands about the gate of a mixer.

  NONE         y * silu(gate)
  AFTER_GATE   norm(y * silu(gate))
  BEFORE_GATE  norm(y) * silu(gate)
  """

  NONE = 'none'
  AFTER_GATE = 'after_gate'
  BEFORE_GATE = 'before_gate'


@dataclasses.dataclass(frozen=True)
class StateSpaceConfig:
  """Describe the state-space mixer of a block.

  Attributes:
    kind: which recurrence it has.
    inner_dim: channels that the recurrence runs over (I).
    state_dim: numbers that each channel keeps.
    convolution_width: tokens that the causal convolution sees, its own
      included.
    convolution_bias: whether the convolution has a bias.
    projection_bias: whether the projections of the stream have biases.
    output_bias: whether the projection back has one.
    step_rank: rank of the projection of step sizes; `MAMBA` alone has one.
    num_heads: heads that channels are cut into; `MAMBA2` alone has them.
    num_groups: groups of heads that share input and output vectors (B and C);
      `MAMBA2` alone.
    norm: where a norm stands about the gate; `MAMBA2` alone has one.
    chunk: tokens that the training form of `MAMBA2` multiplies at once;
      changes rounding alone.
  """

  kind: StateSpaceKind
  inner_dim: int
  state_dim: int
  convolution_width: int = 4
  convolution_bias: bool = True
  projection_bias: bool = False
  output_bias: bool = False
  step_rank: int = 0
  num_heads: int = 0
  num_groups: int = 0
  norm: GatedNorm = GatedNorm.NONE
  chunk: int = 256

  def __post_init__(self):
    check_fields(self)
    is_mamba = self.kind is StateSpaceKind.MAMBA
    needed = ('step_rank',) if is_mamba else ('num_heads', 'num_groups')
    unused = ('num_heads', 'num_groups') if is_mamba else ('step_rank',)
    sizes = ('inner_dim', 'state_dim', 'convolution_width', 'chunk', *needed)
    for name in sizes:
      if getattr(self, name) < 1:
        raise ArgumentError(
          f'{name} of a state-space mixer must be at least 1, not '
          f'{getattr(self, name)}.'
        )
    for name in unused:
      if getattr(self, name):
        raise ArgumentError(
          f'a state-space mixer of the kind {self.kind.value!r} has no {name}.'
        )
    if is_mamba and self.norm is not GatedNorm.NONE:
      raise ArgumentError(
        "a state-space mixer of the kind 'mamba' has no norm beside its gate."
      )
    if not is_mamba:
      self._check_heads()

  def _check_heads(self) -> None:
    if self.inner_dim % self.num_heads:
      raise ArgumentError(
        f'inner_dim ({self.inner_dim}) of a state-space mixer must be a '
        f'multiple of its num_heads ({self.num_heads}).'
      )
    if self.num_heads % self.num_groups or self.inner_dim % self.num_groups:
      raise ArgumentError(
        f'num_heads ({self.num_heads}) of a state-space mixer must be a '
        f'multiple of its num_groups ({self.num_groups}).'
      )

  @property
  def head_dim(self) -> int:
    """Return how many channels a head has, `MAMBA2` alone."""
    return self.inner_dim // self.num_heads

  @property
  def convolution_dim(self) -> int:
    """Return how many channels are convolved."""
    return self.inner_dim + 2 * self.num_groups * self.state_dim

  @property
  def memory_shape(self) -> tuple[int, ...]:
    """Return the shape of what a block keeps of a text, without its batch."""
    if self.kind is StateSpaceKind.MAMBA:
      return (self.state_dim, self.inner_dim)
    return (self.num_heads, self.head_dim, self.state_dim)

  @property
  def tail_shape(self) -> tuple[int, int]:
    """Return the shape of the newest inputs that a convolution needs again."""
    return (self.convolution_width - 1, self.convolution_dim)

  def kernels(self, embed_dim: int) -> dict[str, tuple[int, int]]:
    """Return the inputs and outputs of every projection, by name.

    Those of the stream come in the order in which files have them.

    Args:
      embed_dim: width of the residual stream.
    """
    d, i, n = embed_dim, self.inner_dim, self.state_dim
    if self.kind is StateSpaceKind.MAMBA:
      return {
        'inner': (d, i),
        'gate': (d, i),
        'selection': (i, self.step_rank + 2 * n),
        'step': (self.step_rank, i),
        'output': (i, d),
      }
    shared = self.num_groups * n
    return {
      'gate': (d, i),
      'inner': (d, i),
      'input': (d, shared),
      'readout': (d, shared),
      'step': (d, self.num_heads),
      'output': (i, d),
    }

  @property
  def has_norm(self) -> bool:
    """Return whether what is projected back is normalised."""
    return self.norm is not GatedNorm.NONE

  @property
  def fused_kernels(self) -> tuple[str, ...]:
    """Return the projections of the stream, in the order they are fused in."""
    if self.kind is StateSpaceKind.MAMBA:
      return ('inner', 'gate')
    return ('gate', 'inner', 'input', 'readout', 'step')

  def num_values(self, embed_dim: int) -> int:
    """Return how many numbers the kernels of a mixer have."""
    return sum(a * b for a, b in self.kernels(embed_dim).values())
