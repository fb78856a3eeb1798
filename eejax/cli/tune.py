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
"""`eejax tune`: train exits on a frozen backbone."""

import argparse
from typing import Any

from eejax.cli import output, run_flags
from eejax.cli.gin import config as gin_config
from eejax.cli.run_flags import Shorthand

HELP = 'tune the exits of a checkpoint; its backbone stays as it is'
EXAMPLE = 'eejax tune --checkpoint CKPT --run runs/tuned --steps 500'

_SHORTHANDS = (
  Shorthand('--checkpoint', 'CHECKPOINT', 'eejax checkpoint with exits'),
  *run_flags.BOTH,
  Shorthand(
    '--distillation',
    'DISTILLATION',
    'share of the loss that imitates the final head, 0 to 1',
    float,
  ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  run_flags.add_arguments(parser, _SHORTHANDS)


def run(args: argparse.Namespace) -> dict[str, Any]:
  # The configurables must be known before gin reads a file.
  from eejax.cli.gin import configurables  # noqa: F401

  run_flags.parse(args, _SHORTHANDS, default_file='runs/tune.gin')
  result = gin_config.call('tune')
  output.show(f'model: {result.to_json()["model"]}')
  return result.to_json()
