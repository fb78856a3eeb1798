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
"""Layouts: which stage of a pipeline runs what."""

import dataclasses
import functools
from collections.abc import Sequence

from eejax.config import (
  EarlyExitConfig,
  ExitConfig,
  ExitHeadKind,
  GateKind,
  ModelConfig,
)
from eejax.decoding.policy.criteria import Reads, get_criterion
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class PipelineStage:
  """One stage: its blocks and its head.

  Attributes:
    first: first block, 0-based.
    last: one past the last block; the depth the stage's head reads at.
    exit: the exit at its end, or None.
    is_final: whether the model's final head is at its end.
  """

  first: int
  last: int
  exit: ExitConfig | None
  is_final: bool

  @property
  def num_blocks(self) -> int:
    """Return how many blocks it runs."""
    return self.last - self.first

  @property
  def has_head(self) -> bool:
    """Return whether tokens can be emitted at its end."""
    return self.is_final or self.exit is not None

  @property
  def has_block_head(self) -> bool:
    """Return whether its exit has a block of its own."""
    return self.head_kind is ExitHeadKind.BLOCK

  @property
  def head_kind(self) -> ExitHeadKind | None:
    """Return what stands before its output matrix, None without a head.

    The final head is a norm, like that of a NORM exit.
    """
    if self.exit is not None:
      return self.exit.head
    return ExitHeadKind.NORM if self.is_final else None


@dataclasses.dataclass(frozen=True)
class PipelineLayout:
  """The static shape of a pipelined decoding program.

  All stages run one program, so what differs between them is data, and what a
  stage lacks is there as zeros: blocks up to those of the longest stage, and
  every kind of head that any stage has.

  Attributes:
    config: the backbone.
    stages: P of them, which touch; the last one has the final head and no
      exit.
    criterion: which score is asked; '' without exits.
  """

  config: ModelConfig
  stages: tuple[PipelineStage, ...]
  criterion: str

  @property
  def num_stages(self) -> int:
    """Return P."""
    return len(self.stages)

  @property
  def num_blocks(self) -> int:
    """Return the blocks of the longest stage."""
    return max(s.num_blocks for s in self.stages)

  @property
  def num_caches(self) -> int:
    """Return how many caches a stage has; the last may be a BLOCK exit's."""
    return self.num_blocks + (ExitHeadKind.BLOCK in self.head_kinds)

  @functools.cached_property
  def head_kinds(self) -> tuple[ExitHeadKind, ...]:
    """Return the kinds of head that some stage has."""
    kinds = {s.head_kind for s in self.stages}
    return tuple(k for k in ExitHeadKind if k in kinds)

  @functools.cached_property
  def gate_kinds(self) -> tuple[GateKind, ...]:
    """Return the kinds of gate that are read; none if no gate is."""
    if not self.reads & Reads.GATE:
      return ()
    kinds = {s.exit.gate for s in self.stages if s.exit is not None}
    return tuple(k for k in GateKind if k in kinds)

  @property
  def reads(self) -> Reads:
    """Return what the criterion has to be shown."""
    if not self.criterion:
      return Reads.NOTHING
    return get_criterion(self.criterion).reads

  def head_of_kind(self, kind: ExitHeadKind) -> ExitConfig:
    """Return one exit that serves all stages with heads of a kind.

    Bottlenecks have the rank of the widest; narrower ones are padded with
    zeros, which add nothing.
    """
    ranks = [
      s.exit.rank for s in self.stages if s.exit is not None and s.exit.rank
    ]
    bottleneck = kind is ExitHeadKind.BOTTLENECK_MLP
    return ExitConfig(
      depth=1, head=kind, rank=max(ranks) if bottleneck else None
    )


