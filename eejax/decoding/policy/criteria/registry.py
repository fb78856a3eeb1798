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
"""Criteria by their names."""

import contextlib
from collections.abc import Sequence

from eejax.config import EarlyExitConfig, ExitConfig, GateKind
from eejax.decoding.policy.criteria.criterion import Criterion, Reads
from eejax.decoding.policy.criteria.distribution import (
  Entropy,
  Margin,
  MaxProbability,
)
from eejax.decoding.policy.criteria.fixed import DepthSchedule, Static
from eejax.decoding.policy.criteria.gates import GateScore
from eejax.decoding.policy.criteria.neighbours import (
  Cosine,
  JensenShannon,
  KullbackLeibler,
  Patience,
)
from eejax.decoding.policy.notation import parse_notation
from eejax.errors import ArgumentError

_CRITERIA: dict[str, Criterion] = {}

# They look like criteria and compare with what the whole model will say.
_ORACLES = ('first_match', 'stable')


def register(criterion: Criterion) -> str:
  """Make a criterion known by its name, without its settings.

  Returns:
    What to write for it in a policy, its settings included.

  Raises:
    ArgumentError: the name is taken by another kind of criterion.
  """
  known = _CRITERIA.get(criterion.name)
  if known is None:
    _CRITERIA[criterion.name] = criterion
  elif type(known) is not type(criterion):
    raise ArgumentError(f'there is already a criterion {criterion.name!r}.')
  return criterion.notation


def criterion_names() -> tuple[str, ...]:
  """Return the names of all known criteria."""
  return tuple(_CRITERIA)


def usable_criteria(exits: Sequence[ExitConfig]) -> tuple[str, ...]:
  """Return the criteria of one exit that each of some exits can be asked by."""
  usable = []
  for name, criterion in _CRITERIA.items():
    if criterion.reads not in (Reads.GATE, Reads.LOGITS):
      continue
    with contextlib.suppress(ArgumentError):
      criterion.check(tuple(exits))
      usable.append(name)
  return tuple(usable)


def get_criterion(text: str) -> Criterion:
  """Return the criterion that `text` names.

  Args:
    text: a name, such as `margin`, or one with settings, such as
      `patience(3)`.

  Raises:
    ArgumentError: there is none of that name, or it refuses the settings.
  """
  name, settings = parse_notation(text)
  if name in _ORACLES:
    raise ArgumentError(
      f'{name} is an oracle: it compares with the final output, so nothing is '
      'decoded by it; use another criterion, or ask '
      'eejax.evaluation.oracle_decoding where it would have exited.'
    )
  if name not in _CRITERIA:
    raise ArgumentError(
      f'there is no criterion {name!r}; there are '
      f'{", ".join(criterion_names())}.'
    )
  return _CRITERIA[name].with_settings(*settings)


def default_criterion(config: EarlyExitConfig) -> str:
  """Return `gate` where every exit has one, else `max_prob`."""
  gated = all(e.gate is not GateKind.NONE for e in config.exits)
  return GateScore.name if config.exits and gated else MaxProbability.name


for _criterion in (
  GateScore(),
  MaxProbability(),
  Margin(),
  Entropy(),
  Patience(),
  Cosine(),
  JensenShannon(),
  KullbackLeibler(),
  Static(),
  DepthSchedule(),
):
  register(_criterion)
