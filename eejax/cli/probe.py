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
"""eejax probe: does early exit pay on this model, and where?"""

import argparse
from typing import Any

from eejax import formatting, serialization
from eejax.cli import mesh_flag, text_flags

HELP = 'say whether early exit pays on a model, at which exits, and how much'
EXAMPLE = 'eejax probe models/Llama-3.2-1B --data notes.txt --out probe.html'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  text_flags.add_arguments(parser, max_tokens=8_000)
  group = parser.add_argument_group('what is asked')
  group.add_argument(
    '--loss',
    type=float,
    default=0.05,
    metavar='X',
    help=(
      'share of tokens that may differ from full decoding, in [0, 1) '
      '(default: 0.05)'
    ),
  )
  group.add_argument(
    '--max-exits',
    type=int,
    default=3,
    metavar='N',
    help='exits to choose at most (default: 3)',
  )
  group.add_argument(
    '--window',
    type=int,
    default=8,
    metavar='N',
    help='every N-th token at the latest goes to full depth (default: 8)',
  )
  group.add_argument(
    '--hardware',
    metavar='NAME',
    help=(
      'forecast for a machine of configs/hardware, or a file like those '
      '(default: measure on this one)'
    ),
  )
  mesh_flag.add_argument(parser)
  parser.add_argument(
    '--out', metavar='FILE', help='write the verdict as a page (.html)'
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.checkpoint.load import load
  from eejax.cli import output
  from eejax.data.corpus import Split, TextUnit
  from eejax.recipes.probe import Question, probe
  from eejax.recipes.text import Text

  Question(args.loss, args.max_exits, args.window, args.hardware)
  if args.out:
    serialization.check_writable(args.out)
  source, unit = text_flags.source(args)
  split = None if args.split is None else Split(args.split)
  text = Text(source, split, TextUnit(unit))
  mesh = mesh_flag.devices(args)
  model = load(
    args.checkpoint,
    dtype=args.dtype,
    mesh=mesh,
    progress=output.reporter(),
  )
  result = probe(
    model,
    text,
    loss=args.loss,
    max_exits=args.max_exits,
    window=args.window,
    hardware=args.hardware,
    max_tokens=args.max_tokens,
    sequence_length=args.sequence_length,
    batch_size=args.batch_size,
    dtype=args.dtype,
    mesh=mesh,
    progress=output.reporter(),
  )
  output.show(
    f'{result.search.natural.tokens} tokens of {text}; every depth read with '
    "the model's own final norm and head\n"
  )
  output.show(formatting.table(result.depth_rows()))
  output.show('\n' + formatting.table(result.table()))
  output.show('\n' + result.summary())
  for sentence in result.sentences():
    output.show(f'- {sentence}')
  if args.out:
    serialization.write_text(args.out, result.page())
    output.show(f'\nwrote {args.out}')
  return {
    'checkpoint': args.checkpoint,
    'data': text.source,
    'split': text.part,
    'dtype': args.dtype,
    **result.to_json(),
    'out': args.out,
  }