def make_layout(
  config: EarlyExitConfig,
  *,
  policy: Policy,
  num_stages: int,
  stage_ends: Sequence[int] | None = None,
) -> tuple[PipelineLayout, tuple[float, ...]]:
  """Return the program a policy asks for, and a threshold for each stage.

  An exit that is never taken is left out.

  Args:
    config: the model with its exits.
    policy: when to exit; its window does not matter here.
    num_stages: devices on the mesh axis `stage`.
    stage_ends: depth each stage ends at, rising to the model's; by default
      stages are as equal as can be, the first ones longer.

  Returns:
    The layout and the thresholds; infinity where a stage has no exit.

  Raises:
    ArgumentError: the model cannot be cut like that, an exit does not stand
      at the end of a stage, or the policy cannot be followed in a pipeline.
  """
  _check_blocks(config)
  ends = _stage_ends(config.model.num_layers, num_stages, stage_ends)
  taken = _exits_taken(config, policy)
  _check_exits(taken, ends)
  starts = (0, *ends[:-1])
  stages = tuple(
    PipelineStage(
      first=first,
      last=last,
      exit=config.exit_at(last) if last in taken else None,
      is_final=last == config.model.num_layers,
    )
    for first, last in zip(starts, ends, strict=True)
  )
  criterion = policy.criterion if taken else ''
  layout = PipelineLayout(config.model, stages, criterion)
  return layout, tuple(taken.get(s.last, float('inf')) for s in stages)


def _check_blocks(config: EarlyExitConfig) -> None:
  if config.model.state_space is not None:
    raise ArgumentError(
      'pipelined decoding keeps keys and values alone, and blocks of this '
      'model have states; decode it without stages.'
    )


def _stage_ends(
  num_layers: int, num_stages: int, stage_ends: Sequence[int] | None
) -> tuple[int, ...]:
  if num_stages > num_layers:
    raise ArgumentError(
      f'{num_stages} stages are more than the {num_layers} blocks of the '
      'model; use a mesh with fewer.'
    )
  if stage_ends is None:
    # Rounded up: the last stage has the final head to run as well.
    return tuple(
      -(-num_layers * (i + 1) // num_stages) for i in range(num_stages)
    )
  ends = tuple(stage_ends)
  rising = all(a < b for a, b in zip((0, *ends), ends, strict=False))
  if len(ends) != num_stages or not rising or ends[-1] != num_layers:
    raise ArgumentError(
      f'stages cannot end at depths {_listed(ends)}; give {num_stages} depths '
      f'that rise from at least 1 to {num_layers}.'
    )
  return ends


def _exits_taken(config: EarlyExitConfig, policy: Policy) -> dict[int, float]:
  """Return the thresholds of exits that may be taken, by depth."""
  if policy.mode is Mode.FULL:
    return {}
  if policy.mode is not Mode.EARLY_EXIT:
    raise ArgumentError(
      f'a pipeline decodes with mode full or early_exit, not '
      f'{policy.mode.value}.'
    )
  if not policy.kv_strategy.is_exact:
    raise ArgumentError(
      'a pipeline computes all keys and values; leave the K/V strategy at '
      f'deferred instead of {policy.kv_strategy.value}.'
    )
  for name in ('threshold_rule', 'scored_vocabulary'):
    value, plain = getattr(policy, name), getattr(Policy, name)
    if value != plain:
      raise ArgumentError(
        f'a pipeline knows no {name.replace("_", " ")} {value}; leave it at '
        f'{plain}.'
      )
  thresholds = zip(config.exit_depths, policy.resolve(config), strict=True)
  return {depth: float(t) for depth, t in thresholds if t < float('inf')}


def _check_exits(taken: dict[int, float], ends: tuple[int, ...]) -> None:
  for depth in taken:
    if depth not in ends[:-1]:
      raise ArgumentError(
        f'the exit at depth {depth} does not stand at the end of a stage '
        f'before the last (stages end at depths {_listed(ends)}); move a '
        "stage's end there, or set the exit's threshold to never."
      )


def _listed(numbers: Sequence[int]) -> str:
  return ', '.join(map(str, numbers)) or 'none'
