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
"""When a segment runs for a batch whose rows want different depths.

A segment costs about the same for one row as for all: its weights are read
once. So a row that wants depth alone is dear, and rows that want it together
are cheap. A policy says at each segment whether it runs now, or whether the
rows that stand before it wait while the others go on with shallow work. No
policy changes what a row emits.
"""

import dataclasses
import enum
import functools
import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.types import Array, Bool, Float, Int


class Batching(enum.Enum):
  """Which batch policy decides that a segment runs.

  REFERENCE: every segment runs for every token; a row keeps its exit's token.
  RIDE_ALONG: a segment runs when some row needs it, and what waits in any row
  is taken along.
  DEPTH_QUEUE: rows that need depth wait until running it pays.
  """

  REFERENCE = 'reference'
  RIDE_ALONG = 'ride_along'
  DEPTH_QUEUE = 'depth_queue'


@dataclasses.dataclass(frozen=True)
class PlatformCosts:
  """Costs of a block's tokens on the machine that decodes.

  Attributes:
    free_tokens: how many tokens, 1 at least, cost a block what one does: those
      that are computed in the time in which its weights are read (the roofline
      model, Williams et al. 2009).
    window_cost: what each further token of a row's window adds at least, in
      [0, 1] of what one token costs.

  Raises:
    ArgumentError: a cost is out of its range.
  """

  free_tokens: int
  window_cost: float = 0.06

  def __post_init__(self):
    if self.free_tokens < 1:
      raise ArgumentError(
        f'free tokens must be at least 1, not {self.free_tokens}.'
      )
    if not 0 <= self.window_cost <= 1:
      raise ArgumentError(
        f'a window cost must lie in [0, 1], not {self.window_cost}.'
      )

  def of_windows(self, *, rows: int, longest: int) -> Float[np.ndarray, 'W']:
    """Return what windows of 1 to `longest` tokens of each row cost.

    In steps of one token of each row.
    """
    another = self.window_cost
    # Windows of one row are taken for cheaper than they are: drafts are kept
    # in runs, so the longer ones yield more than a chance for each says.
    if rows > 1:
      another = max(another, min(1.0, rows / self.free_tokens))
    return 1 + another * np.arange(longest)


CPU = PlatformCosts(free_tokens=2)
ACCELERATOR = PlatformCosts(free_tokens=200)


@flax.struct.dataclass
class Cycle:
  """Work done upstream of a segment since it last ran.

  Attributes:
    spent: cost of the segments before it, in blocks.
    fed: tokens fed to the first segment, over all rows.
    steps: how many steps that took.
  """

  spent: Float[Array, '']
  fed: Float[Array, '']
  steps: Float[Array, '']

  def after_step(
    self, *, spent: Float[Array, ''], fed: Int[Array, '']
  ) -> 'Cycle':
    """Return the cycle with one more step, up to the segment's entrance."""
    return Cycle(self.spent + spent, self.fed + fed, self.steps + 1)

  def renewed_if(self, ran: Bool[Array, '']) -> 'Cycle':
    """Return a new cycle where the segment ran, else this one."""
    keep = lambda x: jnp.where(ran, 0.0, x)
    return Cycle(keep(self.spent), keep(self.fed), keep(self.steps))


def new_cycle() -> Cycle:
  """Return the cycle of a segment that has just run."""
  zero = lambda: jnp.zeros((), jnp.float32)
  return Cycle(zero(), zero(), zero())


def pays(
  cycle: Cycle,
  *,
  cost: float,
  upstream: Int[Array, ''],
  patience: int | None = None,
) -> Bool[Array, '']:
  """Return whether running a segment now beats one more step before it.

  Every token that is fed is emitted, here or upstream, so a cycle of the
  segment yields F tokens for S + c: S spent upstream, c the segment itself. One
  more step upstream costs S / n, n being the steps so far, and feeds r more.
  It is worth it while its yield is above the cycle's,

    r / (S / n) > F / (S + c),

  the marginal value theorem (Charnov 1976, eq. 5). With r = 0 the segment runs.
  Where keys and values are exact a row is forced to full depth within its
  window, so r falls to 0 and no row starves; elsewhere `patience` sees to it.

  Args:
    cycle: of the segment, this step included.
    cost: c, of running the segment, in blocks.
    upstream: r, rows that the next step can move without this segment.
    patience: steps after which it runs anyway; None is never.
  """
  whole = cycle.spent + cost
  is_due = upstream * whole * cycle.steps <= cycle.fed * cycle.spent
  if patience is None:
    return is_due
  return is_due | (cycle.steps >= patience)


def platform_costs(device: jax.Device | None = None) -> PlatformCosts:
  """Return the costs on a device; by default the one that programs run on.

  CPUs were measured: two rows leave little of what they could compute. Today's
  accelerators compute about 200 tokens while they read a block's weights, by
  the peaks that their makers state.

  Args:
    device: any device of the machine.
  """
  platform = jax.default_backend() if device is None else device.platform
  return CPU if platform == 'cpu' else ACCELERATOR


@functools.cache
def head_in_blocks(config: EarlyExitConfig) -> float:
  """Return the parameters of an output matrix over those of a block."""
  init: Callable[[jax.Array], dict] = functools.partial(
    decoder.init, config.with_exits(())
  )
  shapes = jax.eval_shape(init, jax.random.key(0))
  leaves = jax.tree.leaves(shapes['backbone']['blocks'])
  blocks = sum(math.prod(leaf.shape) for leaf in leaves)
  model = config.model
  return model.embed_dim * model.vocab_size * model.num_layers / blocks
