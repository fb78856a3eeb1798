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
"""What differs from block to block: its sliding window and its rotation.

Both are data to a block, not another program, so blocks of all kinds are
scanned in one loop.
"""

from collections.abc import Callable

import flax.struct
import jax.numpy as jnp
import numpy as np

from eejax.config import ModelConfig
from eejax.ops.rotary import Positions, Rotation, rotation, rotations_at
from eejax.types import Array, Int


@flax.struct.dataclass
class BlockPattern:
  """What differs from block to block: arrays over blocks, or one's entries.

  Attributes:
    window: keys that a query sees; None where no block has a window.
    rotation: which of the model's `rotations` a block has; None where all
      have the same.
  """

  window: Int[Array | np.ndarray, '*L'] | None = None
  rotation: Int[Array | np.ndarray, '*L'] | None = None

  def __getitem__(
    self, index: Int[Array | np.ndarray, '...']
  ) -> 'BlockPattern':
    """Return the entries of some blocks."""
    take = lambda x: None if x is None else x[index]
    return BlockPattern(take(self.window), take(self.rotation))


def block_pattern(config: ModelConfig, depth: int) -> BlockPattern:
  """Return the windows and rotations of the first `depth` blocks."""
  window = which = None
  if config.sliding_window is not None:
    unlimited = np.iinfo(np.int32).max
    window = np.array(
      [config.window_of(i) or unlimited for i in range(depth)], np.int32
    )
  if len(config.rotations) > 1:
    which = np.array([config.rotation_of(i) for i in range(depth)], np.int32)
  return BlockPattern(window, which)


def positions_by_block(
  positions: Int[Array, 'B T'], *, config: ModelConfig
) -> Callable[[BlockPattern], Positions | None]:
  """Return what gives a block in a scan its positions, by its pattern.

  Args:
    positions: position of each token in its own text.
    config: the model.
  """
  if config.rotations == (None,):
    return lambda pattern: None
  if len(config.rotations) == 1:
    return lambda pattern: positions
  found = [r for r in _rotations(positions, config) if r is not None]
  if len(found) < len(config.rotations):
    still = Rotation(
      jnp.ones_like(found[0].cosine), jnp.zeros_like(found[0].sine)
    )
    found.append(still)
  cosines = jnp.stack([r.cosine for r in found])
  sines = jnp.stack([r.sine for r in found])
  return lambda pattern: Rotation(
    cosines[pattern.rotation], sines[pattern.rotation]
  )


def positions_of(
  positions: Positions | None, *, block: int, config: ModelConfig
) -> Positions | None:
  """Return the rotation of one block (0-based), None where it has none.

  Args:
    positions: position of each token in its own text; what is a rotation
      already stays as it is.
    block: which block.
    config: the model.
  """
  if positions is None or isinstance(positions, Rotation):
    return positions
  own = config.rotations[config.rotation_of(block)]
  if own is None:
    return None
  return rotation(positions, config=own, head_dim=config.head_dim)


def _rotations(
  positions: Int[Array, 'B T'], config: ModelConfig
) -> tuple[Rotation | None, ...]:
  return rotations_at(
    positions, configs=config.rotations, head_dim=config.head_dim
  )
