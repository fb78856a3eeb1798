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
"""Which stage has which blocks and exits.

A steady pipeline goes at the pace of its slowest stage. With equal stages that
is the last, which has the final head; an exit elsewhere is free while its
stage is no slower (EE-LLM's rule: exits on a stage cost no more than the final
head). `balanced` finds the cut with the fastest slowest stage, for uneven
blocks, exits of any cost, and either side of a stage boundary.

An exit at a boundary reads the stream that one stage hands to the next, so
either may have it: before the hand-over, or after it, which spares the earlier
stage, whose memory is fuller (pre-exit and post-exit in EE-LLM, arXiv
2312.04916, section 3). An exit that reads inside its block may not move.
"""

import dataclasses
import enum
from collections.abc import Sequence

from eejax.errors import ArgumentError
from eejax.pipeline.cost import Keep, StageCost


class Boundary(enum.Enum):
  """Which stage has an exit that stands between two."""

  BEFORE = 'before'
  AFTER = 'after'


@dataclasses.dataclass(frozen=True)
class PlacedExit:
  """Describe an exit to the balancer.

  Attributes:
    depth: blocks before it.
    forward: cost of its head for one microbatch, forward.
    backward: the same, backward.
    movable: whether it reads nothing but the stream at its depth.
  """

  depth: int
  forward: float = 0.0
  backward: float = 0.0
  movable: bool = True


@dataclasses.dataclass(frozen=True)
class StagePlacement:
  """Say how a model is cut.

  Attributes:
    ends: depth at which each piece ends, rising to the model's.
    exit_places: the piece that has each exit, in the order given.
  """

  ends: tuple[int, ...]
  exit_places: tuple[int, ...]

  @property
  def starts(self) -> tuple[int, ...]:
    """Return the depth at which each piece starts."""
    return (0, *self.ends[:-1])

  @property
  def blocks(self) -> tuple[int, ...]:
    """Return how many blocks each piece has."""
    return tuple(
      end - start for start, end in zip(self.starts, self.ends, strict=True)
    )


def even_ends(num_blocks: int, *, places: int) -> tuple[int, ...]:
  """Return the ends of pieces as equal as can be, the first ones longer.

  Raises:
    ArgumentError: there are more pieces than blocks.
  """
  check_places(num_blocks, places=places)
  short, longer = divmod(num_blocks, places)
  sizes = [short + (i < longer) for i in range(places)]
  return tuple(sum(sizes[: i + 1]) for i in range(places))


def check_places(num_blocks: int, *, places: int) -> None:
  """Raise `ArgumentError` where a piece would have no block."""
  if places > num_blocks:
    raise ArgumentError(
      f'{num_blocks} blocks cannot be cut into {places} pipeline stages; use '
      f'at most {num_blocks}.'
    )


def given_ends(sizes: Sequence[int], *, num_blocks: int) -> tuple[int, ...]:
  """Return the ends of pieces of given sizes.

  Raises:
    ArgumentError: they are not the model's blocks.
  """
  if min(sizes) < 1 or sum(sizes) != num_blocks:
    listed = ', '.join(map(str, sizes))
    raise ArgumentError(
      f'stages of {listed} blocks do not make the {num_blocks} blocks there '
      'are; give each stage at least one, and all of them together.'
    )
  return tuple(sum(sizes[: i + 1]) for i in range(len(sizes)))


def place(
  exits: Sequence[PlacedExit],
  *,
  ends: Sequence[int],
  boundary: Boundary = Boundary.AFTER,
) -> StagePlacement:
  """Return which piece has each exit.

  Args:
    exits: the exits.
    ends: depth at which each piece ends.
    boundary: the side of a boundary that an exit goes to if it can move.

  Raises:
    ArgumentError: an exit lies behind the last piece.
  """
  places = []
  for e in exits:
    if e.depth > ends[-1]:
      raise ArgumentError(
        f'the exit at depth {e.depth} stands on a stage that is not loaded: '
        f'the stages end at depth {ends[-1]}.'
      )
    before = next(i for i, end in enumerate(ends) if e.depth <= end)
    moves = (
      boundary is Boundary.AFTER
      and e.movable
      and e.depth == ends[before]
      and before + 1 < len(ends)
    )
    places.append(before + moves)
  return StagePlacement(tuple(ends), tuple(places))


