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

from eejax.errors import ArgumentError

STANDARD_LIBRARY = 'stdlib'
CONVERSATION = 'conversation'


def add_arguments(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
  """Add the arguments that name a model and a text."""
  parser.add_argument(
    'checkpoint',
    metavar='CKPT',
    help='a checkpoint, a Hugging Face folder, a GGUF file, smollm2 or default',
  )
  group = parser.add_argument_group('text')
  group.add_argument(
    '--data',
    metavar='FILE',
    help=(
      'a text or .jsonl file, a folder, a glob, seqio:TASK, tfds:NAME, or '
      "'stdlib', the standard library of this Python (default)"
    ),
  )
  add_conversations(group)
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


def add_conversations(group: argparse._ArgumentGroup) -> None:
  """Add the flag that names conversations in place of a text."""
  group.add_argument(
    '--conversations',
    metavar='FILE',
    help=(
      'in place of --data: JSON lines with messages, as generate --messages '
      "takes them; the assistant's turns count"
    ),
  )


def source(args: argparse.Namespace) -> tuple[str, str]:
  """Return where the text comes from, and what one document of it is.

  Raises:
    ArgumentError: there are a text and conversations.
  """
  if args.conversations is None:
    return args.data or STANDARD_LIBRARY, args.unit
  if args.data is not None:
    raise ArgumentError(
      '--data and --conversations both name what is read; give one of them.'
    )
  return args.conversations, CONVERSATION
