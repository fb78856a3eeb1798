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
"""eejax export: a checkpoint in the layout of another program."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from eejax.checkpoint.model import Model

HELP = 'make a Hugging Face folder, a GGUF file or a t5x run of a checkpoint'
EXAMPLE = 'eejax export checkpoints/tuned models/tuned'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('checkpoint', metavar='CKPT', help='an eejax checkpoint')
  parser.add_argument(
    'dest',
    metavar='DEST',
    nargs='?',
    help='the folder to make, or a file NAME.gguf',
  )
  parser.add_argument(
    '--format',
    choices=('huggingface', 'gguf', 't5x', 'maxtext', 'gemma'),
    help=(
      'huggingface: what transformers reads, exits beside it (default); gguf: '
      'a file for llama.cpp, without exits (default where DEST ends with '
      '.gguf); t5x: DEST/checkpoint_0, which t5x restores; maxtext: '
      'DEST/0/items; gemma: DEST/params, Llama-like models in its naming'
    ),
  )
  parser.add_argument(
    '--outtype',
    choices=('f32', 'f16', 'q8_0'),
    help='how matrices are kept in a GGUF file (default: f32)',
  )
  parser.add_argument(
    '--draft',
    type=int,
    metavar='DEPTH',
    help=(
      'write the exit at DEPTH as a small model of its own, with which other '
      'programs draft'
    ),
  )
  parser.add_argument(
    '--exits-only',
    action='store_true',
    help='write the exits without the backbone',
  )
  parser.add_argument(
    '--hub',
    metavar='NAME',
    help='in place of DEST: put the exits into the repository ORG/NAME',
  )
  parser.add_argument(
    '--private',
    action='store_true',
    help='with --hub: make a new repository private',
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
  from eejax.checkpoint import exits_alone, folder, packaged
  from eejax.cli import checkpoint_report, output

  _check(args)
  _check_destination(args)
  timer = checkpoint_report.Timer()
  source = packaged.resolve(args.checkpoint, progress=output.reporter())
  with output.waiting(f'exporting {args.checkpoint}'):
    model = folder.load(source, layout=folder.Layout.UNSTACKED)
    if args.hub is not None:
      place = exits_alone.push_exits(model, args.hub, private=args.private)
    else:
      place = args.dest
      _write(model, args)
  report = checkpoint_report.describe(source, timer=timer)
  report['path'] = place
  output.show(checkpoint_report.summary(f'exported {args.checkpoint}', report))
  return {'source': args.checkpoint, **report}


def _check(args: argparse.Namespace) -> None:
  from eejax.errors import ArgumentError

  if args.format is None:
    is_file = str(args.dest).endswith('.gguf')
    args.format = 'gguf' if is_file else 'huggingface'
  if args.outtype is not None and args.format != 'gguf':
    raise ArgumentError('--outtype is of GGUF files; add --format gguf.')
  if args.format == 'gguf' and (args.exits_only or args.hub):
    raise ArgumentError('a GGUF file has no exits; leave out --format gguf.')
  if args.shard_gb <= 0:
    raise ArgumentError(f'--shard-gb must be above 0, not {args.shard_gb}.')
  if (args.dest is None) == (args.hub is None):
    raise ArgumentError('name the folder DEST, or a repository with --hub.')
  if args.draft is not None and (args.exits_only or args.hub):
    raise ArgumentError('--draft makes a folder with a model; leave the rest.')


def _check_destination(args: argparse.Namespace) -> None:
  from eejax.checkpoint.atomic import check_destination
  from eejax.checkpoint.gguf_export import check_free

  if args.dest is None:
    return
  if args.format == 'gguf':
    check_free(args.dest, existing=_existing(args))
  else:
    check_destination(args.dest, existing=_existing(args), marker=_marker(args))


def _existing(args: argparse.Namespace) -> Any:
  from eejax.checkpoint.atomic import Existing

  return Existing.OVERWRITE if args.overwrite else Existing.REFUSE


def _marker(args: argparse.Namespace) -> str:
  """Return the file by which an earlier export is recognised."""
  from eejax.checkpoint import huggingface, huggingface_export, t5x_layout

  if args.exits_only:
    return huggingface_export.EXITS_CONFIG
  return t5x_layout.MARKER if args.format == 't5x' else huggingface.CONFIG


def _write(model: 'Model', args: argparse.Namespace) -> None:
  from eejax.checkpoint import exits_alone, formats, gguf_export, t5x_layout
  from eejax.checkpoint.draft import draft_model

  existing = _existing(args)
  if args.exits_only:
    exits_alone.save_exits(model, args.dest, existing=existing)
    return
  if args.draft is not None:
    model = draft_model(model, args.draft)
  if args.format == 'gguf':
    out_type = gguf_export.OutType(args.outtype or 'f32')
    gguf_export.export_file(
      model, args.dest, out_type=out_type, existing=existing
    )
    return
  if args.format == 't5x':
    t5x_layout.save(model, args.dest, existing=existing)
    return
  formats.export_folder(
    model,
    args.dest,
    format=formats.CheckpointFormat(args.format),
    shard_bytes=int(args.shard_gb * 1e9),
    existing=existing,
  )
