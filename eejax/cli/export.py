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
"""eejax export: a checkpoint becomes a Hugging Face folder."""

import argparse
from typing import Any

HELP = 'make a Hugging Face folder of a checkpoint, its exits beside'
EXAMPLE = 'eejax export checkpoints/tuned models/tuned'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('checkpoint', metavar='CKPT', help='an eejax checkpoint')
  parser.add_argument('dest', metavar='DEST', help='the folder to make')
  parser.add_argument(
    '--shard-gb',
    type=float,
    default=5.0,
    metavar='GB',
    help='split the weights into files of at most this size (default: 5)',
  )
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='replace the Hugging Face folder that is at DEST',
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.checkpoint import folder, huggingface
  from eejax.checkpoint.atomic import Existing, check_destination
  from eejax.cli import checkpoint_report, output
  from eejax.errors import ArgumentError

  if args.shard_gb <= 0:
    raise ArgumentError(f'--shard-gb must be above 0, not {args.shard_gb}.')
  existing = Existing.OVERWRITE if args.overwrite else Existing.REFUSE
  check_destination(args.dest, existing=existing, marker='config.json')
  timer = checkpoint_report.Timer()
  with output.waiting(f'exporting {args.checkpoint}'):
    model = folder.load(args.checkpoint, layout=folder.Layout.UNSTACKED)
    huggingface.export_folder(
      model,
      args.dest,
      shard_bytes=int(args.shard_gb * 1e9),
      existing=existing,
    )
  report = checkpoint_report.describe(args.checkpoint, timer=timer)
  report['path'] = args.dest
  output.show(checkpoint_report.summary(f'exported {args.checkpoint}', report))
  return {'source': args.checkpoint, **report}
