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
"""`eejax pretrain`: train a decoder, with or without exits."""

import argparse
from typing import Any

from eejax.cli import output, run_flags
from eejax.cli.gin import config as gin_config
from eejax.cli.run_flags import Shorthand

HELP = 'train a whole decoder, with or without exits'
EXAMPLE = (
  'eejax pretrain --gin_file=runs/pretrain.gin --gin_file=models/tiny.gin '
  '--gin.EXITS="\'1:norm,2:mlp\'" --run runs/first --steps 200'
)

_SHORTHANDS = (
  *run_flags.BOTH,
  Shorthand('--exits', 'EXITS', 'exits to train beside, as in 3:norm,6:mlp'),
  Shorthand('--tokenizer', 'TOKENIZER', 'folder with a tokenizer.json'),
  Shorthand(
    '--checkpoint',
    'CHECKPOINT',
    'eejax checkpoint to start from, not random parameters',
  ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  run_flags.add_arguments(parser, _SHORTHANDS)


def run(args: argparse.Namespace) -> dict[str, Any]:
  # The configurables must be known before gin reads a file.
  from eejax.cli.gin import configurables  # noqa: F401

  run_flags.parse(args, _SHORTHANDS, default_file='runs/pretrain.gin')
  result = gin_config.call('pretrain')
  output.show(f'model: {result.to_json()["model"]}')
  return result.to_json()
