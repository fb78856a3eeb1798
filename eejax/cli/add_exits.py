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
"""eejax add-exits: surgery on the exits of a checkpoint."""

import argparse
from typing import Any

HELP = 'add exits to a checkpoint, or drop some'
EXAMPLE = (
  'eejax add-exits checkpoints/llama checkpoints/llama-exits '
  '--exits 3:norm,6:mlp,9:block'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  from eejax.config import parse_exits

  parser.add_argument('checkpoint', metavar='CKPT', help='an eejax checkpoint')
  parser.add_argument('dest', metavar='DEST', help='the folder to make')
  parser.add_argument(
    '--exits',
    type=parse_exits,
    default=(),
    metavar='DEPTH:HEAD,...',
    help=(
      'what to add: DEPTH:HEAD[(RANK)][:OUTPUT][:gate|:mlp_gate] with HEAD '
      'embedding, norm, mlp, bottleneck_mlp or block and OUTPUT shared '
      '(default), untied or tied_embedding'
    ),
  )
  parser.add_argument(
    '--drop',
    type=_depths,
    default=(),
    metavar='DEPTH,...',
    help='which exits to remove before any are added',
  )
  parser.add_argument(
    '--init',
    choices=('copy', 'random'),
    default='copy',
    help='start from what the backbone has there, or at random (default: copy)',
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='of what is random (default: 0)'
  )
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='replace the checkpoint that is at DEST, which may be CKPT itself',
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.checkpoint import folder, manifest, packaged, surgery
  from eejax.checkpoint.atomic import Existing, check_destination
  from eejax.cli import checkpoint_report, output
  from eejax.config import Initialization
  from eejax.errors import ArgumentError
  from eejax.recipes.add_exits import add_exits, drop_exits

  if not (args.exits or args.drop):
    raise ArgumentError('say what to add with --exits, or to drop with --drop.')
  existing = Existing.OVERWRITE if args.overwrite else Existing.REFUSE
  check_destination(args.dest, existing=existing, marker=manifest.NAME)
  initialization = Initialization(args.init)
  source = packaged.resolve(args.checkpoint, progress=output.reporter())
  timer = checkpoint_report.Timer()
  with output.waiting(f'changing the exits of {args.checkpoint}'):
    before = folder.read_config(source)
    # Refuses what does not fit before any array is read.
    after = surgery.planned(before, add=args.exits, drop=args.drop)
    depth = surgery.blocks_read(after, args.exits, initialization)
    held = folder.load(
      source,
      depth=max(depth, before.deepest_exit),
      layout=folder.Layout.UNSTACKED,
    )
    model = add_exits(
      drop_exits(held, args.drop),
      args.exits,
      initialization=initialization,
      seed=args.seed,
    )
    folder.replace_exits(
      args.dest,
      source=source,
      config=model.config,
      exits=model.params['exits'],
      existing=existing,
    )
  report = checkpoint_report.describe(args.dest, timer=timer)
  output.show(checkpoint_report.summary(f'wrote {args.dest}', report))
  return {'source': args.checkpoint, **report}


def _depths(text: str) -> tuple[int, ...]:
  from eejax.errors import ArgumentError

  parts = [part.strip() for part in text.split(',')]
  for part in parts:
    if not part.isdigit():
      raise ArgumentError(f'{part!r} is not the depth of an exit.')
  return tuple(int(part) for part in parts)
