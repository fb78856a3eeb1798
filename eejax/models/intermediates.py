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
"""Intermediates that a scan over the blocks keeps: for exits, or as asked.

A scan has one program for all blocks, so what is read of a depth is written
into a buffer as the depth passes. A buffer has a slot for each depth that is
read and a last one that every other depth overwrites: memory grows with the
number of these depths, not of blocks.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig, ExitHeadKind, GateKind, Residual
from eejax.models.block import BlockOutput, mlp_input_of
from eejax.models.exits import ExitInput
from eejax.types import Array, Float, Int, Params


@flax.struct.dataclass
class Intermediates:
  """Intermediate values kept so far; None where no exit reads one.

  Attributes:
    streams: the residual stream, a slot for each depth that is read.
    residuals: the stream between a block's attention and its MLP, likewise.
  """

  streams: Float[Array, 'streams B T D'] | None
  residuals: Float[Array, 'residuals B T D'] | None


@flax.struct.dataclass
class Slots:
  """Say where each block writes: an array over blocks, or one block's entry.

  Attributes:
    stream: slot in `Intermediates.streams`.
    residual: slot in `Intermediates.residuals`.
  """

  stream: Int[Array | np.ndarray, '*L']
  residual: Int[Array | np.ndarray, '*L']


@dataclasses.dataclass(frozen=True)
class CollectedDepths:
  """Depths whose streams the backbone returns, besides what its exits read.

  Attributes:
    streams: depths whose residual stream is returned, 0 to L.
    residuals: depths d, 1 to L, of which the stream between the attention and
      the MLP of the block that leads to d is returned.
  """

  streams: tuple[int, ...] = ()
  residuals: tuple[int, ...] = ()


NO_DEPTHS = CollectedDepths()


class IntermediatesSpec:
  """Depths of which a scan over the blocks keeps intermediates.

  Attributes:
    stream_depths: depths above 0 whose residual stream is kept.
    residual_depths: depths below whose MLP the stream is kept.
  """

  def __init__(
    self,
    config: EarlyExitConfig,
    depth: int,
    collected: CollectedDepths = NO_DEPTHS,
  ):
    """Plan the buffers.

    Args:
      config: the model with its exits, none of them beyond `depth`.
      depth: how many blocks are run.
      collected: depths that are kept besides, none of them beyond `depth`.
    """
    self._config = config
    self._depth = depth
    above_0 = [e for e in config.exits if e.depth > 0]
    is_mlp = lambda e: e.head is ExitHeadKind.MLP
    residuals = {e.depth for e in above_0 if is_mlp(e)}
    streams = {
      e.depth for e in above_0 if not is_mlp(e) or e.gate is not GateKind.NONE
    }
    self._is_parallel = config.model.residual is Residual.PARALLEL
    if self._is_parallel:
      # Their MLPs read the stream before the block.
      streams |= {d - 1 for d in residuals}
    self.residual_depths = sorted({*residuals, *collected.residuals})
    self.stream_depths = sorted({*streams, *collected.streams} - {0})

  def start(self, x: Float[Array, 'B T D']) -> Intermediates:
    """Return buffers for streams like `x` in which nothing is kept yet."""
    return Intermediates(
      streams=_buffer(self.stream_depths, x),
      residuals=_buffer(self.residual_depths, x),
    )

  def slots(self) -> Slots:
    """Return where each block writes, to scan over."""
    return Slots(
      stream=self._slots(self.stream_depths),
      residual=self._slots(self.residual_depths),
    )

  def collect(
    self,
    backbone: Params,
    x: Float[Array, 'B T D'],
    intermediates: Intermediates,
  ) -> dict[str, ExitInput]:
    """Return what each exit reads, by the exit's name.

    Args:
      backbone: parameters, blocks stacked.
      x: the stream at depth 0.
      intermediates: what was kept of all blocks.
    """
    streams = self.streams(x, intermediates)
    residuals = self.residuals(intermediates)
    inputs = {}
    for e in self._config.exits:
      residual = mlp_input = None
      hidden = streams.get(e.depth)
      if e.head is ExitHeadKind.MLP and e.depth in residuals:
        residual = residuals[e.depth]
        mlp_input = mlp_input_of(
          mlp_norm_of(backbone['blocks'], e.depth - 1),
          streams[e.depth - 1] if self._is_parallel else residual,
          config=self._config.model,
        )
      inputs[e.name] = ExitInput(hidden, residual, mlp_input)
    return inputs

  def streams(
    self, x: Float[Array, 'B T D'], intermediates: Intermediates
  ) -> dict[int, Float[Array, 'B T D']]:
    """Return the residual streams that were kept, by depth, and `x` at 0."""
    kept = intermediates.streams
    if kept is None:
      return {0: x}
    return {0: x} | {d: kept[i] for i, d in enumerate(self.stream_depths)}

  def residuals(
    self, intermediates: Intermediates
  ) -> dict[int, Float[Array, 'B T D']]:
    """Return the streams before the MLP that were kept, by depth."""
    kept = intermediates.residuals
    if kept is None:
      return {}
    return {d: kept[i] for i, d in enumerate(self.residual_depths)}

  def _slots(self, depths: Sequence[int]) -> np.ndarray:
    spare = len(depths)
    slot = {d: i for i, d in enumerate(depths)}
    return np.array(
      [slot.get(d, spare) for d in range(1, self._depth + 1)], np.int32
    )


def mlp_norm_of(blocks: Params, index: int | Int[Array, '']) -> Params:
  """Return what `mlp_input_of` reads of one block of a stack."""
  norms = {k: v for k, v in blocks.items() if k == 'mlp_norm'}
  return jax.tree.map(lambda leaf: leaf[index], norms)


def record_intermediates(
  intermediates: Intermediates,
  slots: Slots,
  *,
  hidden: Float[Array, 'B T D'],
  output: BlockOutput,
) -> Intermediates:
  """Write what one block computed into its slots.

  Args:
    intermediates: what was kept of the blocks before.
    slots: of this block.
    hidden: the stream after it; `output.hidden` unless the block is skipped.
    output: what it computed.
  """
  streams, residuals = intermediates.streams, intermediates.residuals
  put = jax.lax.dynamic_update_index_in_dim
  if streams is not None:
    streams = put(streams, hidden, slots.stream, axis=0)
  if residuals is not None:
    residuals = put(residuals, output.mlp_residual, slots.residual, axis=0)
  return Intermediates(streams, residuals)


def _buffer(
  depths: Sequence[int], x: Float[Array, 'B T D']
) -> Float[Array, 'slots B T D'] | None:
  if not depths:
    return None
  return jnp.zeros((len(depths) + 1, *x.shape), x.dtype)
