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
"""Exits of a backbone: where they stand, and what they are made of."""

import dataclasses
import enum
from typing import Any

from eejax.config.field_types import check_fields
from eejax.config.model import ModelConfig
from eejax.errors import ArgumentError


class ExitHeadKind(enum.Enum):
  """What stands between the residual stream and an exit's output matrix.

  With r the stream after a block's attention and u = norm(r) the input of
  its MLP, both of the exit's own block, and h the stream after the block:

    EMBEDDING       z = h
    NORM            z = norm_e(h)
    MLP             z = norm_e(r + mlp_e(u)), a twin of the block's own MLP
    BOTTLENECK_MLP  z = norm_e(h + low-rank mlp_e(norm'_e(h)))
    BLOCK           z = norm_e(block_e(h)), a whole extra block

  Reference: EE-LLM (arXiv 2312.04916), exit layer structures.
  """

  EMBEDDING = 'embedding'
  NORM = 'norm'
  MLP = 'mlp'
  BOTTLENECK_MLP = 'bottleneck_mlp'
  BLOCK = 'block'


class OutputMatrix(enum.Enum):
  """Which matrix an exit multiplies by to get logits.

  UNTIED          its own, trained
  TIED_EMBEDDING  the embedding table
  SHARED          the backbone's final head, whatever that is
  """

  UNTIED = 'untied'
  TIED_EMBEDDING = 'tied_embedding'
  SHARED = 'shared'


class GateKind(enum.Enum):
  """Which probe, read before the output matrix, predicts a safe exit."""

  NONE = 'none'
  LINEAR = 'linear'
  MLP = 'mlp'


class Initialization(enum.Enum):
  """How a new exit's parameters start."""

  COPY = 'copy'
  RANDOM = 'random'


@dataclasses.dataclass(frozen=True)
class ExitConfig:
  """Describe one exit.

  Attributes:
    depth: blocks run before the exit reads the stream, 0..L.
    head: what stands before the output matrix.
    output: which output matrix is used.
    rank: width of the bottleneck; `BOTTLENECK_MLP` needs it, others refuse it.
    gate: which probe is trained beside the head.
  """

  depth: int
  head: ExitHeadKind = ExitHeadKind.NORM
  output: OutputMatrix = OutputMatrix.SHARED
  rank: int | None = None
  gate: GateKind = GateKind.NONE

  def __post_init__(self):
    check_fields(self)
    if self.depth < 0:
      raise ArgumentError(f'an exit depth must be >= 0, not {self.depth}.')
    bottleneck = self.head is ExitHeadKind.BOTTLENECK_MLP
    if bottleneck and (self.rank is None or self.rank < 1):
      raise ArgumentError(
        f'the bottleneck_mlp exit at depth {self.depth} needs a rank >= 1.'
      )
    if not bottleneck and self.rank is not None:
      raise ArgumentError(
        f'the {self.head.value} exit at depth {self.depth} takes no rank.'
      )
    if self.head is ExitHeadKind.MLP and self.depth == 0:
      raise ArgumentError(
        'an mlp exit is the twin of the MLP below it, so depth 0 has none; '
        'use norm, embedding or block there.'
      )

  @property
  def name(self) -> str:
    """Return the exit's key in a parameter tree."""
    return exit_name(self.depth)


def exit_name(depth: int) -> str:
  """Return the key under which an exit's parameters are kept."""
  return f'exit_{depth}'


@dataclasses.dataclass(frozen=True)
class EarlyExitConfig:
  """Describe a backbone with its exits, sorted by depth.

  Attributes:
    model: the backbone.
    exits: the exits, at most one per depth, shallowest first.
  """

  model: ModelConfig
  exits: tuple[ExitConfig, ...] = ()

  def __post_init__(self):
    depths = [e.depth for e in self.exits]
    if len(set(depths)) < len(depths):
      twice = sorted({d for d in depths if depths.count(d) > 1})
      raise ArgumentError(
        f'there is more than one exit at depth {twice[0]}; keep one.'
      )
    if depths and max(depths) > self.model.num_layers:
      raise ArgumentError(
        f'an exit at depth {max(depths)} lies beyond the model, which has '
        f'{self.model.num_layers} blocks.'
      )
    heads = {e.head for e in self.exits}
    if ExitHeadKind.MLP in heads and not self.model.has_mlp:
      raise ArgumentError(
        'an mlp exit is the twin of an MLP, and blocks of this model have '
        'none; use norm, bottleneck_mlp, block or embedding.'
      )
    ordered = tuple(sorted(self.exits, key=lambda e: e.depth))
    object.__setattr__(self, 'exits', ordered)

  @property
  def exit_depths(self) -> tuple[int, ...]:
    """Return the depths of the exits, shallowest first."""
    return tuple(e.depth for e in self.exits)

  @property
  def deepest_exit(self) -> int:
    """Return the depth of the deepest exit, 0 without exits."""
    return max(self.exit_depths, default=0)

  def exit_at(self, depth: int) -> ExitConfig:
    """Return the exit at `depth`.

    Raises:
      ArgumentError: no exit is there.
    """
    for e in self.exits:
      if e.depth == depth:
        return e
    have = ', '.join(map(str, self.exit_depths)) or 'none'
    raise ArgumentError(f'there is no exit at depth {depth} (exits: {have}).')

  def with_exits(self, exits: tuple[ExitConfig, ...]) -> 'EarlyExitConfig':
    """Return the same backbone with other exits."""
    return dataclasses.replace(self, exits=exits)


def parse_exits(text: str) -> tuple[ExitConfig, ...]:
  """Read exits as the command line writes them.

  Each is `DEPTH:HEAD[(RANK)][:OUTPUT][:gate|:mlp_gate]`, separated by commas;
  HEAD is an `ExitHeadKind`, OUTPUT an `OutputMatrix`.

  Example:
    >>> [e.depth for e in parse_exits('3:norm,6:bottleneck_mlp(8):untied')]
    [3, 6]

  Raises:
    ArgumentError: a part is not understood; it is named.
  """
  return tuple(_parse_exit(part.strip()) for part in text.split(','))


def _parse_exit(text: str) -> ExitConfig:
  depth, *rest = text.split(':')
  if not depth.isdigit():
    raise ArgumentError(
      f'{text!r} is not an exit; write DEPTH:HEAD, for example 6:mlp.'
    )
  fields: dict[str, Any] = {'depth': int(depth)}
  head, _, rank = (rest[0] if rest else 'norm').partition('(')
  fields['head'] = _member(ExitHeadKind, head, text)
  if rank:
    if not rank.rstrip(')').isdigit():
      raise ArgumentError(f'{text!r}: the rank must be a number.')
    fields['rank'] = int(rank.rstrip(')'))
  for option in rest[1:]:
    if option in ('gate', 'mlp_gate'):
      fields['gate'] = GateKind.MLP if option == 'mlp_gate' else GateKind.LINEAR
    else:
      fields['output'] = _member(OutputMatrix, option, text)
  return ExitConfig(**fields)


def _member(kind: type[enum.Enum], value: str, text: str) -> Any:
  try:
    return kind(value)
  except ValueError:
    known = ', '.join(m.value for m in kind)
    raise ArgumentError(
      f'{value!r} in {text!r} is not one of: {known}.'
    ) from None
