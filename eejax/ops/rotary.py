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
"""Rotary position embeddings and the rules that stretch them.

The head's first R dimensions are rotated in halves: dimension i pairs with
i + R/2, as Hugging Face checkpoints are laid out. R is H for most models.

References:
  Su et al. (2021), RoFormer, section 3.4.
  Peng et al. (2023), YaRN, sections 3.2 to 3.4.
  Ding et al. (2024), LongRoPE (arXiv 2402.13753), section 3.
"""

import math
from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp
import numpy as np

from eejax.config import RotaryConfig, RotaryScaling
from eejax.types import Array, Float, Int


@flax.struct.dataclass
class Rotation:
  """Rotation of every token, which many blocks share.

  A compiler that is shown positions alone computes sines and cosines again in
  every block and for every head; one token of a small model spends a
  sixteenth of its time so.

  Attributes:
    cosine: of the angle of each pair of dimensions, times the magnitude.
    sine: likewise.
  """

  cosine: Float[Array, 'B T half_R']
  sine: Float[Array, 'B T half_R']


# Where tokens stand in their own text, or what follows from it: a rotation for
# each of a model's `rotations`, or a single one.
Rotations = tuple[Rotation | None, ...]
Positions = Int[Array, 'B T'] | Rotation


def rotations_at(
  positions: Int[Array, 'B T'],
  *,
  configs: Sequence[RotaryConfig | None],
  head_dim: int,
) -> Rotations:
  """Return how far tokens are rotated, in each of several ways.

  Args:
    positions: position of each token in its own text, >= 0.
    configs: the ways; None rotates nothing.
    head_dim: H.
  """
  return tuple(
    None if c is None else rotation(positions, config=c, head_dim=head_dim)
    for c in configs
  )


def rotation(
  positions: Int[Array, 'B T'], *, config: RotaryConfig, head_dim: int
) -> Rotation:
  """Return how far tokens are rotated.

  Args:
    positions: position of each token in its own text, >= 0.
    config: wavelengths and their scaling.
    head_dim: H.
  """
  steps, magnitude = rotary_frequencies(config, head_dim=head_dim)
  frequencies = jnp.asarray(steps)[None, None]  # [1, 1, R/2]
  angles = positions[..., None].astype(jnp.float32) * frequencies
  return Rotation(jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude)


def rotate(
  x: Float[Array, 'B T N H'], *, positions: Positions, config: RotaryConfig
) -> Float[Array, 'B T N H']:
  """Rotate every head by its position.

  Args:
    x: queries or keys.
    positions: position of each token in its own text, >= 0, or its rotation.
    config: wavelengths and their scaling.
  """
  if not isinstance(positions, Rotation):
    positions = rotation(positions, config=config, head_dim=x.shape[-1])
  cosine = positions.cosine[:, :, None, :]  # [B, T, 1, R/2]
  sine = positions.sine[:, :, None, :]
  half = cosine.shape[-1]
  wide = x.astype(jnp.float32)
  first, second = wide[..., :half], wide[..., half : 2 * half]
  parts = [first * cosine - second * sine, second * cosine + first * sine]
  if 2 * half < x.shape[-1]:
    parts.append(wide[..., 2 * half :])
  return jnp.concatenate(parts, axis=-1).astype(x.dtype)


def rotary_frequencies(
  config: RotaryConfig, *, head_dim: int
) -> tuple[np.ndarray, float]:
  """Return the angle per position of each pair, and a magnitude.

  Returns:
    Frequencies of shape [R/2] in radians per token, float32, and the factor
    that multiplies cosine and sine (1 but for YaRN and LongRoPE).
  """
  head_dim = int(head_dim * config.fraction)
  exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
  base = config.theta**-exponents
  magnitude = 1.0
  match config.scaling:
    case RotaryScaling.LINEAR:
      base = base / config.factor
    case RotaryScaling.LLAMA3:
      base = _llama3(base, config)
    case RotaryScaling.YARN:
      base = _yarn(base, config, head_dim)
      magnitude = config.attention_factor or 0.1 * math.log(config.factor) + 1
    case RotaryScaling.LONGROPE:
      base = base / np.asarray(config.short_factors)
      magnitude = config.attention_factor or _longrope_magnitude(config)
    case RotaryScaling.NONE | RotaryScaling.DYNAMIC:
      # Dynamic scaling changes nothing within the trained context, which is
      # as far as eejax lets a dynamically scaled model go.
      pass
  return base.astype(np.float32), magnitude


def _llama3(base: np.ndarray, config: RotaryConfig) -> np.ndarray:
  """Scale long wavelengths fully, short ones not, and blend between."""
  assert config.original_max_length is not None
  turns = config.original_max_length * base / (2 * np.pi)
  low, high = config.low_frequency_factor, config.high_frequency_factor
  keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
  return (1 - keep) * base / config.factor + keep * base


def _yarn(base: np.ndarray, config: RotaryConfig, head_dim: int) -> np.ndarray:
  """Interpolate slow dimensions, keep fast ones, ramp between by index."""
  low = _yarn_dimension(config.beta_fast, config, head_dim)
  high = _yarn_dimension(config.beta_slow, config, head_dim)
  if config.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, head_dim - 1)
  if low == high:
    high += 0.001  # a ramp of no width would divide by zero
  ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)
  return ramp * base / config.factor + (1 - ramp) * base


def _longrope_magnitude(config: RotaryConfig) -> float:
  """Return how much attention is sharpened for a context that grew."""
  assert config.original_max_length is not None
  growth = math.log(config.factor) / math.log(config.original_max_length)
  return math.sqrt(1 + growth)


def _yarn_dimension(
  rotations: float, config: RotaryConfig, head_dim: int
) -> float:
  """Return the index whose pair turns `rotations` times in the context."""
  assert config.original_max_length is not None
  wavelength = config.original_max_length / (rotations * 2 * math.pi)
  return head_dim * math.log(wavelength) / (2 * math.log(config.theta))