def stage_costs(
  placement: StagePlacement,
  *,
  block: StageCost,
  exits: Sequence[PlacedExit],
  final: StageCost,
) -> list[StageCost]:
  """Return what each piece costs a microbatch.

  Args:
    placement: the cut.
    block: cost of one block; its heads are ignored.
    exits: in the order of the placement.
    final: cost of the final head, as `head_forward` and `head_backward`.
  """
  costs = []
  last = len(placement.ends) - 1
  for i, blocks in enumerate(placement.blocks):
    own = [
      e for e, p in zip(exits, placement.exit_places, strict=True) if p == i
    ]
    forward = sum(e.forward for e in own)
    backward = sum(e.backward for e in own)
    if i == last:
      forward += final.head_forward
      backward += final.head_backward
    costs.append(
      StageCost(
        blocks * block.forward, blocks * block.backward, forward, backward
      )
    )
  return costs


def pace(costs: Sequence[StageCost], *, keep: Keep) -> list[float]:
  """Return what a microbatch costs each stage of `ONE_F_ONE_B`."""
  return [
    _pace(c, keep=keep, is_last=i == len(costs) - 1)
    for i, c in enumerate(costs)
  ]


def _pace(cost: StageCost, *, keep: Keep, is_last: bool) -> float:
  again = keep is Keep.INPUTS and not is_last
  return cost.forward * (1 + again) + cost.backward + cost.head


# MARK: Balancing


def balanced(
  num_blocks: int,
  *,
  places: int,
  block: StageCost,
  exits: Sequence[PlacedExit],
  final: StageCost,
  keep: Keep = Keep.RESIDUALS,
) -> StagePlacement:
  """Return the cut whose slowest stage is fastest.

  Among equals it is the one with the least sum of squares: as even as can be.

  Args:
    num_blocks: L.
    places: how many pieces.
    block: cost of one block.
    exits: the exits.
    final: cost of the final head.
    keep: what `one_f_one_b` keeps.

  Raises:
    ArgumentError: there are more pieces than blocks, or an exit lies behind
      them.
  """
  check_places(num_blocks, places=places)
  place(exits, ends=(num_blocks,))  # refuses what lies behind

  def cost(cut: '_Cut', is_last: bool) -> float:
    own = [e for e in exits if cut.has(e, is_last=is_last)]
    heads = StageCost(
      forward=cut.blocks * block.forward,
      backward=cut.blocks * block.backward,
      head_forward=sum(e.forward for e in own) + is_last * final.head_forward,
      head_backward=sum(e.backward for e in own)
      + is_last * final.head_backward,
    )
    return _pace(heads, keep=keep, is_last=is_last)

  slowest = _best_cut(num_blocks, places, cost, max, float('inf'))[0]
  squares = lambda cut, is_last: cost(cut, is_last) ** 2
  limit = slowest**2 * (1 + 1e-9)
  _, cuts = _best_cut(num_blocks, places, squares, lambda a, b: a + b, limit)
  owner = lambda e: next(
    i for i, cut in enumerate(cuts) if cut.has(e, is_last=i == places - 1)
  )
  return StagePlacement(
    ends=tuple(cut.end for cut in cuts),
    exit_places=tuple(owner(e) for e in exits),
  )


@dataclasses.dataclass(frozen=True)
class _Cut:
  """One piece, and on which side exits at its two ends are.

  Attributes:
    start: depth it starts at.
    end: depth it ends at.
    takes: whether movable exits at `start` are its own.
    leaves: whether movable exits at `end` are the next piece's.
  """

  start: int
  end: int
  takes: bool
  leaves: bool

  @property
  def blocks(self) -> int:
    return self.end - self.start

  def has(self, exit: PlacedExit, *, is_last: bool) -> bool:
    if exit.depth == self.start:
      return self.start == 0 or (self.takes and exit.movable)
    if exit.depth == self.end:
      return is_last or not (self.leaves and exit.movable)
    return self.start < exit.depth < self.end


def _best_cut(num_blocks, places, cost, join, limit):
  """Return the least joined cost and its pieces, none dearer than `limit`.

  By depth and side, piece after piece: what follows a boundary does not
  depend on what came before it.
  """
  best = {(0, False): (0.0, ())}
  for i in range(places):
    is_last = i == places - 1
    found: dict = {}
    for (start, takes), (total, cuts) in best.items():
      latest = num_blocks - (places - 1 - i)
      earliest = num_blocks if is_last else start + 1
      for end in range(earliest, latest + 1):
        for leaves in (False,) if is_last else (False, True):
          cut = _Cut(start, end, takes, leaves)
          own = cost(cut, is_last)
          if own > limit:
            continue
          candidate = (join(total, own), (*cuts, cut))
          state = (end, leaves)
          if state not in found or candidate[0] < found[state][0]:
            found[state] = candidate
    best = found
  return best[(num_blocks, False)]
