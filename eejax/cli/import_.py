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
"""eejax import: a Hugging Face folder or t5x's becomes an eejax checkpoint."""

import argparse
from typing import Any

from eejax import storage

HELP = 'make an eejax checkpoint of a Hugging Face, GGUF or t5x model'
EXAMPLE = 'eejax import models/Llama-3.2-1B checkpoints/llama'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'source',
    metavar='SRC',
    help=(
      'a Hugging Face folder with safetensors, a name on the hub, a GGUF file '
      '(of several parts any), or a t5x checkpoint (checkpoint_STEP, or its '
      'run)'
    ),
  )
  parser.add_argument('dest', metavar='DEST', help='the folder to make')
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16', 'float16'),
    help='convert every array (default: each stays as it is stored)',
  )
  parser.add_argument(
    '--format',
    choices=('maxtext', 'gemma', 'ee-llm'),
    help=(
      "whose layout SRC has, where it is not recognised; gemma's is that of "
      'Llama-like models in its naming'
    ),
  )
  parser.add_argument(
    '--config',
    metavar='MODEL',
    help=(
      'what model a checkpoint of t5x, MaxText or gemma holds, where nothing '
      'beside it says so: a name of configs/models, a file like those, or a '
      'folder that says it; of EE-LLM, which vocabulary it has'
    ),
  )
  parser.add_argument(
    '--exits',
    metavar='SOURCE',
    help='exits made for this backbone: a folder, or a name on the hub',
  )
  parser.add_argument(
    '--overwrite',
    action='store_true',
    help='replace the checkpoint that is at DEST',
  )


def run(args: argparse.Namespace) -> dict[str, Any]:
  from eejax.checkpoint import exits_alone, folder, manifest
  from eejax.checkpoint.atomic import Existing, check_destination
  from eejax.cli import checkpoint_report, output

  existing = Existing.OVERWRITE if args.overwrite else Existing.REFUSE
  check_destination(args.dest, existing=existing, marker=manifest.NAME)
  timer = checkpoint_report.Timer()
  with output.waiting(f'importing {args.source}'):
    model = _read(args)
    if args.exits is not None:
      model = exits_alone.pull_exits(model, args.exits)
    folder.save(args.dest, model, dtype=args.dtype, existing=existing)
  report = checkpoint_report.describe(args.dest, timer=timer)
  output.show(checkpoint_report.summary(f'imported {args.source}', report))
  return {'source': args.source, **report}


def _read(args: argparse.Namespace) -> Any:
  """Return the model of a source, whatever it is."""
  from eejax.checkpoint import (
    fetched,
    folder,
    formats,
    gguf_file,
    gguf_import,
    huggingface,
    manifest,
    packaged,
    t5x_layout,
  )
  from eejax.cli import output
  from eejax.errors import ArgumentError
  from eejax.t5x_adapter import settings

  source = fetched.local_copy(args.source, progress=output.reporter())
  config = args.config
  if args.format is not None:
    return formats.map_folder(
      source, format=formats.CheckpointFormat(args.format), config=config
    )
  if t5x_layout.is_checkpoint(source):
    described = None if config is None else settings.early_exit_config(config)
    return t5x_layout.load(source, config=described)
  if config is not None:
    raise ArgumentError(
      f'{source} says itself what it is, or is no checkpoint of t5x; leave '
      'out --config.'
    )
  path = packaged.resolve(source, progress=output.reporter())
  if path != storage.local_path(source):
    if (path / manifest.NAME).is_file():
      return folder.load(path, layout=folder.Layout.UNSTACKED)
    source = path
  if gguf_file.is_gguf(path):
    return gguf_import.map_file(path)
  return huggingface.map_folder(source)
