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
"""Wall-clock times that can be compared: interleaved, medians, no compiling."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from eejax.config import ModelConfig
from eejax.decoding.prepare import Prepared
from eejax.errors import ArgumentError
from eejax.models.block import Block, BlockOutput, Projections
from eejax.models.exits import output_matrix_name


@dataclasses.dataclass(frozen=True)
class Ratio:
  """Hold how many times faster than another something is.

  Attributes:
    value: over all cases together.
    low: in the case where it is least.
    high: in the case where it is most.
  """

  value: float
  low: float
  high: float


def interleaved(
  contestants: Mapping[str, Callable[[], float]],
  *,
  repeats: int,
  warm_up: int = 1,
) -> dict[str, list[float]]:
  """Return `repeats` results of each contestant, taken in turns.

  Each round begins with another one, so that a machine that slows down or a
  cache that is left warm favours nobody.

  Args:
    contestants: each returns the seconds of what it did.
    repeats: rounds that count.
    warm_up: rounds before, which compile and fill caches.

  Raises:
    ArgumentError: there is nothing to repeat.
  """
  if repeats < 1 or not contestants:
    raise ArgumentError('there must be a contestant and a round at least.')
  names = list(contestants)
  found: dict[str, list[float]] = {name: [] for name in names}
  for number in range(warm_up + repeats):
    first = number % len(names)
    for name in names[first:] + names[:first]:
      seconds = contestants[name]()
      if number >= warm_up:
        found[name].append(seconds)
  return found


def speed_ratio(
  seconds: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]
) -> Ratio:
  """Return how many times faster than a baseline something is.

  Args:
    seconds: of each case, several times.
    baseline: of the same cases.
  """
  ours = [statistics.median(s) for s in seconds]
  theirs = [statistics.median(s) for s in baseline]
  by_case = [b / a for a, b in zip(ours, theirs, strict=True)]
  return Ratio(sum(theirs) / sum(ours), min(by_case), max(by_case))


@dataclasses.dataclass(frozen=True)
class PartTimes:
  """Hold what the parts of decoding take at batch 1, in seconds.

  Attributes:
    blocks: one token through all blocks.
    window: a window of tokens through all blocks.
    head: the final head's matrix and the choice of a token.
  """

  blocks: float
  window: float
  head: float

  @property
  def window_factor(self) -> float:
    """Return what a window costs over a token, at least 1.

    It is 1 where reading the weights is all there is.
    """
    return max(self.window / self.blocks, 1.0)


def part_times(
  params: Prepared, *, config: ModelConfig, window: int, repeats: int = 25
) -> PartTimes:
  """Measure the parts of decoding, without caches."""
  block = Block(config, projections=Projections.FUSED)
  kernel = params.kernels[output_matrix_name(None, config=config)]

  @jax.jit
  def run_blocks(blocks, x):
    positions = jnp.arange(x.shape[1])[None]
    for block_params in blocks:
      out = block.apply({'params': block_params}, x, positions=positions)
      x = cast(BlockOutput, out).hidden
    return x

  @jax.jit
  def run_head(kernel, x):
    return jnp.argmax(x @ kernel, axis=-1)

  state = lambda width: jnp.ones((1, width, config.embed_dim), params.dtype)
  found = interleaved(
    {
      'blocks': _timed(run_blocks, params.blocks, state(1)),
      'window': _timed(run_blocks, params.blocks, state(window)),
      'head': _timed(run_head, kernel, state(1)),
    },
    repeats=repeats,
    warm_up=2,
  )
  return PartTimes(**{k: statistics.median(v) for k, v in found.items()})


def _timed(
  function: Callable[..., Any], *arguments: Any
) -> Callable[[], float]:
  def once() -> float:
    clock = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - clock

  return once
