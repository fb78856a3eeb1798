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
"""`eejax eval`: loss and perplexity at every exit, speed against quality."""

import argparse
from typing import Any

from eejax.cli import mesh_flag, text_flags

HELP = 'measure every exit on a text; --sweep adds speed against quality'
EXAMPLE = 'eejax eval checkpoints/tuned --data notes.txt --sweep'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  text_flags.add_arguments(parser, max_tokens=20_000)
  mesh_flag.add_argument(parser)
  group = parser.add_argument_group('sweep')
  group.add_argument(
    '--sweep',
    action='store_true',
    help='agreement, exits and predicted speed for many thresholds',
  )
  group.add_argument(
    '--criterion',
    choices=('gate', 'max_prob', 'margin', 'entropy'),
    help='the score (default: gate where every exit has one, else max_prob)',
  )
  group.add_argument(
    '--target',
    type=float,
    default=0.97,
    metavar='SHARE',
    help='agreement that thresholds for each exit are searched for',
  )
  group.add_argument(
    '--window',
    type=int,
    default=8,
    metavar='N',
    help='of the decoder: every N-th token goes through the whole model',
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.checkpoint.load import load
  from eejax.cli import output
  from eejax.recipes.evaluate import evaluate
  from eejax.recipes.text import read_text

  progress, mesh = (
    output.reporter(),
    mesh_flag.devices(args, processes=mesh_flag.Processes.SEVERAL),
  )
  source, unit = text_flags.source(args)
  result = evaluate(
    load(args.checkpoint, dtype=args.dtype, mesh=mesh, progress=progress),
    read_text(source, split=args.split, unit=unit),
    max_tokens=args.max_tokens,
    sequence_length=args.sequence_length,
    batch_size=args.batch_size,
    sweep=args.sweep,
    criterion=args.criterion,
    target=args.target,
    window=args.window,
    dtype=args.dtype,
    mesh=mesh,
    progress=progress,
  )
  output.show(str(result))
  return {'checkpoint': args.checkpoint, **result.to_json()}
