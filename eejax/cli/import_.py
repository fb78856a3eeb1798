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
"""eejax import: a Hugging Face folder becomes an eejax checkpoint."""

import argparse
from typing import Any

HELP = 'make an eejax checkpoint of a Hugging Face model'
EXAMPLE = 'eejax import models/Llama-3.2-1B checkpoints/llama'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'source',
    metavar='SRC',
    help='a Hugging Face folder with safetensors, or a name on the hub',
  )
  parser.add_argument('dest', metavar='DEST', help='the folder to make')
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16', 'float16'),
    help='convert every array (default: each stays as it is stored)',
  )
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='replace the checkpoint that is at DEST',
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.checkpoint import folder, huggingface, manifest
  from eejax.checkpoint.atomic import Existing, check_destination
  from eejax.cli import checkpoint_report, output

  existing = Existing.OVERWRITE if args.overwrite else Existing.REFUSE
  check_destination(args.dest, existing=existing, marker=manifest.NAME)
  timer = checkpoint_report.Timer()
  with output.waiting(f'importing {args.source}'):
    model = huggingface.map_folder(args.source)
    folder.save(args.dest, model, dtype=args.dtype, existing=existing)
  report = checkpoint_report.describe(args.dest, timer=timer)
  output.show(checkpoint_report.summary(f'imported {args.source}', report))
  return {'source': args.source, **report}
