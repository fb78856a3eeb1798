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
"""eejax quickstart: the whole path on one small model, with a report."""

import argparse
from typing import Any

from eejax import formatting

HELP = 'the whole path on the embedded model: probe, tune, decode, report'
EXAMPLE = 'eejax quickstart --backbone models/SmolLM2-135M --steps 200'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--out',
    default='runs/quickstart',
    metavar='FOLDER',
    help=(
      'where everything goes (default: runs/quickstart); what is finished '
      'there is not done again'
    ),
  )
  parser.add_argument(
    '--force',
    action='store_true',
    help='do everything again, also what is finished',
  )
  parser.add_argument(
    '--backbone',
    default='default',
    metavar='PATH',
    help=(
      'a Hugging Face folder, a GGUF file, an eejax checkpoint, a name on the '
      'hub, or smollm2, which is fetched once (default: the model that is '
      'shipped with eejax)'
    ),
  )
  parser.add_argument(
    '--data',
    default='stdlib',
    metavar='FILE',
    help=(
      'a text or .jsonl file, a folder or a glob (default: the standard '
      'library of this Python)'
    ),
  )
  parser.add_argument(
    '--unit',
    choices=('file', 'paragraph', 'line'),
    help=(
      'what one document of a text file is (default: paragraph, or file for '
      'stdlib); documents are what is held out'
    ),
  )
  parser.add_argument(
    '--exits',
    metavar='DEPTH:HEAD,...',
    help=(
      'as add-exits takes them (default: four mlp exits with gates, at about '
      'a quarter, three eighths, half and three quarters of the depth)'
    ),
  )
  parser.add_argument(
    '--risk',
    type=float,
    default=0.03,
    metavar='X',
    help='share of tokens that may differ from full decoding (default: 0.03)',
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='of everything random (default: 0)'
  )
  _add_sizes(parser)


def _add_sizes(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('how much is done')
  for flag, value, words in (
    ('--steps', 250, 'optimizer steps of tuning'),
    ('--eval-tokens', 16_000, 'tokens of held-out text each measurement reads'),
    ('--prompts', 16, 'prompts that are timed'),
    ('--new-tokens', 48, 'tokens generated for each'),
    ('--repeats', 3, 'rounds of timing'),
    ('--window', 8, 'tokens that wait for deeper blocks, at most'),
  ):
    group.add_argument(
      flag,
      type=_positive,
      default=value,
      metavar='N',
      help=f'{words} (default: {value})',
    )


def _positive(text: str) -> int:
  from eejax.errors import ArgumentError

  if not text.isdigit() or int(text) < 1:
    raise ArgumentError(f'{text!r} is not a number above 0.')
  return int(text)


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import output
  from eejax.recipes.quickstart import QuickstartSettings, quickstart
  from eejax.recipes.text import read_text

  unit = args.unit or ('file' if args.data == 'stdlib' else 'paragraph')
  settings = QuickstartSettings(
    backbone=args.backbone,
    text=read_text(args.data, unit=unit),
    exits=args.exits,
    risk=args.risk,
    steps=args.steps,
    max_tokens=args.eval_tokens,
    prompts=args.prompts,
    new_tokens=args.new_tokens,
    repeats=args.repeats,
    window=args.window,
    seed=args.seed,
  )
  result = quickstart(
    settings, folder=args.out, force=args.force, progress=output.reporter()
  )
  took = formatting.duration(sum(result.seconds.values()))
  output.show(
    f'\n{result}\n\nall stages took {took}; figures: '
    f'{result.folder / "summary.json"}\n'
    f'open in a browser: {result.folder / "report.html"}'
  )
  return result.to_json()
