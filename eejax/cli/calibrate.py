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
"""eejax calibrate: thresholds with a finite-sample guarantee."""

import argparse
import dataclasses
import functools
from typing import Any

from eejax import serialization, storage
from eejax.cli import mesh_flag, text_flags
from eejax.cli.gin import policy as gin_policy

HELP = 'choose thresholds on a text, with a guarantee on what they lose'
EXAMPLE = (
  'eejax calibrate runs/tuned/model --data notes.txt --unit paragraph --risk '
  '0.05 --delta 0.05 --out policy.json'
)

BOUNDS = ('hoeffding_bentkus', 'bentkus', 'hoeffding', 'betting')
METHODS = ('learn_then_test', 'conformal')
MEASURES = ('local', 'rouge_l', 'same_place')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  from eejax.config import parse_exits

  gin_policy.add_arguments(parser)
  parser.add_argument(
    'checkpoint',
    metavar='CKPT',
    help='an eejax checkpoint or a Hugging Face folder, with exits',
  )
  parser.add_argument(
    '--exits',
    type=parse_exits,
    default=(),
    metavar='DEPTH:HEAD,...',
    help='exits to add in memory, as eejax add-exits takes them',
  )
  mesh_flag.add_argument(parser)
  parser.add_argument(
    '--out',
    default='policy.json',
    metavar='FILE',
    help='the policy, for generate --policy (default: policy.json)',
  )
  parser.add_argument(
    '--allow-slower',
    action='store_true',
    help='write a certified policy though it is measured to be no faster',
  )
  _add_guarantee(parser.add_argument_group('what is guaranteed'))
  _add_data(parser.add_argument_group('prompts'))
  group = parser.add_argument_group('decoding')
  group.add_argument(
    '--criterion',
    metavar='NAME',
    help='the score (default: whichever is fastest at this risk)',
  )
  group.add_argument(
    '--window',
    type=int,
    default=8,
    metavar='N',
    help='every N-th token at the latest goes to full depth (default: 8)',
  )
  group.add_argument(
    '--batch-size',
    type=int,
    default=16,
    metavar='N',
    help='prompts decoded together (default: 16)',
  )
  group.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32',
    help='what is computed in, and certified for (default: float32)',
  )


def _add_guarantee(group: argparse._ArgumentGroup) -> None:
  group.add_argument(
    '--risk',
    type=float,
    default=0.05,
    metavar='X',
    help='limit of the mean loss of a sequence, in (0, 1) (default: 0.05)',
  )
  group.add_argument(
    '--delta',
    type=float,
    default=0.05,
    metavar='X',
    help=(
      'chance at most that the mean loss is above it all the same, in (0, 1) '
      '(default: 0.05)'
    ),
  )
  group.add_argument(
    '--measure',
    default=MEASURES[0],
    metavar='NAME',
    help=(
      'the loss: local, the share of tokens that the full model would not '
      'have chosen after the same text; rouge_l, 1 - ROUGE-L to its own '
      'continuation; same_place, the share of places with another token than '
      'that; or your own as module:function, of parameters such as ours, '
      'full, prompt, reference, ours_text (default: local)'
    ),
  )
  group.add_argument(
    '--method',
    choices=METHODS,
    default=METHODS[0],
    help=(
      'learn_then_test guarantees the risk with chance 1 - delta, conformal '
      'only on average (default: learn_then_test)'
    ),
  )
  group.add_argument(
    '--bound',
    choices=BOUNDS,
    default=BOUNDS[0],
    help='of learn_then_test (default: hoeffding_bentkus)',
  )


def _add_data(group: argparse._ArgumentGroup) -> None:
  group.add_argument(
    '--data',
    metavar='FILE',
    help=(
      'a text or .jsonl file, a folder or a glob, cut into prompts, or '
      "'stdlib', the standard library of this Python (default)"
    ),
  )
  text_flags.add_conversations(group)
  group.add_argument(
    '--search-data',
    metavar='FILE',
    help='search thresholds on another text (default: on a part of --data)',
  )
  group.add_argument(
    '--split',
    choices=('train', 'validation', 'test', 'all'),
    help='part of the text (default: validation of stdlib, all of a file)',
  )
  group.add_argument(
    '--unit',
    choices=('file', 'paragraph', 'line'),
    default='file',
    help='what one document of a text file is (default: file)',
  )
  numbers = (
    ('--sequences', 384, 'prompts certified on, at most'),
    ('--search-sequences', 96, 'prompts that thresholds are searched on'),
    ('--report-sequences', 16, 'prompts that speed is measured on'),
    ('--max-new-tokens', 64, 'tokens generated after it'),
    ('--seed', 0, 'of the choice of prompts'),
  )
  group.add_argument(
    '--prompt-tokens',
    type=int,
    metavar='N',
    help=(
      'tokens of a prompt (default: 32; of conversations at most what the '
      'context has room for, up to 512)'
    ),
  )
  for flag, default, words in numbers:
    group.add_argument(
      flag,
      type=int,
      default=default,
      metavar='N',
      help=f'{words} (default: {default})',
    )


def _read(args: argparse.Namespace) -> tuple[Any, Any]:
  """Return the text, and another one to search thresholds on or None."""
  from eejax.recipes.text import read_text

  source, unit = text_flags.source(args)
  read = functools.partial(read_text, split=args.split, unit=unit)
  return read(source), read(args.search_data) if args.search_data else None


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.cli import output, prompted_model
  from eejax.recipes.calibrate import run_calibration
  from eejax.recipes.calibration.decoded_texts import FILE
  from eejax.recipes.calibration.request import CalibrationRequest
  from eejax.recipes.calibration.result import CalibrationError

  args.criterion = args.criterion or gin_policy.read_criterion(args)
  names = [f.name for f in dataclasses.fields(CalibrationRequest)]
  request = CalibrationRequest(**{name: getattr(args, name) for name in names})
  path = storage.as_path(args.out)
  serialization.check_writable(path)
  mesh = mesh_flag.devices(args)
  model = prompted_model.open_model(args, mesh=mesh)
  text, search_text = _read(args)
  folder = None
  if not storage.is_remote(path):
    folder = path.with_name(f'.{path.name}.decoded')
  result = run_calibration(
    model,
    text,
    request,
    search_text=search_text,
    folder=folder,
    mesh=mesh,
    progress=output.reporter(),
  )
  output.show(f'{result}\n')
  try:
    policy = result.policy(allow_slower=args.allow_slower)
  except CalibrationError as error:
    raise output.NegativeResult(str(error), result.to_json()) from error
  policy.save(path)
  if folder is not None:
    # Nothing is left to resume.
    (folder / FILE).unlink(missing_ok=True)
    folder.rmdir()
  output.show(f'wrote {path}')
  return {**result.to_json(), 'out': path}
