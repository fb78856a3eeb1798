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
"""Flags of the gin runs that stand for the macros people set most."""

import argparse
import dataclasses
from typing import Any

from eejax.cli import mesh_flag
from eejax.cli.gin import config as gin_config
from eejax.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class Shorthand:
  """Pair a plain flag with the macro it sets.

  Attributes:
    flag: with its dashes.
    macro: of the run's gin file.
    help: one line.
    type: what argparse makes of the text.
    more: bindings that go with it.
    instead_of: a flag that cannot be given as well.
  """

  flag: str
  macro: str
  help: str
  type: Any = str
  more: tuple[str, ...] = ()
  instead_of: str | None = None

  @property
  def dest(self) -> str:
    """Return the attribute of the parsed arguments."""
    return self.flag.removeprefix('--').replace('-', '_')


def numbers(text: str) -> float | tuple[float, ...]:
  """Read one number, or several between commas."""
  values = tuple(float(part) for part in text.split(','))
  return values[0] if len(values) == 1 else values


MESH = Shorthand('--mesh', 'MESH', mesh_flag.MEANING)

BOTH = (
  Shorthand('--run', 'RUN', 'folder of the run; an earlier one continues'),
  Shorthand('--steps', 'STEPS', 'optimizer steps in all', int),
  Shorthand('--learning-rate', 'LEARNING_RATE', 'peak learning rate', float),
  Shorthand('--batch-size', 'BATCH_SIZE', 'sequences a step', int),
  Shorthand('--sequence-length', 'SEQUENCE_LENGTH', 'tokens a sequence', int),
  Shorthand(
    '--data', 'DATA', "'stdlib', a file, a folder, seqio:TASK or tfds:NAME"
  ),
  Shorthand(
    '--conversations',
    'DATA',
    "in place of --data: JSON lines with messages; the assistant's turns alone "
    'are learned',
    more=('DataConfig.unit = %TextUnit.CONVERSATION',),
    instead_of='--data',
  ),
  Shorthand(
    '--exit-weights',
    'EXIT_WEIGHTS',
    'weight of the exit losses: one number, or one for each exit: 0.1,0.2',
    numbers,
  ),
  MESH,
  Shorthand(
    '--resume-step',
    'LoopConfig.resume_step',
    'go on from the checkpoint of this step; later ones are set aside',
    int,
  ),
  Shorthand('--seed', 'SEED', 'seed of everything random', int),
  Shorthand(
    '--profile',
    'LoopConfig.profile',
    'steps whose trace is written to profile/ of the run, the last left out: '
    '10:13',
  ),
  Shorthand(
    '--hardware',
    'LoopConfig.hardware',
    'one device, for MFU: a name in configs/hardware (default: what the '
    'device says it is)',
  ),
  Shorthand(
    '--wandb',
    'LoopConfig.wandb',
    'project of Weights & Biases that is told the metrics, too',
  ),
)


def add_arguments(
  parser: argparse.ArgumentParser, shorthands: tuple[Shorthand, ...]
) -> None:
  """Add the flags and those of gin."""
  group = parser.add_argument_group('commonest settings')
  for s in shorthands:
    group.add_argument(
      s.flag,
      dest=s.dest,
      type=s.type,
      help=f'{s.help} (--gin.{s.macro})',
      metavar=s.dest.rpartition('_')[2].upper(),
    )
  gin_config.add_gin_arguments(parser)


def parse(
  args: argparse.Namespace,
  shorthands: tuple[Shorthand, ...],
  *,
  default_file: str,
) -> None:
  """Set gin's configuration from files, bindings and plain flags.

  A plain flag wins over a binding of the same macro.

  Raises:
    ArgumentError: two flags name the same thing.
  """
  given = {s.flag: s for s in shorthands if getattr(args, s.dest) is not None}
  plain = []
  for flag, s in given.items():
    if s.instead_of in given:
      raise ArgumentError(
        f'{s.instead_of} and {flag} both name what is read; give one of them.'
      )
    plain += [f'{s.macro} = {getattr(args, s.dest)!r}', *s.more]
  merged = argparse.Namespace(**vars(args))
  merged.gin_bindings = [*args.gin_bindings, *plain]
  gin_config.parse(merged, default_files=(default_file,))
