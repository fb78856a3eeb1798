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
"""The flags of a model and a text, for verbs that measure."""

import argparse


def add_arguments(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
  """Add the arguments that name a model and a text."""
  parser.add_argument(
    'checkpoint',
    metavar='CKPT',
    help='a checkpoint, a Hugging Face folder, a GGUF file, or smollm2',
  )
  group = parser.add_argument_group('text')
  group.add_argument(
    '--data',
    default='stdlib',
    metavar='FILE',
    help=(
      'a text or .jsonl file, a folder, a glob, seqio:TASK, tfds:NAME, or '
      "'stdlib', the standard library of this Python (default)"
    ),
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
  group.add_argument(
    '--max-tokens',
    type=int,
    default=max_tokens,
    metavar='N',
    help=f'tokens read, spread over the text (default: {max_tokens})',
  )
  group.add_argument(
    '--sequence-length',
    type=int,
    metavar='N',
    help="tokens in a row (default: 256, or the model's context if shorter)",
  )
  group.add_argument(
    '--batch-size', type=int, default=4, metavar='N', help='rows at a time'
  )
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32',
    help='what is computed in (default: float32)',
  )
