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
"""eejax export: a checkpoint becomes a Hugging Face folder, or t5x's."""

import argparse
from typing import Any

HELP = 'make a Hugging Face folder, or a t5x run, of a checkpoint'
EXAMPLE = 'eejax export checkpoints/tuned models/tuned'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('checkpoint', metavar='CKPT', help='an eejax checkpoint')
  parser.add_argument('dest', metavar='DEST', help='the folder to make')
  parser.add_argument(
    '--format',
    choices=('huggingface', 't5x'),
    default='huggingface',
    help=(
      'huggingface: what transformers reads, exits beside it (default); t5x: '
      'DEST/checkpoint_0, which t5x restores'
    ),
  )
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
    help='replace what an earlier export left at DEST',
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.checkpoint import folder, huggingface, t5x_layout
  from eejax.checkpoint.atomic import Existing, check_destination
  from eejax.cli import checkpoint_report, output
  from eejax.errors import ArgumentError

  if args.shard_gb <= 0:
    raise ArgumentError(f'--shard-gb must be above 0, not {args.shard_gb}.')
  existing = Existing.OVERWRITE if args.overwrite else Existing.REFUSE
  is_t5x = args.format == 't5x'
  marker = t5x_layout.MARKER if is_t5x else huggingface.CONFIG
  check_destination(args.dest, existing=existing, marker=marker)
  timer = checkpoint_report.Timer()
  with output.waiting(f'exporting {args.checkpoint}'):
    model = folder.load(args.checkpoint, layout=folder.Layout.UNSTACKED)
    if is_t5x:
      t5x_layout.save(model, args.dest, existing=existing)
    else:
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
